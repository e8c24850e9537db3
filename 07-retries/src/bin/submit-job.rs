//! Submits jobs to the queue `jobs`. A job says how it ends.
//!
//!     cargo run -p retries --bin submit-job -- invoice
//!     cargo run -p retries --bin submit-job -- invoice --fails 2

use anyhow::{Context, bail};
use clap::Parser;
use common::answer::answered;
use common::{once, printable, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use retries::job::{Ends, Job};
use retries::{dead_letters_to, declare, declare_queue};
use uuid::Uuid;

/// Submit jobs to the queue `jobs`.
#[derive(Parser)]
struct Args {
    /// The names of the jobs
    #[arg(default_values = ["invoice"])]
    names: Vec<String>,

    /// Each job fails this many times, and then succeeds
    #[arg(long, value_name = "TIMES", group = "end")]
    fails: Option<u32>,

    /// Each job fails always
    #[arg(long, group = "end")]
    always_fails: bool,

    /// Each job kills its worker
    #[arg(long, group = "end")]
    kills_worker: bool,

    /// How long each attempt takes
    #[arg(long, default_value_t = 0)]
    seconds: u32,

    /// Send the names as they are: no JSON, and no job
    #[arg(long, conflicts_with_all = ["end", "seconds"])]
    unreadable: bool,

    /// First let each job wait this long in `jobs.wait`, with an expiration of its own: a trap
    // RabbitMQ counts milliseconds, in 32 bits.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=4_294_967))]
    wait: Option<u32>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| submit(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// Submits the jobs, one after the other.
async fn submit(channel: &Channel, args: Args) -> anyhow::Result<()> {
    declare(channel).await?;
    if args.wait.is_some() {
        // No time to live of its own: each message brings one.
        declare_queue(channel, "jobs.wait", dead_letters_to("jobs")).await?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    for name in &args.names {
        let ends = match args.fails {
            Some(times) => Ends::WellAfter(times),
            None if args.always_fails => Ends::Badly,
            None if args.kills_worker => Ends::WithItsWorker,
            None => Ends::Well,
        };
        let job = Job { name: name.clone(), seconds: args.seconds, ends };
        let body = match args.unreadable {
            true => name.clone().into_bytes(),
            false => serde_json::to_vec(&job)?,
        };
        // The id stays the same, however often the job is tried: a worker can tell by it that it
        // has done this job before.
        let mut properties = BasicProperties::default()
            .with_message_id(Uuid::now_v7().to_string().into())
            .with_content_type("application/json".into())
            .with_delivery_mode(2); // persistent
        let mut queue = "jobs";
        if let Some(seconds) = args.wait {
            queue = "jobs.wait";
            let milliseconds = (1000 * u64::from(seconds)).to_string(); // as text: so AMQP has it
            properties = properties.with_expiration(milliseconds.into());
        }
        publish(channel, queue, &body, properties).await?;
        answered(); // many jobs may take longer than one answer should
        say!(" [x] Submitted {}", printable(name.as_bytes()))?;
    }
    Ok(())
}

/// Publishes a job, and waits until the broker has it.
async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm =
        channel.basic_publish("".into(), queue.into(), mandatory, body, properties).await?;
    match confirm.await.context("no confirm came: the broker may not have the job")? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => {
            bail!("{}: the queue `{queue}` is gone; the job came back", returned.reply_text)
        }
        _ => bail!("the broker did not take the job: a queue is full, or down. Try again"),
    }
}
