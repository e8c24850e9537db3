//! One connection: `send`, publishing and consuming, compared with clients in other languages and
//! with a bare socket.

use std::fmt::{self, Display};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use lab::process::{cargo, run};
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio::time::timeout;

use crate::report::{Chart, Section, Table, median, number};
use crate::{Bench, LIMIT, ROUNDS, program, rate, raw, round, shared};

/// How many messages are published and consumed; fewer where each confirm is awaited.
pub const MESSAGES: u64 = 100_000;
const ONE_BY_ONE: u64 = 2000;

/// How often a program is started in each round.
const STARTS: u32 = 20;

/// The batch of `receive-orders`, and its prefetch.
pub const BATCH: u64 = 500;
const PREFETCH: u16 = 2000;

/// Another client.
#[derive(Clone, Copy, PartialEq)]
pub enum Peer {
    Pika,
    Amqplib,
    Amqprs,
    AmqpClient,
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Pika => "pika (Python)",
            Self::Amqplib => "amqplib (Node.js)",
            Self::Amqprs => "amqprs (Rust)",
            Self::AmqpClient => "amqp-client (Rust)",
        })
    }
}

impl Peer {
    /// Those in other languages, for which there is a program for each lesson that is compared.
    pub fn is_script(self) -> bool {
        matches!(self, Self::Pika | Self::Amqplib)
    }

    /// Its interpreter, or its program in `peers/rust`; installs what it needs, if that is not
    /// there yet.
    pub fn command(self, bench: &Bench) -> Result<Command> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        match self {
            Self::Pika => {
                shared::python(folder, &["pika==1.3.2", "PyMySQL[rsa]==1.1.2"], &bench.tasks)
            }
            Self::Amqplib => shared::node(folder, &["amqplib@2.0.1"], &bench.tasks),
            Self::Amqprs => rust(bench, "amqprs"),
            Self::AmqpClient => rust(bench, "amqp-client"),
        }
    }

    /// Its program in `peers/`, by its name without an ending.
    pub fn script(self, bench: &Bench, name: &str) -> Result<Command> {
        let ending = match self {
            Self::Pika => "py",
            _ => "js",
        };
        let mut command = self.command(bench)?;
        command.arg(lab::root().join(format!("lab/peers/{name}.{ending}")));
        Ok(command)
    }

    /// Runs its program in `peers/clients.*` or `peers/rust`: what that prints.
    fn run(self, bench: &Bench, arguments: &[&str]) -> Result<String> {
        let mut command = match self.is_script() {
            true => self.script(bench, "clients")?,
            false => self.command(bench)?,
        };
        command.args(arguments);
        bench.finish(bench.start(command)?)
    }

    /// Messages a second.
    fn rate(self, bench: &Bench, count: u64, what: &str, more: &[&str]) -> Result<f64> {
        let number = count.to_string();
        let arguments = [&[what, &number], more].concat();
        let seconds: f64 = self.run(bench, &arguments)?.trim().parse()?;
        Ok(count as f64 / seconds)
    }
}

/// A program of `peers/rust`, compiled once. It is in no workspace: only a benchmark pays for it.
pub fn rust(bench: &Bench, name: &str) -> Result<Command> {
    static COMPILED: OnceLock<()> = OnceLock::new();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    if COMPILED.get().is_none() {
        let mut build = cargo();
        build.args(["build", "--release", "--locked", "--manifest-path"]);
        build.arg(lab::root().join("lab/peers/rust/Cargo.toml")).arg("--target-dir").arg(&target);
        let task = bench.tasks.start("Compiling other clients");
        run(&task, build)?;
        task.done("Compiled other clients");
        COMPILED.get_or_init(|| ());
    }
    Ok(Command::new(target.join("release").join(name)))
}

/// What is measured of each client in turn.
struct Sides {
    names: Vec<String>,
    figures: Vec<Vec<f64>>,
    costs: Vec<[Vec<f64>; 2]>,
}

/// What the processes of a client have used: processor time in microseconds, and context switches.
struct Used([f64; 2]);

