//! Runs the jobs of the queue `jobs` until Ctrl-C. A job that fails is tried again later, and
//! parked after its last attempt.
//!
//!     cargo run -p retries --bin run-jobs
//!     cargo run -p retries --bin run-jobs -- --at-once 10

use std::cell::Cell;
use std::process;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use common::{CancellationToken, Ended, beside, note, prefetch, printable, say, stop, supervise};
use futures_lite::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use retries::job::Job;
use retries::{
    PARKED, PAUSES, attempts, confirming, declare, failed, publish, retry_queue, returned,
};
use tokio::time::{Instant, sleep};

/// How long the jobs under way may take after Ctrl-C. What is not done then goes back, in the last
/// second that `supervise` gives us.
const GRACE: Duration = stop::GRACE.saturating_sub(Duration::from_secs(1));

/// Run the jobs of the queue `jobs` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How many jobs to run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,

    /// What to do with a job that has failed
    #[arg(long, value_enum, default_value_t = OnFailure::Retry)]
    on_failure: OnFailure,

    /// The cause is fixed: no job fails any more
    #[arg(long)]
    fixed: bool,

    /// Die when another queue has taken a job, before the acknowledgement: see what happens
    #[arg(long)]
    die_before_ack: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum OnFailure {
    /// Publish it to a retry queue, and park it after the last attempt
    Retry,
    /// Put it back with `basic.nack`
    Nack,
    /// Put it back with `basic.reject`
    Reject,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Runs jobs over one connection after the other, and says at the end what has become of them.
async fn run(args: Args) -> anyhow::Result<()> {
    let tally = Tally::default();
    let program = env!("CARGO_BIN_NAME");
    supervise(program, async |connection, stop| {
        // A connection each: while RabbitMQ is short of memory it stops those that publish, and
        // what is done must still be acknowledged.
        beside("run-jobs: retries", async |publisher| {
            run_jobs(connection, publisher, stop, &args, &tally).await
        })
        .await
    })
    .await?;
    let Tally { done, failures, parked, .. } = &tally;
    let (done, failures, parked) = (done.get(), failures.get(), parked.get());
    note!(" [*] Jobs done: {done}, failed attempts: {failures}, parked: {parked}");
    Ok(())
}

/// What to say when we end.
#[derive(Default)]
struct Tally {
    done: Cell<u32>,
    failures: Cell<u32>,
    last_failure: Cell<Option<Instant>>,
    parked: Cell<u32>,
}

/// Runs jobs over these connections, until Ctrl-C, or until one is lost or something else is wrong.
async fn run_jobs(
    connection: &Connection,
    publisher: &Connection,
    stop: &CancellationToken,
    args: &Args,
    tally: &Tally,
) -> anyhow::Result<()> {
    let publish_channel = confirming(publisher).await?;
    declare(&publish_channel).await?;
    let worker = Worker { publisher, publish_channel, args, tally };

    let channel = connection.create_channel().await?;
    channel.basic_qos(prefetch(args.at_once), BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume("jobs".into(), "".into(), options, none).await?;
    note!(" [*] Waiting for jobs. To exit press CTRL+C");

    // The broker gives us as many jobs as we may run at once. They end in any order, and each is
    // acknowledged when it does.
    let mut under_way = FuturesUnordered::new();
    loop {
        let job = tokio::select! {
            job = consumer.next() => job,
            // (While none is under way, this is `None`, and `select!` waits for the others.)
            Some(result) = under_way.next() => {
                result?;
                continue;
            }
            () = stop.cancelled() => break,
        };
        let job = job.context(Ended("jobs"))??;
        // If not, the connection it came over is lost: it comes again.
        if job.acker.usable() {
            under_way.push(worker.run(job));
        }
    }

    // Take no new job, and finish those under way. Give back what takes too long.
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    let finish = async {
        while let Some(result) = under_way.next().await {
            result?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = finish => result?,
        () = sleep(GRACE) => {}
    }
    let all = BasicNackOptions {
        multiple: true, // with the delivery tag 0: all that we have not acknowledged
        requeue: true,
    };
    channel.basic_nack(0, all).await?;
    channel.close(200, "Goodbye".into()).await?;
    worker.publish_channel.close(200, "Goodbye".into()).await?;
    Ok(())
}

struct Worker<'a> {
    publisher: &'a Connection,
    publish_channel: Channel,
    args: &'a Args,
    tally: &'a Tally,
}

impl Worker<'_> {
    /// One attempt at a job, and what follows from it. What is said has been done: if nobody can
    /// read it, the job must not be done again for that.
    async fn run(&self, message: Delivery) -> anyhow::Result<()> {
        let job: Job = match serde_json::from_slice(&message.data) {
            Ok(job) => job,
            // Nothing will ever make it readable: not one more attempt.
            Err(error) => {
                let reason = format!("not a job: {error}");
                self.hand_over(&message, PARKED, attempts(&message.properties), &reason).await?;
                return say!(" [!] {}. Parked", shown(&reason));
            }
        };
        let name = shown(&job.name);
        let before = match self.args.on_failure {
            OnFailure::Retry => attempts(&message.properties),
            OnFailure::Nack | OnFailure::Reject => returned(&message.properties),
        };
        let attempt = before.saturating_add(1);
        let Err(error) = job.run(attempt, self.args.fixed).await else {
            message.ack(BasicAckOptions::default()).await?;
            count(&self.tally.done);
            return say!(" [x] {name}: done at attempt {attempt}");
        };
        match self.args.on_failure {
            OnFailure::Nack => {
                let requeue = BasicNackOptions { requeue: true, ..Default::default() };
                message.nack(requeue).await?;
                self.say_back(&name)
            }
            OnFailure::Reject => {
                message.reject(BasicRejectOptions { requeue: true }).await?;
                self.say_back(&name)
            }
            OnFailure::Retry => {
                let pause = PAUSES.get(before as usize);
                let queue = pause.map_or(PARKED.to_owned(), |pause| retry_queue(*pause));
                let error = shown(&format!("{error:#}"));
                self.hand_over(&message, &queue, attempt, &error).await?;
                count(&self.tally.failures);
                let next = pause.map_or("Parked".to_owned(), |pause| format!("Next in {pause} s"));
                say!(" [!] {name}: attempt {attempt} failed: {error}. {next}")
            }
        }
    }

    /// Moves a job to another queue: publishes it there, and acknowledges it here when the broker
    /// has it there. If we die in between, it is in both: better twice than never.
    async fn hand_over(
        &self,
        message: &Delivery,
        queue: &str,
        attempts: u32,
        reason: &str,
    ) -> anyhow::Result<()> {
        let properties = failed(message, attempts, reason);
        publish(self.publisher, &self.publish_channel, queue, &message.data, properties).await?;
        if self.args.die_before_ack {
            note!("Error: died before the acknowledgement");
            process::exit(1);
        }
        message.ack(BasicAckOptions::default()).await?;
        if queue == PARKED {
            count(&self.tally.parked);
        }
        Ok(())
    }

    /// Says that a job has failed and is back in the queue, and how long after the failure before.
    fn say_back(&self, name: &str) -> anyhow::Result<()> {
        count(&self.tally.failures);
        match self.tally.last_failure.replace(Some(Instant::now())) {
            None => say!(" [!] {name} failed: back into the queue"),
            Some(last) => {
                let since = last.elapsed().as_secs_f64();
                say!(" [!] {name} failed: back into the queue, {since:.1} s after the last failure")
            }
        }
    }
}

fn count(number: &Cell<u32>) {
    number.set(number.get() + 1);
}

/// Text of a message, short enough for a line.
fn shown(text: &str) -> String {
    let text: String = text.chars().take(200).collect();
    printable(text.as_bytes())
}
