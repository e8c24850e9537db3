//! Which programs run, who feeds them, and what their lines mean.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result};
use lab::progress::Tasks;
use lab::root;
use lab::servers::Instance;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::tally::Tally;
use super::world::{Program, World};
use crate::shared;

/// Connections are lost after a silence of ten seconds.
const HEARTBEAT: &str = "?heartbeat=5";

/// The consumer in Python has a virtual host and a database of this name.
pub const PYTHON: &str = "test_python";
pub const PYTHON_CONSUMER: &str = "consumer in Python";
pub const PYTHON_FEED: &str = "request-orders for Python";

/// How many orders are sent at a time, and how often at most. Debug programs are slower, and share
/// the machine with other tests.
pub const ORDERS: u64 = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
pub const PYTHON_ORDERS: u64 = if cfg!(debug_assertions) { 100 } else { 500 };
const EVERY: Duration = Duration::from_secs(2);

/// How long a confirm may take, whatever is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lessons 3 and 4: who emits, with what besides the line, and who receives, with what.
#[rustfmt::skip] // a table
pub const LOGS: [(&str, &[&str], &str, &[&str]); 4] = [
    ("emit-log", &[], "receive-logs", &[]),
    ("emit-log-direct", &["error"], "receive-logs-direct", &["error"]),
    ("emit-log-topic", &["kern.error"], "receive-logs-topic", &["kern.*"]),
    ("emit-log-headers", &["level=error"], "receive-logs-headers", &["any", "level=error"]),
];

/// Lesson 9: who reads the stream over which protocol.
pub const READERS: [(&str, &str); 2] =
    [("read-events", "09 events, AMQP"), ("stream-read", "09 events, stream protocol")];

/// Lesson 11: where the mails are, in the folder of the run.
const MAILS: &str = "mails";

/// What a program is there for.
#[derive(Clone, Copy, PartialEq)]
pub enum Role {
    Send,
    Work,
    /// Receives the lines of one of [`LOGS`].
    Logs(usize),
    Store,
    Serve,
    Jobs,
    Answer,
    /// Reads the stream: one of [`READERS`].
    Read(usize),
    Mail,
    /// Goes on until Ctrl-C, and is to be the first to end.
    Publish,
    Count,
    /// To compare with.
    Other,
}