impl Used {
    /// By this process, and by its children that have ended.
    fn now() -> Result<Self> {
        let mut used = [0.0; 2];
        for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
            let usage = getrusage(who)?;
            used[0] += (usage.user_time() + usage.system_time()).num_microseconds() as f64;
            let switches =
                usage.voluntary_context_switches() + usage.involuntary_context_switches();
            used[1] += switches as f64;
        }
        Ok(Self(used))
    }

    /// Since then, for each of so many messages.
    fn since(self, count: u64) -> Result<[f64; 2]> {
        let now = Self::now()?.0;
        Ok([0, 1].map(|index| (now[index] - self.0[index]) / count as f64))
    }
}

impl Sides {
    fn new(bench: &Bench, lesson: &str) -> Self {
        let peers = bench.peers.iter().map(Peer::to_string);
        let limit = "bare socket".to_owned();
        let names: Vec<_> = [lesson.to_owned()].into_iter().chain(peers).chain([limit]).collect();
        let (figures, costs) =
            (vec![Vec::new(); names.len()], vec![Default::default(); names.len()]);
        Self { names, figures, costs }
    }

    fn push(&mut self, side: usize, figure: f64, cost: [f64; 2]) {
        self.figures[side].push(figure);
        self.costs[side].iter_mut().zip(cost).for_each(|(costs, cost)| costs.push(cost));
    }

    /// A row for each of those in Rust: the others also pay for their interpreter.
    fn cost(&self, table: &mut Table, what: &str) {
        for (name, costs) in self.names.iter().zip(&self.costs) {
            if !["Python", "Node.js"].iter().any(|language| name.contains(language)) {
                let [time, switches] = costs.each_ref().map(|costs| number(median(costs)));
                table.row(vec![what.to_owned(), name.clone(), time, switches]);
            }
        }
    }

    /// A row for each of the others.
    fn compare(&self, table: &mut Table, what: &str) {
        self.compare_with(table, what, "");
    }

    /// As [`Sides::compare`], where the others do something else.
    fn compare_with(&self, table: &mut Table, what: &str, theirs: &str) {
        for (name, figures) in self.names.iter().zip(&self.figures).skip(1) {
            table.rates(what, &self.figures[0], &format!("{name}{theirs}"), figures);
        }
    }
}

fn costs() -> Table {
    Table::new(&["what", "client", "processor, µs", "context switches"])
}

fn chart(name: &'static str, title: &'static str, groups: [&str; 2], sides: [&Sides; 2]) -> Chart {
    let series = sides[0].names.iter().enumerate();
    let figures = |side: usize| sides.iter().map(|sides| median(&sides.figures[side])).collect();
    Chart {
        name,
        title,
        x: None,
        groups: groups.map(str::to_owned).to_vec(),
        series: series
            .map(|(side, name)| match side {
                0 => ("the lessons (lapin)".to_owned(), figures(side)),
                _ => (name.clone(), figures(side)),
            })
            .collect(),
    }
}

pub fn start(bench: &Bench) -> Result<Section> {
    let task = bench.tasks.start("Measuring the start of a program");
    let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
    for number in 0..ROUNDS {
        round(&task, number, "send");
        let [mut send, mut pika] = [Vec::new(), Vec::new()];
        for _ in 0..STARTS {
            let start = Instant::now();
            bench.finish(bench.start(Command::new(program("send")))?)?;
            send.push(start.elapsed().as_secs_f64() * 1000.0);
            if bench.peers.contains(&Peer::Pika) {
                let start = Instant::now();
                Peer::Pika.run(bench, &["send"])?;
                pika.push(start.elapsed().as_secs_f64() * 1000.0);
            }
        }
        ours.push(median(&send));
        if !pika.is_empty() {
            theirs.push(median(&pika));
        }
    }
    task.done("Measured the start of a program");
    let mut table = Table::comparing("ms");
    if !theirs.is_empty() {
        table.times("`send`", &ours, "the same with pika (Python)", &theirs);
    }
    Ok(Section {
        title: "Start",
        text: format!(
            "The time from the start of `send` to its end. It connects, declares the queue,\n\
             publishes, waits for the confirm and closes. {STARTS} starts a round."
        ),
        tables: vec![table],
        chart: None,
    })
}

