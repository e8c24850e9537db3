//! What every check needs: the program in a process of its own, a connection, queues counted.

use std::env;
use std::io::{BufRead, BufReader, pipe};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::printable;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

/// How long anything may take that takes milliseconds on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The program that is checked, and the broker.
pub struct Trial {
    program: PathBuf,
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
        Ok(Self { program, _connection: connection, channel })
    }

    /// The same program, after the broker was restarted.
    pub async fn again(self) -> Result<Self> {
        Self::new(self.program).await
    }

    /// Starts the program.
    pub fn start(&self, arguments: &[&str]) -> Result<Program> {
        let (reader, writer) = pipe()?;
        let mut command = Command::new(&self.program);
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

    /// Publishes these messages, each under that routing key. They are with the broker afterwards.
    pub async fn publish(&self, exchange: &str, key: &str, messages: &[String]) -> Result<()> {
        for message in messages {
            let table = FieldTable::default();
            ensure!(self.publish_with(exchange, key, message, table).await?, "the broker says no");
        }
        Ok(())
    }

    /// Publishes a message with these headers. Whether the broker has taken it.
    pub async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        message: &str,
        headers: FieldTable,
    ) -> Result<bool> {
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let (options, body) = (BasicPublishOptions::default(), message.as_bytes());
        let published =
            self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        Ok(matches!(published.await?.await?, Confirmation::Ack(_)))
    }

    /// Takes all messages out of a queue, once its consumers are gone and have given back theirs.
    pub async fn take_all(&self, queue: &str) -> Result<Vec<String>> {
        let start = Instant::now();
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        loop {
            let state = self.channel.queue_declare(queue.into(), passive, FieldTable::default());
            if state.await?.consumer_count() == 0 {
                break;
            }
            ensure!(start.elapsed() < LIMIT, "the queue `{queue}` has a consumer that stays");
        }
        let mut messages = Vec::new();
        loop {
            let no_ack = BasicGetOptions { no_ack: true };
            match self.channel.basic_get(queue.into(), no_ack).await? {
                Some(message) => messages.push(printable(&message.data).to_string()),
                None => return Ok(messages),
            }
        }
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

    /// The rest of each line that begins so, until none has come for a while.
    pub fn all(&self, begin: &str, quiet: Duration) -> Vec<String> {
        let mut found = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(quiet) {
            found.extend(line.trim_start().strip_prefix(begin).map(|rest| rest.trim().to_owned()));
        }
        found
    }

    /// Kills it as a power failure would (kill -9).
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ctrl-C.
    pub fn interrupt(&self) -> Result<()> {
        let id = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-INT", &id]).status()?.success(), "it has ended");
        Ok(())
    }

    /// Waits for its end.
    pub fn ends(mut self) -> Result<Ran> {
        let start = Instant::now();
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the program has not ended after {} s", LIMIT.as_secs())
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

/// Numbered messages: `task 1`, `task 2` ...
pub fn numbered(what: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{what} {number}")).collect()
}

/// Names in a list for people.
pub fn list<T: AsRef<str>>(names: &[T]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    }
}