/// All programs. Those for Python are left out if its packages cannot be had.
pub fn programs(instance: &Instance, folder: &Path, tasks: &Tasks) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    let lesson = |name: &'static str, amqp_url: String, arguments: &[&str]| {
        let ports = instance.ports;
        let [admin, main] = [ports.admin, ports.main].map(|port| format!("127.0.0.1:{port}"));
        let file = name.split(' ').next().unwrap_or(name);
        // Those of a project of `cargo lab new`, to break them as ours.
        let others = env::var_os("LAB_PROGRAMS").map(|folder| Path::new(&folder).join(file));
        let ours = Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name(file);
        let mut command = Command::new(others.filter(|path| path.exists()).unwrap_or(ours));
        let urls = amqp_url.split(',').map(|url| format!("{url}{HEARTBEAT}"));
        command.args(arguments).env("AMQP_URL", urls.collect::<Vec<_>>().join(","));
        command.env("MYSQL_URL", instance.mysql_url());
        command.env("STREAM_URL", instance.stream_url());
        command.env("ADMIN_URL", format!("http://{admin}"));
        command.env("ADMIN_LISTEN", admin).env("MAIN_LISTEN", main);
        command.env("HEALTH_LISTEN", format!("127.0.0.1:{}", ports.health));
        command
    };
    let broken = &["--break-connection", "0.05"];
    let offset = folder.join("read-events.offset").display().to_string();
    let mails = folder.join(MAILS).display().to_string();
    let version = instance.management().version()?;
    let all = [
        ("new-task", Role::Send, &[][..]),
        ("worker 1", Role::Work, &[]),
        ("worker 2", Role::Work, &[]),
        ("request-orders", Role::Send, &[]),
        ("receive-orders 1", Role::Store, broken),
        ("receive-orders 2", Role::Store, broken),
        ("admin", Role::Serve, &["--users", "4000000000"]),
        ("main", Role::Serve, &[]),
        ("submit-job", Role::Send, &[]),
        ("submit-job --fails", Role::Send, &["--fails", "1"]),
        ("submit-job --unreadable", Role::Send, &["--unreadable"]),
        ("run-jobs 1", Role::Jobs, &[]),
        ("run-jobs 2", Role::Jobs, &["--at-once", "5"]),
        ("rpc-client", Role::Send, &["--timeout", "30"]),
        ("rpc-server 1", Role::Answer, &[]),
        ("rpc-server 2", Role::Answer, &[]),
        ("append-events", Role::Send, &[]),
        ("read-events", Role::Read(0), &["--store-every", "1", "--offset-file", &offset]),
        ("stream-read", Role::Read(1), &["--store-every", "1", "--name", "reader"]),
        ("submit-mail", Role::Send, &[]),
        ("mailer", Role::Mail, &["--folder", &mails]),
        ("publish-steadily", Role::Publish, &[]),
        ("count-steadily", Role::Count, &[]),
    ];
    let runs = |name: &str| match name {
        "publish-steadily" | "count-steadily" => instance.is_cluster(),
        "admin" | "main" => !instance.is_cluster(),
        "stream-read" => !instance.is_cluster() && version >= (3, 11), // as its client needs it
        name => !(name.starts_with("rpc-") && instance.is_cluster()),
    };
    for (name, role, arguments) in all.into_iter().filter(|program| runs(program.0)) {
        let command = lesson(name, instance.amqp_url(), arguments);
        programs.push(Program::new(name, role, command, folder)?);
    }
    if instance.is_cluster() {
        return Ok(programs);
    }
    for (index, (emit, emitted, receive, received)) in LOGS.into_iter().enumerate() {
        let command = lesson(emit, instance.amqp_url(), emitted);
        programs.push(Program::new(emit, Role::Send, command, folder)?);
        let command = lesson(receive, instance.amqp_url(), received);
        programs.push(Program::new(receive, Role::Logs(index), command, folder)?);
    }

    let url = instance.create_vhost(PYTHON)?;
    let packages = ["pika==1.3.2", "PyMySQL[rsa]==1.1.2"];
    match shared::python(Path::new(env!("CARGO_TARGET_TMPDIR")), &packages, tasks) {
        Err(error) => println!("There is no consumer in Python to compare with: {error:#}"),
        Ok(mut python) => {
            let command = lesson(PYTHON_FEED, url.clone(), &[]);
            programs.push(Program::new(PYTHON_FEED, Role::Send, command, folder)?);
            python.arg(root().join("lab/peers/seed_orders.py"));
            let port = instance.ports.mysql.to_string();
            python.args(["localhost", &port, PYTHON, "0.001"]);
            python.env("AMQP_URL", url + HEARTBEAT);
            programs.push(Program::new(PYTHON_CONSUMER, Role::Other, python, folder)?);
        }
    }
    Ok(programs)
}