pub async fn publish(bench: &Bench) -> Result<Section> {
    bench.lesson("request-orders", &["1".to_owned()])?; // declares the queue
    bench.purge("orders").await?;
    let task = bench.tasks.start("Measuring publishing");
    let mut pipelined = Sides::new(bench, "`request-orders`");
    let mut one_by_one = Sides::new(bench, "as in `send`");
    for number in 0..ROUNDS {
        round(&task, number, "confirms collected later");
        let port = bench.instance.ports.amqp;
        for side in 0..pipelined.names.len() {
            let (used, start) = (Used::now()?, Instant::now());
            let figure = match (side, bench.peers.get(side.wrapping_sub(1))) {
                (0, _) => {
                    bench.lesson("request-orders", &[MESSAGES.to_string()])?;
                    rate(MESSAGES, start.elapsed())
                }
                (_, Some(peer)) => peer.rate(bench, MESSAGES, "publish", &[])?,
                _ => rate(MESSAGES, raw::publish(port, ("", "orders"), MESSAGES, false)?),
            };
            pipelined.push(side, figure, used.since(MESSAGES)?);
            expect_purged(bench, MESSAGES).await?;
        }

        round(&task, number, "each confirm awaited");
        for side in 0..one_by_one.names.len() {
            let used = Used::now()?;
            let figure = match (side, bench.peers.get(side.wrapping_sub(1))) {
                (0, _) => publish_one_by_one(bench).await?,
                (_, Some(peer)) => peer.rate(bench, ONE_BY_ONE, "publish-one-by-one", &[])?,
                _ => rate(ONE_BY_ONE, raw::publish(port, ("", "orders"), ONE_BY_ONE, true)?),
            };
            one_by_one.push(side, figure, used.since(ONE_BY_ONE)?);
        }
        expect_purged(bench, ONE_BY_ONE * one_by_one.names.len() as u64).await?;
    }
    task.done("Measured publishing");
    let mut table = Table::comparing("messages/s");
    pipelined.compare(&mut table, "`request-orders`: up to 1000 unconfirmed");
    one_by_one.compare(&mut table, "as in `send`: one at a time");
    let mut costs = costs();
    pipelined.cost(&mut costs, "up to 1000 unconfirmed");
    one_by_one.cost(&mut costs, "one at a time");
    Ok(Section {
        title: "Publish",
        text: format!(
            "Persistent messages to a durable quorum queue, over one connection, until the last\n\
             confirm. {MESSAGES} messages a round, or {ONE_BY_ONE} where the program waits for\n\
             each confirm before it publishes the next message.\n\n\
             The *bare socket* is the upper limit. It sends AMQP frames that were built before\n\
             the clock starts.\n\n\
             The second table says what a message costs the client: time of the processor, and\n\
             how often it has to wait or lets another thread run (context switches)."
        ),
        tables: vec![table, costs],
        chart: Some(chart(
            "publish",
            "Persistent messages published per second, with confirms",
            ["up to 1000 unconfirmed", "one at a time"],
            [&pipelined, &one_by_one],
        )),
    })
}

pub async fn expect_purged(bench: &Bench, count: u64) -> Result<()> {
    let purged = bench.purge("orders").await?;
    ensure!(purged == count, "{purged} messages were in the queue instead of {count}");
    Ok(())
}

/// As `send` does, but with one connection for all messages.
pub async fn publish_one_by_one(bench: &Bench) -> Result<f64> {
    let start = Instant::now();
    let connection = bench.connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    for number in 0..ONE_BY_ONE {
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_delivery_mode(2)
            .with_message_id(uuid::Uuid::now_v7().to_string().into());
        let body = format!("{number:032x}");
        let confirm = channel
            .basic_publish("".into(), "orders".into(), mandatory, body.as_bytes(), properties)
            .await?;
        ensure!(confirm.await?.is_ack(), "the broker did not take a message");
    }
    connection.close(200, "Goodbye".into()).await?;
    Ok(rate(ONE_BY_ONE, start.elapsed()))
}

