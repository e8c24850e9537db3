//! Runs the jobs of the queue `jobs` until Ctrl-C. A job that fails is tried again later, and
//! parked after its last attempt.
//!
//!     cargo run -p retries --bin run-jobs
//!     cargo run -p retries --bin run-jobs -- --at-once 10

use std::cell::Cell;
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use common::{CancellationToken, Ended, beside, note, prefetch, printable, say, supervise};
use futures_lite::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use retries::job::Job;
use retries::{PAUSES, attempts, declare, failed, publish, retry_queue, returned};
use tokio::time::{Instant, sleep};

/// How long the jobs under way may take after Ctrl-C. What is not done then goes back.
const GRACE: Duration = Duration::from_secs(4);

/// Run the jobs of the queue `jobs` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How many jobs to run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,

    /// What to do with a job that has failed
    #[arg(long, value_enum, default_value_t = OnFailure::Retry)]
    on_failure: OnFailure,

    /// The cause is mended: no job fails any more
    #[arg(long)]
    mended: bool,

    /// Die when a retry queue has taken a job, before the acknowledgement: see what happens
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
async fn main() -> ExitCode {
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
    let retries = publisher.create_channel().await?;
    declare(&retries).await?;
    retries.confirm_select(ConfirmSelectOptions::default()).await?;
    let worker = Worker { publisher, retries, args, tally };

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
            Some(result) = under_way.next() => {
                result?;
                continue;
            }
            () = stop.cancelled() => break,
        };
        let job = job.context(Ended("jobs"))??;
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
    let all = BasicNackOptions { multiple: true, requeue: true };
    channel.basic_nack(0, all).await?;
    channel.close(200, "Goodbye".into()).await?;
    worker.retries.close(200, "Goodbye".into()).await?;
    Ok(())
}

struct Worker<'a> {
    publisher: &'a Connection,
    retries: Channel,
    args: &'a Args,
    tally: &'a Tally,
}

impl Worker<'_> {
    /// One attempt at a job, and what follows from it.
    async fn run(&self, message: Delivery) -> anyhow::Result<()> {
        let job: Job = match serde_json::from_slice(&message.data) {
            Ok(job) => job,
            // Nothing will ever make it readable: not one more attempt.
            Err(error) => {
                let reason = format!("not a job: {error}");
                say!(" [!] {}. Parked", shown(&reason))?;
                return self.park(&message, attempts(&message.properties), &reason).await;
            }
        };
        let name = shown(&job.name);
        let before = match self.args.on_failure {
            OnFailure::Retry => attempts(&message.properties),
            OnFailure::Nack | OnFailure::Reject => returned(&message.properties),
        };
        let attempt = before.saturating_add(1);
        match job.run(attempt, self.args.mended).await {
            Ok(()) => {
                say!(" [x] {name}: done at attempt {attempt}")?;
                message.ack(BasicAckOptions::default()).await?;
                count(&self.tally.done);
                Ok(())
            }
            Err(error) => {
                count(&self.tally.failures);
                self.failed(&message, &name, attempt, &error.to_string()).await
            }
        }
    }

    async fn failed(
        &self,
        message: &Delivery,
        name: &str,
        attempt: u32,
        reason: &str,
    ) -> anyhow::Result<()> {
        if self.args.on_failure != OnFailure::Retry {
            let last = self.tally.last_failure.replace(Some(Instant::now()));
            let since = last.map_or(0.0, |last| last.elapsed().as_secs_f64());
            say!(" [!] {name} failed, {since:.1} s after the last time: back into the queue")?;
        }
        match self.args.on_failure {
            OnFailure::Nack => {
                let requeue = BasicNackOptions { requeue: true, ..Default::default() };
                message.nack(requeue).await?;
            }
            OnFailure::Reject => {
                message.reject(BasicRejectOptions { requeue: true }).await?;
            }
            OnFailure::Retry => match PAUSES.get(attempt as usize - 1) {
                Some(pause) => {
                    say!(" [!] {name}: attempt {attempt} failed: {reason}. Next in {pause} s")?;
                    self.hand_over(message, &retry_queue(*pause), attempt, reason).await?;
                }
                None => {
                    say!(" [!] {name}: attempt {attempt} failed: {reason}. Parked")?;
                    self.park(message, attempt, reason).await?;
                }
            },
        }
        Ok(())
    }

    async fn park(&self, message: &Delivery, attempts: u32, reason: &str) -> anyhow::Result<()> {
        self.hand_over(message, "jobs.parked", attempts, reason).await?;
        count(&self.tally.parked);
        Ok(())
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
        publish(self.publisher, &self.retries, queue, &message.data, properties).await?;
        if self.args.die_before_ack {
            note!("Error: died before the acknowledgement");
            process::exit(1);
        }
        message.ack(BasicAckOptions::default()).await?;
        Ok(())
    }
}

fn count(number: &Cell<u32>) {
    number.set(number.get() + 1);
}

/// Text of a message, short enough for a line.
fn shown(text: &str) -> String {
    let text: String = text.chars().take(100).collect();
    printable(text.as_bytes())
}
