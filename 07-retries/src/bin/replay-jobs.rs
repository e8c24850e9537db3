//! Lists the jobs that are parked, or sends them back to the queue `jobs`.
//!
//!     cargo run -p retries --bin replay-jobs
//!     cargo run -p retries --bin replay-jobs -- invoice
//!     cargo run -p retries --bin replay-jobs -- --all

use anyhow::{Context, bail, ensure};
use clap::Parser;
use common::answer::answered;
use common::{once, printable, say};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use retries::job::Job;
use retries::{PARKED, attempts, declare, header, now, reset};

/// List the jobs that are parked, or send them back to the queue `jobs`.
#[derive(Parser)]
struct Args {
    /// The jobs to send back: their names or their ids; without any, all are listed
    jobs: Vec<String>,

    /// Send all of them back
    #[arg(long, conflicts_with = "jobs")]
    all: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| replay(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

async fn replay(channel: &Channel, args: Args) -> anyhow::Result<()> {
    declare(channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // Those that are parked now. One that we send back may fail and be parked again before we are
    // through.
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let parked = channel.queue_declare(PARKED.into(), passive, FieldTable::default());
    let listing = args.jobs.is_empty() && !args.all;
    let (mut sent, mut listed) = (0, 0);
    for _ in 0..parked.await?.message_count() {
        // Not acknowledged: it stays ours until we say what is to become of it.
        let next = channel.basic_get(PARKED.into(), BasicGetOptions::default()).await?;
        let Some(job) = next else { break };
        answered(); // many jobs may take longer than one answer should
        let name = name(&job);
        let chosen = |wanted: &String| [&name, &id(&job)].contains(&wanted);
        if args.all || args.jobs.iter().any(chosen) {
            publish(channel, &job.data, reset(&job.properties)).await?;
            // If we die here, the job is in both queues: better twice than never.
            job.ack(BasicAckOptions::default()).await?;
            sent += 1;
            say!(" [x] Sent back {name}")?;
        } else if listing {
            listed += 1;
            say!(" [ ] {} {name}: {}", id(&job), history(&job))?;
        }
    }
    // All others go back to where they were.
    let all = BasicNackOptions { multiple: true, requeue: true };
    channel.basic_nack(0, all).await?;
    if listing {
        return say!(" [*] Jobs parked: {listed}");
    }
    ensure!(sent > 0 || args.all, "none of these is parked");
    say!(" [*] Jobs sent back: {sent}")
}

/// Publishes a job to `jobs`, and waits until the broker has it.
async fn publish(
    channel: &Channel,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm =
        channel.basic_publish("".into(), "jobs".into(), mandatory, body, properties).await?;
    match confirm.await.context("no confirm came: the job is still parked, or in both queues")? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => {
            bail!("{}: the queue `jobs` is gone; the job is still parked", returned.reply_text)
        }
        _ => bail!(
            "the broker did not take the job, so it is still parked: a queue is full, or down"
        ),
    }
}

fn id(job: &BasicGetMessage) -> String {
    let id = job.properties.message_id().as_ref().map_or("", |id| id.as_str());
    printable(id.as_bytes())
}

/// The name of a job, or the beginning of what is none.
fn name(job: &BasicGetMessage) -> String {
    match serde_json::from_slice::<Job>(&job.data) {
        Ok(job) => printable(job.name.as_bytes()),
        Err(_) => format!("{:.40}", printable(&job.data)),
    }
}

/// How often it was tried, how long ago it failed first, and why it is here.
fn history(job: &BasicGetMessage) -> String {
    let reason = match header(&job.properties, "reason") {
        _ if limit_exceeded(&job.properties) => "RabbitMQ's delivery limit".to_owned(),
        Some(AMQPValue::LongString(reason)) => printable(reason.as_bytes()),
        _ => "no reason given".to_owned(),
    };
    let attempts = attempts(&job.properties);
    match header(&job.properties, "first-failure") {
        Some(AMQPValue::Timestamp(time)) => {
            let since = now().saturating_sub(*time);
            format!("{reason}; attempts: {attempts}, failed first {since} s ago")
        }
        _ => reason,
    }
}

/// Whether RabbitMQ has put it aside by itself. It writes down why a message has left a queue:
/// <https://www.rabbitmq.com/docs/dlx#effects>.
fn limit_exceeded(properties: &BasicProperties) -> bool {
    let Some(AMQPValue::FieldArray(deaths)) = header(properties, "x-death") else { return false };
    let limit = AMQPValue::LongString("delivery_limit".into());
    deaths.as_slice().iter().any(|death| match death {
        AMQPValue::FieldTable(death) => death.inner().get("reason") == Some(&limit),
        _ => false,
    })
}