pub async fn consume(bench: &Bench) -> Result<Section> {
    bench.lesson("request-orders", &["1".to_owned()])?; // declares the queue
    bench.purge("orders").await?;
    let task = bench.tasks.start("Measuring consuming");
    let port = bench.instance.ports.amqp;
    let mut batches = Sides::new(bench, "as in `receive-orders`");
    let mut each = Sides::new(bench, "as in `receive-until-idle`");
    let mut awaited = Vec::new();
    for number in 0..ROUNDS {
        for (batch, sides) in [(BATCH, &mut batches), (1, &mut each)] {
            round(&task, number, &format!("acknowledging {batch} at a time"));
            for side in 0..sides.names.len() {
                raw::publish(port, ("", "orders"), MESSAGES, false)?;
                let used = Used::now()?;
                let figure = match side {
                    0 if batch == 1 => consume_here(bench, MESSAGES, Acks::Come).await?,
                    0 => consume_here(bench, MESSAGES, Acks::Batches).await?,
                    _ => match bench.peers.get(side - 1) {
                        Some(peer) => {
                            peer.rate(bench, MESSAGES, "consume", &[&batch.to_string()])?
                        }
                        None => rate(MESSAGES, raw::consume(port, MESSAGES, batch, PREFETCH)?),
                    },
                };
                sides.push(side, figure, used.since(MESSAGES)?);
                // RabbitMQ may put the last ones back whose acknowledgement came right before the
                // close.
                bench.purge("orders").await?;
            }
        }
        round(&task, number, "awaiting each acknowledgement");
        raw::publish(port, ("", "orders"), MESSAGES, false)?;
        awaited.push(consume_here(bench, MESSAGES, Acks::Each).await?);
        bench.purge("orders").await?;
    }
    task.done("Measured consuming");
    let mut table = Table::comparing("messages/s");
    batches.compare(&mut table, &format!("as in `receive-orders`: {BATCH} per ack"));
    let what = "as in `receive-until-idle`: what has come per ack";
    each.compare_with(&mut table, what, ": 1 per ack");
    table.rates(what, &each.figures[0], "as in `receive`: 1 per ack", &awaited);
    let mut costs = costs();
    batches.cost(&mut costs, &format!("{BATCH} per ack"));
    each.cost(&mut costs, "1 per ack; lapin: what has come");
    Ok(Section {
        title: "Consume",
        text: format!(
            "{MESSAGES} messages wait in a quorum queue. The prefetch is {PREFETCH}. The clock\n\
             stops when the last message is acknowledged.\n\n\
             The *bare socket* is the upper limit. It counts the frames that arrive and does not\n\
             decode them.\n\n\
             The second table says what a message costs the client, as above."
        ),
        tables: vec![table, costs],
        chart: Some(chart(
            "consume",
            "Messages consumed per second",
            ["500 per acknowledgement", "1 per acknowledgement; lapin: what has come"],
            [&batches, &each],
        )),
    })
}

/// How a consumer acknowledges.
#[derive(Clone, Copy, PartialEq)]
pub enum Acks {
    /// [`BATCH`] messages together.
    Batches,
    /// Those that have come already, together.
    Come,
    /// Each message.
    Each,
}

/// How many messages a second a consumer of `orders` gets that does nothing with them.
pub async fn consume_here(bench: &Bench, count: u64, acks: Acks) -> Result<f64> {
    let start = Instant::now();
    let connection = bench.connect().await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("orders".into(), "".into(), options, FieldTable::default()).await?;
    let mut received = 0;
    while received < count {
        let delivery = timeout(LIMIT, consumer.next()).await?;
        let mut delivery = delivery.context("the consumer has ended")??;
        received += 1;
        while match acks {
            Acks::Batches => received % BATCH != 0 && received < count,
            Acks::Come => true,
            Acks::Each => false,
        } {
            let next = match acks {
                Acks::Come => poll_once(consumer.next()).await,
                _ => Some(timeout(LIMIT, consumer.next()).await?),
            };
            let Some(next) = next else { break };
            delivery = next.context("the consumer has ended")??;
            received += 1;
        }
        delivery.ack(BasicAckOptions { multiple: acks != Acks::Each }).await?;
    }
    channel.close(200, "Goodbye".into()).await?;
    connection.close(200, "Goodbye".into()).await?;
    Ok(rate(count, start.elapsed()))
}
