//! Receives what `publish-steadily` publishes, until Ctrl-C, and says each second what has come,
//! what came twice, and what is missing.
//!
//!     cargo run -p cluster --bin count-steadily

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::mem;

use anyhow::Context;
use clap::Parser;
use cluster::{Gap, channel_with_queue, each_second, parse, queue};
use common::{CancellationToken, Ended, note, prefetch, printable, say, supervise};
use futures_util::StreamExt;
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use uuid::Uuid;

/// How many numbers a run may leave out before we take the next one for a mistake.
const LARGEST_STEP: u64 = 1_000_000;

/// Count what `publish-steadily` publishes, until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Consume from the classic queue
    #[arg(long)]
    classic: bool,
}

/// What has come, over whatever connection.
#[derive(Default)]
struct Tally {
    runs: HashMap<Uuid, Run>,
    received: u64,
    this_second: u64,
    twice: u64,
    gap: Gap,
}

/// What has come of one run of `publish-steadily`, which counts from 1.
struct Run {
    highest: u64,
    /// The numbers below that have not come.
    missing: BTreeSet<u64>,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Counts over one connection after the other, and says each second how it goes.
async fn run(args: Args) -> anyhow::Result<()> {
    let tally = RefCell::new(Tally::default());
    let work = async |connection: &_, stop: &_| count(connection, stop, &args, &tally).await;
    let tell = || {
        let mut tally = tally.borrow_mut();
        let now = mem::take(&mut tally.this_second);
        match tally.received {
            0 => Ok(()), // it has not begun
            all => say!(" [x] Received: {now} ({all} in all), {}", tally.rest()),
        }
    };
    tokio::select! {
        result = supervise(env!("CARGO_BIN_NAME"), work) => result?,
        result = each_second(tell) => result?,
    }
    let tally = tally.into_inner();
    note!(" [*] Received: {}, {}", tally.received, tally.rest());
    Ok(())
}

/// Counts what comes over this connection, until Ctrl-C, or until it is lost.
async fn count(
    connection: &Connection,
    stop: &CancellationToken,
    args: &Args,
    tally: &RefCell<Tally>,
) -> anyhow::Result<()> {
    let channel = channel_with_queue(connection, args.classic).await?;
    channel.basic_qos(prefetch(100), BasicQosOptions::default()).await?;
    let (name, options) = (queue(args.classic), BasicConsumeOptions::default());
    let mut consumer =
        channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
    note!(" [*] Waiting for messages. To exit press CTRL+C");
    loop {
        let message = tokio::select! {
            message = consumer.next() => message.context(Ended(name))??,
            () = stop.cancelled() => break,
        };
        if !tally.borrow_mut().take(&message) {
            note!(" [!] Not from `publish-steadily`: {}", printable(&message.data));
        }
        // If the connection is lost before the broker has this, the message comes again.
        message.ack(BasicAckOptions::default()).await?;
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}

impl Tally {
    /// Counts a message. Whether it is one that can be counted.
    fn take(&mut self, message: &Delivery) -> bool {
        let Some((run, number)) = parse(&message.data) else { return false };
        let run = self.runs.entry(run).or_insert_with(|| Run {
            // If it was in other hands before, those have counted what came before it.
            highest: if message.redelivered { number.saturating_sub(1) } else { 0 },
            missing: BTreeSet::new(),
        });
        if number > run.highest.saturating_add(LARGEST_STEP) {
            return false;
        }
        if number > run.highest {
            run.missing.extend(run.highest + 1..number);
            run.highest = number;
        } else if !run.missing.remove(&number) {
            self.twice += 1;
        }
        self.received += 1;
        self.this_second += 1;
        self.gap.end();
        true
    }

    fn rest(&self) -> String {
        let missing: usize = self.runs.values().map(|run| run.missing.len()).sum();
        let gap = self.gap.longest.as_secs_f64();
        format!("twice: {}, missing: {missing}, longest gap: {gap:.1} s", self.twice)
    }
}
