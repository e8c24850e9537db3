//! Submits mails to a queue.
//!
//!     cargo run -p service --bin submit-mail
//!     cargo run -p service --bin submit-mail -- ann@example.org bob@example.org

use anyhow::{Context, bail};
use clap::Parser;
use common::answer::answered;
use common::{once, printable, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use service::{Queue, mail::Mail};
use telemetry::{Logs, trace_id, traced};
use uuid::Uuid;

/// Submit mails to a queue.
#[derive(Parser)]
#[command(after_help = telemetry::VARIABLES)]
struct Args {
    /// To whom; a mail each
    #[arg(default_values = ["ann@example.org"])]
    to: Vec<String>,

    /// The subject of each mail
    #[arg(long, default_value = "Your order")]
    subject: String,

    #[command(flatten)]
    queue: Queue,

    #[command(flatten)]
    logs: Logs,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let program = env!("CARGO_BIN_NAME");
    args.logs.start(program)?;
    once(program, async |channel| submit(channel, &args).await).await
}

/// Submits the mails, one after the other.
async fn submit(channel: &Channel, args: &Args) -> anyhow::Result<()> {
    args.queue.declare(channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for to in &args.to {
        let mail = Mail { to: to.clone(), subject: args.subject.clone() };
        let properties = BasicProperties::default()
            .with_message_id(Uuid::now_v7().to_string().into())
            .with_content_type("application/json".into())
            .with_delivery_mode(2); // persistent
        // A trace begins here: it is in a header of the message, and goes on where that is read.
        let properties = traced(properties);
        publish(channel, &args.queue.name, &serde_json::to_vec(&mail)?, &properties).await?;
        answered(); // many mails may take longer than one answer should
        let to = printable(to.as_bytes());
        say!(" [x] Submitted a mail to {to}, trace {}", trace_id(&properties))?;
    }
    Ok(())
}

/// Publishes a mail, and waits until the broker has it.
async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: &BasicProperties,
) -> anyhow::Result<()> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm =
        channel.basic_publish("".into(), queue.into(), mandatory, body, properties.clone()).await?;
    match confirm.await.context("no confirm came: the broker may not have the mail")? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => {
            bail!("{}: the queue `{queue}` is gone; the mail came back", returned.reply_text)
        }
        _ => bail!("the broker did not take the mail: a queue is full, or down. Try again"),
    }
}
