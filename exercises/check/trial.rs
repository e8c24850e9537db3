//! What every check needs: the program in a process of its own, a connection, queues counted.

use std::env;
use std::io::{BufRead, BufReader, pipe};
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::address::mysql_url;
use common::printable;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Queue};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

/// How long anything may take that takes milliseconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(8);

/// How long nothing has to come until we believe that nothing will: when more should come, and
/// when all has come.
pub const WHILE: Duration = Duration::from_millis(1500);
const MOMENT: Duration = Duration::from_millis(300);

/// The program that is checked, the broker, and the database.
pub struct Trial {
    program: PathBuf,
    database: Option<Database>,
    _connection: Connection, // dropped, it closes the channel
    pub channel: Channel,
}

impl Trial {
    pub async fn new(program: PathBuf) -> Result<Self> {
        let properties = ConnectionProperties::default().with_connection_name("the check".into());
        let url = env::var("AMQP_URL").context("AMQP_URL is not set")?;
        let connection = Connection::connect(&url, properties).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { program, database: None, _connection: connection, channel })
    }

    /// The same with a database, which is empty.
    pub async fn with_database(self) -> Result<Self> {
        Ok(Self { database: Some(Database::create().await?), ..self })
    }

    pub fn database(&self) -> Result<&Database> {
        self.database.as_ref().context("this check has no database")
    }

    /// The same program, after the broker was restarted.
    pub async fn again(self) -> Result<Self> {
        Self::new(self.program).await
    }

    /// Starts the program.
    pub fn start(&self, arguments: &[&str]) -> Result<Program> {
        self.start_with(arguments, &[])
    }

    /// Starts the program with other values of `AMQP_URL` or `MYSQL_URL`.
    pub fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Program> {
        let mut command = Command::new(&self.program);
        if let Some(database) = &self.database {
            command.env("MYSQL_URL", &database.url);
        }
        command.envs(variables.iter().copied());
        let (reader, writer) = pipe()?;
        command.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn().context("the program cannot be started")?;
        drop(command); // and with it our own ends of the pipe
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(printable(&line).to_string());
            }
        });
        Ok(Program { child, lines })
    }

    /// Starts the program, and waits until it says that it is ready.
    pub fn start_ready(&self, arguments: &[&str]) -> Result<Program> {
        let program = self.start(arguments)?;
        program.says("[*] Waiting")?;
        Ok(program)
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Ran> {
        self.start(arguments)?.ends()
    }

    /// A queue as the lessons have it: durable, and of the type quorum.
    pub async fn declare(&self, queue: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions::durable();
        self.channel.queue_declare(queue.into(), durable, arguments).await?;
        Ok(())
    }

    /// Publishes these messages, each under that routing key.
    pub async fn publish(&self, exchange: &str, key: &str, messages: &[String]) -> Result<()> {
        for message in messages {
            self.publish_with(exchange, key, message, BasicProperties::default()).await?;
        }
        Ok(())
    }

    /// Publishes a message with these properties. A queue of ours has it afterwards; those behind
    /// an exchange are the program's.
    pub async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        message: &str,
        properties: BasicProperties,
    ) -> Result<()> {
        let taken = self.offer(exchange, key, message, properties).await?;
        ensure!(taken || !exchange.is_empty(), "the broker takes no message");
        Ok(())
    }

    /// The same for a queue of the program. If it ends at this moment, its queue may go with the
    /// message in it, and the broker confirms with a nack (seen with RabbitMQ 4.3): false.
    pub async fn offer(
        &self,
        exchange: &str,
        key: &str,
        message: &str,
        properties: BasicProperties,
    ) -> Result<bool> {
        let (exchange, key) = (exchange.into(), key.into());
        let (options, properties) =
            (BasicPublishOptions::default(), properties.with_delivery_mode(2));
        let body = message.as_bytes();
        let published = self.channel.basic_publish(exchange, key, options, body, properties);
        let confirmation = published.await?.await?;
        Ok(matches!(confirmation, Confirmation::Ack(_)))
    }

    /// How many messages wait in a queue, and how many consumers it has.
    pub async fn state(&self, queue: &str) -> Result<Queue> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let state = self.channel.queue_declare(queue.into(), passive, FieldTable::default());
        match state.await {
            Err(error) if error.to_string().contains("NOT-FOUND") => {
                bail!("there is no queue `{queue}`")
            }
            state => Ok(state?),
        }
    }

    /// Takes one message out of a queue.
    pub async fn take(&self, queue: &str) -> Result<Option<String>> {
        let no_ack = BasicGetOptions { no_ack: true };
        let message = self.channel.basic_get(queue.into(), no_ack).await?;
        Ok(message.map(|message| printable(&message.data).to_string()))
    }

    /// Takes all messages out of a queue, once its consumers are gone and have given back theirs.
    pub async fn take_all(&self, queue: &str) -> Result<Vec<String>> {
        let start = Instant::now();
        while self.state(queue).await?.consumer_count() > 0 {
            ensure!(start.elapsed() < LIMIT, "the queue `{queue}` has a consumer that stays");
            sleep(Duration::from_millis(20)).await;
        }
        let mut messages = Vec::new();
        while let Some(message) = self.take(queue).await? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// The program while it runs. Dropped, it is killed.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
}

/// How it ended, and what it said.
pub struct Ran {
    pub lines: Vec<String>,
    pub status: ExitStatus,
}

