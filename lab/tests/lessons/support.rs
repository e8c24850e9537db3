//! Servers, programs and queues for the tests.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;
use std::{env, fs, thread};

use lab::guard::Guard;
use lab::play::INSTANCE;
use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::{Backend, Certificate, Instance, Service};
use lab::terminal;
use lab::url::Url;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use mysql_async::prelude::Queryable;
use rustix::process::Signal;
use uuid::Uuid;

pub const WAITING: &str = " [*] Waiting for messages. To exit press CTRL+C";
pub const INTERNAL: &str = " [!] RabbitMQ has met an internal error: its log says more";
pub const DOWN: &str = " [!] A queue is down. Reconnecting ...";
pub const LOST: &str = " [!] Lost the connection to RabbitMQ. Reconnecting ...";
pub const AGAIN: &str = " [!] Connected again";
/// No arguments.
pub const NONE: [&str; 0] = [];

/// How long anything may take that takes milliseconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(120);

pub fn lab() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lab"))
}

/// A new folder, which goes with this value.
pub struct Folder(PathBuf);

impl Folder {
    /// Among the temporary files.
    pub fn temporary() -> Self {
        Self::within(&env::temp_dir())
    }

    /// On the disk of what is compiled, for what is large, or linked from there.
    pub fn beside_target() -> Self {
        Self::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    fn within(parent: &Path) -> Self {
        let folder = parent.join(format!("rabbitmq-course-{}", Uuid::now_v7()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ends the programs that the tests have started, however the tests end.
static PROGRAMS: LazyLock<Guard> = LazyLock::new(|| {
    let folder = Instance::temporary_folder();
    Guard::over(lab(), &folder).unwrap()
});

/// What runs the servers: as `cargo lab test` has chosen, or as it would.
static BACKEND: LazyLock<Backend> = LazyLock::new(|| {
    let backend = match env::var_os(INSTANCE) {
        Some(folder) => Instance::load(Path::new(&folder)).unwrap().backend,
        None => Backend::choose(&Tasks::quiet()).unwrap(),
    };
    assert!(
        backend == Backend::Docker || Service::all_installed(),
        "RabbitMQ and MySQL are not installed: run `cargo lab test`, which installs them"
    );
    backend
});

/// Servers of a test of its own, which may break them.
pub struct Servers {
    pub instance: Instance,
    guard: Guard,
}

impl Servers {
    pub fn start(services: &[Service]) -> Self {
        Self::start_as(services, |instance| instance)
    }

    /// RabbitMQ with TLS.
    pub fn start_with(certificate: Certificate) -> Self {
        Self::start_as(&[Service::Rabbitmq], |mut instance| {
            instance.certificate = Some(certificate);
            instance
        })
    }

    /// RabbitMQ as a cluster.
    pub fn start_cluster() -> Self {
        Self::start_as(&[Service::Rabbitmq], |instance| instance.with_nodes().unwrap())
    }

    fn start_as(services: &[Service], change: impl FnOnce(Instance) -> Instance) -> Self {
        let folder = Instance::temporary_folder();
        let guard = Guard::over(lab(), &folder).unwrap();
        let instance = change(Instance::temporary(folder, *BACKEND).unwrap());
        STREAM_PORTS.lock().unwrap().insert(instance.ports.amqp, instance.ports.stream);
        instance.start(services, &Tasks::quiet()).unwrap();
        Self { instance, guard }
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Ends the process that a quorum queue has in RabbitMQ.
    pub fn stop_queue(&self, queue: &str) {
        let call = format!("ra:stop_server(quorum_queues, {{'%2F_{queue}', node()}}).");
        let mut eval = self.instance.rabbitmqctl().unwrap();
        assert!(eval.args(["-q", "eval", &call]).status().unwrap().success());
    }

    pub fn log(&self) -> String {
        self.instance.log(Service::Rabbitmq)
    }
}

/// The servers that all tests share: those of `cargo lab test`, or our own.
pub fn shared() -> &'static Instance {
    static SHARED: LazyLock<(Instance, Option<Servers>)> =
        LazyLock::new(|| match env::var_os(INSTANCE) {
            Some(folder) => (Instance::load(Path::new(&folder)).unwrap(), None),
            None => {
                let servers = Servers::start(&Service::ALL);
                (servers.instance.clone(), Some(servers))
            }
        });
    &SHARED.0
}

/// Where the brokers of tests speak the stream protocol, by their port for AMQP.
static STREAM_PORTS: Mutex<BTreeMap<u16, u16>> = Mutex::new(BTreeMap::new());

/// The same broker and virtual host, for the stream protocol.
pub fn stream_url(amqp_url: &str) -> Option<String> {
    let amqp = Url::parse(amqp_url)?.port;
    let shared = (shared().ports.amqp == amqp).then(|| shared().ports.stream);
    let stream = shared.or_else(|| STREAM_PORTS.lock().unwrap().get(&amqp).copied())?;
    let url = amqp_url.replacen("amqp://", "rabbitmq-stream://", 1);
    Some(url.replacen(&format!(":{amqp}/"), &format!(":{stream}/"), 1))
}

/// A virtual host of the shared broker for one test: its URL.
pub fn vhost(name: &str) -> String {
    shared().create_vhost(name).unwrap()
}

/// A database of the shared MySQL for one test, empty: its URL.
pub async fn database(name: &str) -> String {
    let mut connection = mysql_async::Conn::from_url(shared().mysql_url()).await.unwrap();
    for statement in
        [format!("DROP DATABASE IF EXISTS test_{name}"), format!("CREATE DATABASE test_{name}")]
    {
        connection.query_drop(statement).await.unwrap();
    }
    connection.disconnect().await.unwrap();
    shared().mysql_url().replace("/test", &format!("/test_{name}"))
}

/// Gives the user of this MySQL a new password: the new URL. Connections that are there stay.
pub async fn change_password(url: &str, password: &str) -> String {
    let mut connection = mysql_async::Conn::from_url(url).await.unwrap();
    let mysql = format!("SET PASSWORD = '{password}'");
    let mariadb = format!("SET PASSWORD = PASSWORD('{password}')");
    if connection.query_drop(mysql).await.is_err() {
        connection.query_drop(mariadb).await.unwrap();
    }
    connection.disconnect().await.unwrap();
    let old = mysql_async::Opts::from_url(url).unwrap();
    url.replacen(&format!(":{}@", old.pass().unwrap()), &format!(":{password}@"), 1)
}

/// Ends all other connections of the user of this MySQL.
pub async fn end_connections(url: &str) {
    let mut connection = mysql_async::Conn::from_url(url).await.unwrap();
    let id = |row: mysql_async::Row| row.get::<u32, _>("Id").unwrap();
    let ids = connection.query_map("SHOW PROCESSLIST", id).await.unwrap();
    let own = connection.id();
    for id in ids.into_iter().filter(|id| *id != own) {
        let _ = connection.query_drop(format!("KILL {id}")).await; // it may be gone already
    }
    connection.disconnect().await.unwrap();
}

/// What makes a MySQL refuse statements that are right, and what ends that; not all servers know
/// all of it.
pub async fn refusals(operator: &mut mysql_async::Conn, database: &str) -> Vec<[String; 2]> {
    // MariaDB before 11.1 has an older name for it
    let name = "SHOW GLOBAL VARIABLES WHERE variable_name IN
        ('transaction_read_only', 'tx_read_only')";
    let (name, _): (String, String) = operator.query_first(name).await.unwrap().unwrap();
    let [set, alter] = ["SET GLOBAL".to_owned(), format!("ALTER DATABASE {database} READ ONLY")];
    vec![
        [format!("{set} {name} = 1"), format!("{set} {name} = 0")],
        [
            format!("{set} max_prepared_stmt_count = 0"),
            format!("{set} max_prepared_stmt_count = 16382"),
        ],
        [format!("{alter} = 1"), format!("{alter} = 0")], // MySQL since 8.0.22
    ]
}

/// `rabbitmqctl` with these arguments, which must succeed.
pub fn rabbitmqctl(servers: &Instance, arguments: &[&str]) -> String {
    let mut command = servers.rabbitmqctl().unwrap();
    let output = command.arg("-q").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What MySQL answers to this statement.
pub fn mysql(servers: &Instance, statement: &str) -> String {
    let url = Url::parse(&servers.mysql_url()).unwrap();
    let mut command = servers.mysql(&url).expect("a client of MySQL");
    let output = command.args(["-N", "-B", "-e", statement]).output().unwrap();
    assert!(output.status.success(), "{statement}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Waits until a queue in a virtual host of [`vhost`] holds that many messages, delivered or not.
pub fn wait_for_messages(url: &str, queue: &str, count: u32) {
    let vhost = url.rsplit('/').next().unwrap();
    let path = format!("queues/{vhost}/{queue}");
    wait_until(LIMIT, || shared().management().get(&path).unwrap()["messages"] == count).unwrap();
}

/// Waits until at least that many orders wait. Asked over AMQP: of a quorum queue, the management
/// plugin knows only every five seconds.
pub fn wait_for_orders(url: &str, least: u32) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = Client::of_orders(url).await;
        client.wait_until_waiting(least..=u32::MAX).await;
        client.close().await;
    });
}

/// The names of the queues in a virtual host of [`vhost`], in their order.
pub fn queues(url: &str) -> Vec<String> {
    let vhost = url.rsplit('/').next().unwrap();
    let queues = shared().management().get(&format!("queues/{vhost}")).unwrap();
    let names = queues.as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|queue| queue["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A RabbitMQ that tests may stop and kill, with the queues `hello` and `task_queue`, both empty;
/// one test at a time. There are two of them, so that most tests need not wait for others.
pub fn breakable() -> MutexGuard<'static, Servers> {
    fn start() -> Mutex<Servers> {
        let servers = Servers::start(&[Service::Rabbitmq]);
        let url = servers.instance.amqp_url();
        for program in ["receive-get", "new-task"] {
            // RabbitMQ 3.10 that has just started, on a busy machine: INTERNAL_ERROR
            wait_until(LIMIT, || output(program, &NONE, &url).1 == Some(0)).unwrap();
        }
        // RabbitMQ writes the name of a new quorum queue to disk half a second after it was
        // declared. Killed before, it has an empty queue of that name afterwards, or one that never
        // answers (seen with 3.10.8 and 4.3.6). Nothing tells when it is written.
        thread::sleep(Duration::from_secs(1));
        Mutex::new(servers)
    }
    static BREAKABLE: [LazyLock<Mutex<Servers>>; 2] = [const { LazyLock::new(start) }; 2];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = &BREAKABLE[NEXT.fetch_add(1, Ordering::Relaxed) % 2];
    let servers = next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // whatever the test before has left
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    lines("receive-until-idle", &["0.2"], &servers.instance.amqp_url());
    for queue in ["task_queue", "orders"] {
        // some tests leave orders
        let contents = format!("queues/%2f/{queue}/contents");
        let management = servers.instance.management();
        wait_until(LIMIT, || management.delete(&contents).is_ok()).unwrap();
    }
    servers
}

/// An address where nobody listens.
pub fn free_address() -> String {
    let [address] = free_addresses();
    address
}

/// Several of them.
pub fn free_addresses<const N: usize>() -> [String; N] {
    let sockets = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.each_ref().map(|socket| socket.local_addr().unwrap().to_string())
}

/// The status code and the body of an answer over HTTP.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build();
    let mut answer = config.new_agent().get(format!("http://{address}{path}")).call().unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

/// The program of a lesson, compiled.
pub fn program(name: &str) -> PathBuf {
    static BUILD: LazyLock<()> =
        LazyLock::new(|| crate::shared::compile_lessons(&Tasks::quiet()).unwrap());
    LazyLock::force(&BUILD);
    lab().with_file_name(name)
}

/// A program in a terminal of its own.
pub struct Terminal(terminal::Terminal<'static>);

impl Terminal {
    /// Starts a program of a lesson with this broker and this database.
    pub fn run_with<S: AsRef<OsStr>>(name: &str, arguments: &[S], urls: (&str, &str)) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments).env("AMQP_URL", urls.0).env("MYSQL_URL", urls.1);
        command.envs(stream_url(urls.0).map(|url| ("STREAM_URL", url)));
        Self::start(command)
    }

    /// Starts a program of a lesson with this broker.
    pub fn run<S: AsRef<OsStr>>(name: &str, arguments: &[S], amqp_url: &str) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments).env("AMQP_URL", amqp_url);
        command.envs(stream_url(amqp_url).map(|url| ("STREAM_URL", url)));
        Self::start(command)
    }

    pub fn start(command: Command) -> Self {
        Self(terminal::Terminal::start(command, &PROGRAMS).unwrap())
    }

    /// The next line; `None` at the end of the program.
    pub fn line(&self) -> Option<String> {
        match self.0.line(LIMIT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {LIMIT:?}"),
        }
    }

    /// The next line, unless it does not come in this time or the program has ended.
    pub fn line_within(&self, limit: Duration) -> Option<String> {
        self.0.line(limit).ok()
    }

    /// Expects this line. Before it, RabbitMQ 3.10 may have been too busy for a new queue.
    pub fn expect(&self, expected: &str) {
        let mut line = self.line();
        while let Some(why @ (INTERNAL | DOWN)) = line.as_deref()
            && why != expected
        {
            if why == INTERNAL {
                assert_eq!(self.line().as_deref(), Some(LOST));
            }
            assert_eq!(self.line().as_deref(), Some(AGAIN));
            line = self.line();
        }
        assert_eq!(line.as_deref(), Some(expected));
    }

    /// Expects that it says it is waiting in a queue of its own: the name of the queue.
    pub fn expect_queue(&self) -> String {
        let line = self.line().unwrap();
        let name = line
            .strip_prefix(" [*] Waiting for logs in the queue ")
            .and_then(|rest| rest.strip_suffix(". To exit press CTRL+C"));
        name.unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal).unwrap();
    }

    /// How many threads it has; nothing where the system does not say.
    pub fn threads(&self) -> Option<usize> {
        let threads =
            fs::read_dir(format!("/proc/{}/task", self.0.group().as_raw_nonzero())).ok()?;
        Some(threads.count())
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.has_ended()
    }

    /// The lines that are left, and how it ended.
    pub fn finish(mut self) -> (Vec<String>, ExitStatus) {
        let lines = std::iter::from_fn(|| self.line()).collect();
        (lines, self.0.wait(LIMIT).unwrap())
    }

    /// Ctrl-C: it must end with exit code 0, and say nothing more than what it has done.
    pub fn stop(self) {
        self.signal(Signal::INT);
        let (lines, status) = self.finish();
        assert_eq!(status.code(), Some(0), "{status}");
        let done = [
            "Tasks done",
            "Orders stored",
            "Jobs done",
            "Requests answered",
            "Received",
            "Events read",
            "Mails sent",
        ];
        let done = done.map(|done| format!(" [*] {done}: "));
        // `count-steadily` says each second how it goes
        let is_done = |line: &String| {
            done.iter().any(|done| line.starts_with(done)) || line.starts_with(" [x] Received: ")
        };
        assert!(lines.iter().all(is_done), "{lines:#?}");
    }

    /// Ctrl-C: it must end with exit code 0, and say nothing more.
    pub fn interrupt(self) {
        self.signal(Signal::INT);
        let (lines, status) = self.finish();
        assert_eq!(lines, [""; 0]);
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

/// Runs a program of a lesson to its end: its lines and its exit code. Once more, if RabbitMQ 3.10
/// was too busy for a new queue: then nothing was done.
pub fn output<S: AsRef<OsStr>>(
    name: &str,
    arguments: &[S],
    amqp_url: &str,
) -> (Vec<String>, Option<i32>) {
    let start = std::time::Instant::now();
    loop {
        let (lines, status) = Terminal::run(name, arguments, amqp_url).finish();
        let undeclared = |line: &String| line.starts_with("Error: cannot declare the queue ");
        match lines.as_slice() {
            [line]
                if undeclared(line)
                    && line.ends_with(" INTERNAL_ERROR")
                    && start.elapsed() < LIMIT => {}
            _ => return (lines, status.code()),
        }
    }
}

/// Runs a program of a lesson that must succeed: its lines.
pub fn lines<S: AsRef<OsStr>>(name: &str, arguments: &[S], amqp_url: &str) -> Vec<String> {
    let (lines, code) = output(name, arguments, amqp_url);
    assert_eq!(code, Some(0), "{lines:#?}");
    lines
}

/// A test's own view of the broker and of one quorum queue, to check what the programs have done.
pub struct Client {
    connection: Connection,
    pub channel: Channel,
    queue: ShortString,
}

impl Client {
    /// With the queue `hello`.
    pub async fn connect(url: &str) -> Self {
        Self::connect_with(url, "hello").await
    }

    /// With the queue `task_queue`.
    pub async fn of_tasks(url: &str) -> Self {
        let client = Self::connect_with(url, "task_queue").await;
        client.declare().await;
        client
    }

    /// With the queue `orders`, which the programs of lesson 5 must have declared.
    pub async fn of_orders(url: &str) -> Self {
        Self::connect_with(url, "orders").await
    }

    /// With the queue `orders.dead`.
    pub async fn of_dead_orders(url: &str) -> Self {
        Self::connect_with(url, "orders.dead").await
    }

    /// With a queue that is there, or that is declared later.
    pub async fn connect_with(url: &str, queue: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel, queue: queue.into() }
    }

    /// Declares the queue as its lesson does.
    pub async fn declare(&self) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        self.channel
            .queue_declare(self.queue.clone(), QueueDeclareOptions::durable(), arguments)
            .await
            .unwrap();
    }

    pub async fn publish(&self, body: &[u8]) {
        let confirm = self.send(body).await;
        assert!(confirm.await.unwrap().is_ack());
    }

    pub async fn publish_with(&self, body: &[u8], properties: BasicProperties) {
        let confirm = self.send_with(body, properties).await;
        assert!(confirm.await.unwrap().is_ack());
    }

    /// Publishes without waiting for the confirm.
    pub async fn send(&self, body: &[u8]) -> lapin::PublisherConfirm {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        self.send_with(body, persistent).await
    }

    pub async fn send_with(
        &self,
        body: &[u8],
        properties: BasicProperties,
    ) -> lapin::PublisherConfirm {
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish("".into(), self.queue.clone(), options, body, properties)
            .await
            .unwrap()
    }

    /// Takes the next message of the queue, as soon as there is one.
    pub async fn wait_for_message(&self) -> BasicGetMessage {
        let start = std::time::Instant::now();
        let no_ack = BasicGetOptions { no_ack: true };
        loop {
            let got = self.channel.basic_get(self.queue.clone(), no_ack).await.unwrap();
            if let Some(message) = got {
                return message;
            }
            assert!(start.elapsed() < LIMIT, "no message in {}", self.queue);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many messages of the queue wait to be delivered.
    pub async fn waiting(&self) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let queue = self
            .channel
            .queue_declare(self.queue.clone(), passive, FieldTable::default())
            .await
            .unwrap();
        queue.message_count()
    }

    /// Waits until that many messages of the queue wait to be delivered.
    pub async fn wait_for_waiting(&self, count: u32) {
        self.wait_until_waiting(count..=count).await;
    }

    async fn wait_until_waiting(&self, expected: RangeInclusive<u32>) {
        let start = std::time::Instant::now();
        loop {
            let waiting = self.waiting().await;
            if expected.contains(&waiting) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{waiting} messages wait instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn close(self) {
        self.connection.close(200, "Goodbye".into()).await.unwrap();
    }
}