impl World {
    /// Starts those who send, for as long as something is to be sent.
    pub fn send<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        let new_task = self.program("new-task")?;
        scope.spawn(|| self.send_tasks(new_task));
        let names = ["submit-job", "submit-job --fails", "submit-job --unreadable"];
        let submit: Result<Vec<_>> = names.iter().map(|name| self.program(name)).collect();
        let submit = submit?;
        scope.spawn(move || self.send_jobs(&submit));
        let request = self.program("request-orders")?;
        scope.spawn(|| self.send_orders(request, ORDERS));
        scope.spawn(|| self.send_bad_orders());
        let append = self.program("append-events")?;
        scope.spawn(|| self.append_events(append));
        let submit = self.program("submit-mail")?;
        scope.spawn(|| self.submit_mails(submit));
        if let Ok(publish) = self.program("publish-steadily") {
            scope.spawn(|| publish.supervise(self));
            return Ok(());
        }
        let emitters: Result<Vec<_>> = LOGS.iter().map(|logs| self.program(logs.0)).collect();
        let emitters = emitters?;
        scope.spawn(move || self.send_logs(&emitters));
        let client = self.program("rpc-client")?;
        scope.spawn(|| self.call(client));
        if let Ok(feed) = self.program(PYTHON_FEED) {
            scope.spawn(|| self.send_orders(feed, PYTHON_ORDERS));
        }
        for _ in 0..2 {
            scope.spawn(|| self.send_likes());
        }
        Ok(())
    }

    /// A task that may not have arrived is sent again, under a new number.
    fn send_tasks(&self, new_task: &Program) {
        for number in (0..).take_while(|_| self.sending()) {
            let work = if number % 40 == 0 { " ." } else { "" };
            let sent = new_task.send(self, &format!("{number}{work}")).0;
            if sent {
                self.tally().tasks.sent.insert(number);
            }
            pause(sent);
        }
    }

    /// As [`World::send_tasks`] does.
    fn append_events(&self, append: &Program) {
        for number in (0..).take_while(|_| self.sending()) {
            let sent = append.send(self, &number.to_string()).0;
            if sent {
                self.tally().events.sent.insert(number);
            }
            pause(sent);
        }
    }

    /// Each to a number.
    fn submit_mails(&self, submit: &Program) {
        for number in (0..).take_while(|_| self.sending()) {
            let sent = submit.send(self, &format!("{number}@example.org")).0;
            if sent {
                self.tally().mails.submitted.insert(number);
            }
            pause(sent);
        }
    }

    /// The numbers to which the mailer has sent mails.
    pub fn mails(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for file in fs::read_dir(self.folder.join(MAILS))? {
            let file = file?.path();
            // A mailer that was killed leaves a draft.
            if file.extension().is_some_and(|extension| extension == "eml") {
                let mail = fs::read_to_string(&file)?;
                let number = mail.strip_prefix("To: ").and_then(|mail| mail.split_once('@'));
                let number = number.and_then(|(number, _)| number.parse().ok());
                numbers.push(number.with_context(|| format!("not a mail: {}", file.display()))?);
            }
        }
        Ok(numbers)
    }

    fn send_logs(&self, emitters: &[&Program]) {
        for number in (0..).take_while(|_| self.sending()) {
            for (emit, index) in emitters.iter().zip(0..) {
                let sent = emit.send(self, &number.to_string()).0;
                if sent {
                    self.tally().logs[index].sent.insert(number);
                }
                pause(sent);
            }
        }
    }

    /// Of three jobs one fails at first, and one cannot be read.
    fn send_jobs(&self, submit: &[&Program]) {
        for number in (0..).take_while(|_| self.sending()) {
            let kind = number as usize % 3;
            let job = if kind == 2 { format!("bad {number}") } else { number.to_string() };
            let sent = submit[kind].send(self, &job).0;
            if sent {
                let jobs = &mut self.tally().jobs;
                if kind == 2 { &mut jobs.bad } else { &mut jobs.sent }.insert(number);
            }
            pause(sent);
        }
    }

    /// A call ends with its answer or with an error. (One that does not end is a program that
    /// hangs.)
    fn call(&self, client: &Program) {
        while self.sending() {
            let number = fastrand::usize(..25);
            let (mut fib, mut next) = (0_u64, 1);
            for _ in 0..number {
                (fib, next) = (next, fib + next);
            }
            let (answered, last) = client.send(self, &number.to_string());
            let calls = &mut self.tally().calls;
            calls.sent += 1;
            match last.strip_prefix(" [.] Got ").map(str::parse::<u64>) {
                Some(Ok(got)) if answered && got == fib => calls.answered += 1,
                _ if answered => calls.wrong.push(format!("fib({number}): {last}")),
                _ => {} // the error says so
            }
            pause(answered);
        }
    }

    fn send_orders(&self, request: &Program, users: u64) {
        while self.sending() {
            let begin = Instant::now();
            // Python gets no more than it can take.
            let queue = format!("queues/{PYTHON}/orders");
            let queue = (users == PYTHON_ORDERS).then(|| self.instance.management().get(&queue));
            let takes = |queue: Value| queue["messages"].as_u64() <= Some(4 * users);
            if queue.is_none_or(|queue| queue.is_ok_and(takes)) {
                self.send_some_orders(request, users);
            }
            pause(false);
            thread::sleep(EVERY.saturating_sub(begin.elapsed()));
        }
    }

    /// Declares the queue, too.
    pub fn send_some_orders(&self, request: &Program, users: u64) {
        let (sent, line) = request.send(self, &users.to_string());
        let mut tally = self.tally();
        if sent {
            let orders = match users {
                PYTHON_ORDERS => &mut tally.python,
                _ => &mut tally.orders,
            };
            orders.sent += users;
            orders.rounds += 1;
        } else if line.starts_with("Error: ")
            && !line.starts_with("Error: cannot connect")
            && !line.contains("ACCESS_REFUSED")
        {
            // Those two are said at the start only, before any order is sent. Of any other, nobody
            // knows which of the orders have arrived.
            let wrong = format!("{} gave up: {line}", request.name);
            tally.wrong.push(wrong);
        }
    }

    /// Orders without a message id, which nobody can store.
    fn send_bad_orders(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut numbers = 0..;
        while self.sending() {
            let _ = runtime.block_on(self.send_bad_orders_over_a_connection(&mut numbers));
            pause(false);
        }
    }

    async fn send_bad_orders_over_a_connection(
        &self,
        numbers: &mut impl Iterator<Item = u64>,
    ) -> Result<()> {
        let url = self.one_address() + HEARTBEAT;
        let connect = Connection::connect(&url, ConnectionProperties::default());
        let connection = timeout(PATIENCE, connect).await??;
        let channel = timeout(PATIENCE, connection.create_channel()).await??;
        timeout(PATIENCE, channel.confirm_select(ConfirmSelectOptions::default())).await??;
        for number in numbers.take_while(|_| self.sending()) {
            let body = format!("bad {number}");
            let publish = channel.basic_publish(
                "".into(),
                "orders".into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            );
            if timeout(PATIENCE, timeout(PATIENCE, publish).await??).await??.is_ack() {
                self.tally().bad.insert(number);
            }
            sleep(EVERY / 4).await;
        }
        Ok(connection.close(200, "Goodbye".into()).await?)
    }

    /// The bodies of the messages in a queue, which is empty then.
    pub fn bodies(&self, queue: &str) -> Result<Vec<String>> {
        self.runtime.block_on(async {
            let url = self.one_address();
            let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            let mut bodies = Vec::new();
            let options = BasicGetOptions { no_ack: true };
            while let Some(message) = channel.basic_get(queue.into(), options).await? {
                bodies.push(String::from_utf8_lossy(&message.data).into_owned());
            }
            connection.close(200, "Goodbye".into()).await?;
            Ok(bodies)
        })
    }

    fn send_likes(&self) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)));
        let agent = ureq::Agent::new_with_config(agent.build());
        let port = self.instance.ports.main;
        let main = self.programs.iter().find(|program| program.name == "main");
        while self.sending() {
            let product = fastrand::u32(1..=3);
            let url = format!("http://127.0.0.1:{port}/api/products/{product}/like");
            let answer = agent.post(url).send_empty().and_then(|mut answer| {
                let text = answer.body_mut().read_to_string()?;
                Ok((answer.status().as_u16(), text))
            });
            let mut tally = self.tally();
            let answered = matches!(answer, Ok((200, _)));
            match answer {
                Ok((200, _)) => tally.likes.answered += 1,
                // Its transaction may be committed, and only what MySQL said of it be lost.
                Ok((503, text)) if text.contains("the database") => tally.likes.unsure += 1,
                // admin is away; this user likes it already; main has not heard of the product yet
                Ok((503 | 400 | 404, _)) => {}
                Ok(other) => tally.wrong.push(format!("a like was answered {other:?}")),
                Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(_) => tally.likes.unsure += 1,
            }
            drop(tally);
            main.inspect(|main| _ = main.worked.fetch_or(answered, Relaxed));
            pause(answered);
        }
    }
}