impl Program {
    /// Waits for a line that begins so: the rest of it.
    ///
    /// # Errors
    ///
    /// It does not come, or the program ends: what it said last.
    pub fn says(&self, begin: &str) -> Result<String> {
        let start = Instant::now();
        let mut last = None;
        loop {
            match self.lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
                Ok(line) => match line.trim_start().strip_prefix(begin) {
                    Some(rest) => return Ok(rest.trim().to_owned()),
                    None => last = Some(line),
                },
                Err(error) => {
                    let ended = error == RecvTimeoutError::Disconnected;
                    let why = if ended { "has ended" } else { "still runs" };
                    let last = last.map(|line| format!(". Its last line: {line}"));
                    let last = last.unwrap_or_default();
                    bail!("the program {why}, and has not said `{}`{last}", begin.trim());
                }
            }
        }
    }

    /// The rest of each line that begins so: until as many have come as should, and no more for a
    /// moment, or none for a while.
    pub fn all(&self, begin: &str, expected: usize) -> Vec<String> {
        let (start, mut last) = (Instant::now(), Instant::now());
        let mut found = Vec::new();
        loop {
            let patience = if found.len() < expected { WHILE } else { MOMENT };
            let left = patience.saturating_sub(last.elapsed());
            // A program that goes on for ever is not listened to for ever.
            let enough = found.len() > 2 * expected + 10;
            if left.is_zero() || enough || start.elapsed() > LIMIT {
                return found;
            }
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(rest) = line.trim().strip_prefix(begin) {
                        found.push(rest.to_owned());
                        last = Instant::now();
                    }
                }
                Err(_) => return found,
            }
        }
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended, which it may, or has had the time to try.
    pub async fn let_it_try(&mut self) {
        let start = Instant::now();
        while start.elapsed() < WHILE && !self.has_ended() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it as a power failure would (kill -9): the rest of each line that begins so and was
    /// said before.
    pub fn kill(mut self, begin: &str) -> Result<Vec<String>> {
        self.child.kill()?;
        self.child.wait()?;
        let lines = self.lines.iter();
        Ok(lines.filter_map(|line| Some(line.trim().strip_prefix(begin)?.to_owned())).collect())
    }

    /// Ctrl-C.
    pub fn interrupt(&self) -> Result<()> {
        let id = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-INT", &id]).status()?.success(), "it has ended");
        Ok(())
    }

    /// Waits for its end.
    pub fn ends(self) -> Result<Ran> {
        self.ends_within(LIMIT)
    }

    /// Waits for its end, but no longer than this.
    pub fn ends_within(mut self, limit: Duration) -> Result<Ran> {
        let start = Instant::now();
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the program has not ended after {} s", limit.as_secs())
                }
            }
        }
        Ok(Ran { lines, status: self.child.wait()? })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    /// The rest of each line that begins so.
    pub fn said(&self, begin: &str) -> Vec<&str> {
        let lines = self.lines.iter().map(|line| line.trim());
        lines.filter_map(|line| line.strip_prefix(begin)).map(str::trim).collect()
    }
}

/// A database for one check.
pub struct Database {
    pub url: String,
    name: String,
}

impl Database {
    async fn create() -> Result<Self> {
        let url = mysql_url()?;
        let name = format!("test_check_{}", process::id());
        let mut connection = Conn::from_url(&url).await?;
        connection.query_drop(format!("DROP DATABASE IF EXISTS {name}")).await?;
        connection.query_drop(format!("CREATE DATABASE {name}")).await?;
        connection.disconnect().await?;
        let (server, _) = url.rsplit_once('/').context("MYSQL_URL names no database")?;
        let url = format!("{server}/{name}");
        Ok(Self { url, name })
    }

    pub async fn connect(&self) -> Result<Conn> {
        Ok(Conn::from_url(&self.url).await?)
    }

    pub async fn run(&self, statements: &[&str]) -> Result<()> {
        let mut connection = self.connect().await?;
        for statement in statements {
            connection.query_drop(*statement).await?;
        }
        connection.disconnect().await?;
        Ok(())
    }

    /// The number that a query gives; 0, if it gives none.
    pub async fn number(&self, query: &str) -> Result<u64> {
        let mut connection = self.connect().await?;
        let number = connection.query_first(query).await?;
        connection.disconnect().await?;
        Ok(number.unwrap_or(0))
    }

    /// Waits until another connection to this database is in a statement that names this table: it
    /// waits for a lock of ours. Not for ever: the program may go another way.
    pub async fn wait_for_statement(&self, table: &str) -> Result<()> {
        let query = format!(
            "SELECT COUNT(*) FROM information_schema.processlist
             WHERE db = '{}' AND id <> CONNECTION_ID() AND info LIKE '%{table}%'",
            self.name
        );
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) && self.number(&query).await? == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Cuts all other connections to this database, but that which holds our lock.
    pub async fn cut(&self, but: u32) -> Result<()> {
        let query = format!(
            "SELECT id FROM information_schema.processlist
             WHERE db = '{}' AND id NOT IN (CONNECTION_ID(), {but})",
            self.name
        );
        let mut connection = self.connect().await?;
        let ids: Vec<u32> = connection.query(query).await?;
        for id in ids {
            let _ = connection.query_drop(format!("KILL {id}")).await; // it may be gone already
        }
        connection.disconnect().await?;
        Ok(())
    }
}

/// Numbered messages: `task 1`, `task 2` ...
pub fn numbered(what: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{what} {number}")).collect()
}

/// Names in a list for people.
pub fn list<T: AsRef<str>>(names: &[T]) -> String {
    match names {
        [] => "none".to_owned(),
        names => {
            let quoted = names.iter().map(|name| format!("`{}`", name.as_ref()));
            quoted.collect::<Vec<_>>().join(", ")
        }
    }
}