/// Before the next one: a moment, or longer if something is broken, or for the other tests.
fn pause(sent: bool) {
    let milliseconds = match sent {
        _ if cfg!(debug_assertions) => 500,
        true => 50,
        false => 200,
    };
    thread::sleep(Duration::from_millis(milliseconds));
}

impl Role {
    /// Whether it ends when nothing more is to be sent.
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Publish)
    }

    /// Counts what a program says that it has received. `None`: it has ended. `task` is what a
    /// worker has in hand.
    pub fn hear(self, tally: &mut Tally, task: &mut Option<u64>, line: Option<&str>) {
        let received = line.and_then(|line| line.strip_prefix(" [x] Received "));
        match (self, line) {
            (Self::Logs(index), Some(line)) => {
                let epochs = &mut tally.logs[index].epochs;
                if line.starts_with(" [*] Waiting") {
                    epochs.push(Vec::new()); // with a new queue
                }
                let number: Option<u64> =
                    received.and_then(|text| text.rsplit(' ').next()?.parse().ok());
                if let Some(epoch) = epochs.last_mut() {
                    epoch.extend(number);
                }
            }
            (Self::Work, _) => {
                let tasks = &mut tally.tasks.received;
                if let Some(text) = received {
                    *task = text.split(' ').next().and_then(|text| text.parse().ok());
                    let entry = tasks.entry(task.unwrap_or_default()).or_default();
                    match text.ends_with("(redelivered)") {
                        true => entry.again += 1,
                        false => entry.new += 1,
                    }
                } else if line.is_none_or(|line| line == " [x] Done" || line.contains("Lost"))
                    && let Some(number) = task.take()
                {
                    tasks.entry(number).or_default().done = true;
                }
            }
            // an offset and its event: [x] 12: 34
            (Self::Read(index), Some(line)) => {
                let event = line.strip_prefix(" [x] ").and_then(|line| line.split_once(": "));
                if let Some((Ok(offset), Ok(number))) =
                    event.map(|(offset, number)| (offset.parse(), number.parse()))
                {
                    let offsets = tally.events.read[index].entry(number).or_default();
                    *offsets.entry(offset).or_default() += 1;
                }
            }
            (Self::Mail, Some(line)) => {
                tally.mails.known += u64::from(line.starts_with(" [x] Sent already: "));
            }
            (Self::Jobs, Some(line)) => {
                let job = line.strip_prefix(" [x] ").and_then(|line| line.split_once(": done "));
                if let Some(number) = job.and_then(|(name, _)| name.parse().ok()) {
                    *tally.jobs.done.entry(number).or_default() += 1;
                }
            }
            // the last line: Confirmed: 1000, published again: 2, longest gap: 1.5 s
            (Self::Publish, Some(line)) => {
                if let Some(numbers) = line.strip_prefix(" [*] Confirmed: ") {
                    let number = numbers.split(',').next().and_then(|text| text.parse().ok());
                    tally.steady.confirmed += number.unwrap_or(0);
                }
            }
            // the last line: Received: 1002, twice: 2, missing: 0, longest gap: 1.5 s
            (Self::Count, Some(line)) => {
                if let Some(numbers) = line.strip_prefix(" [*] Received: ") {
                    let words = numbers.split([',', ' ']).filter_map(|word| word.parse().ok());
                    let [received, twice, missing, ..] = words.collect::<Vec<u64>>()[..] else {
                        return;
                    };
                    tally.steady.received += received - twice;
                    tally.steady.twice += twice;
                    tally.steady.missing += missing;
                }
            }
            (Self::Store, Some(line)) => {
                let known = line.split_once(" (in the table already: ");
                let known = known.and_then(|(_, known)| known.strip_suffix(')')?.parse().ok());
                tally.orders.known += known.unwrap_or(0);
            }
            _ => {}
        }
    }
}
