//! Appends events to a stream over AMQP 0-9-1.
//!
//!     cargo run -p streams --bin append-events -- signed_up logged_in
//!     cargo run -p streams --bin append-events -- --count 100000

use std::collections::VecDeque;

use anyhow::{bail, ensure};
use clap::Parser;
use common::answer::answered;
use common::{once, printable, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use streams::Stream;
use tokio::time::Instant;

/// Append events to a stream over AMQP 0-9-1.
#[derive(Parser)]
struct Args {
    /// The events
    #[arg(value_name = "EVENT", required_unless_present = "count")]
    events: Vec<String>,

    /// Append this many events: `event 1`, `event 2`, and so on
    #[arg(long, value_name = "N", conflicts_with = "events")]
    count: Option<u64>,

    /// How many events may wait for their confirms at once
    #[arg(long, value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,

    #[command(flatten)]
    stream: Stream,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    common::exit(once(env!("CARGO_BIN_NAME"), async |channel| append(channel, &args).await).await)
}

async fn append(channel: &Channel, args: &Args) -> anyhow::Result<()> {
    args.stream.declare(channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let start = Instant::now();
    let mut confirms = VecDeque::new();
    let many = (1..=args.count.unwrap_or(0)).map(|number| format!("event {number}"));
    for event in args.events.iter().cloned().chain(many) {
        if confirms.len() == usize::from(args.window)
            && let Some(confirm) = confirms.pop_front()
        {
            wait(confirm).await?;
        }
        // A stream is bound to exchanges as a queue is: here, to the default one by its name.
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (stream, none) = (args.stream.name.as_str().into(), BasicProperties::default());
        let confirm =
            channel.basic_publish("".into(), stream, options, event.as_bytes(), none).await?;
        match args.count {
            Some(_) => confirms.push_back(confirm),
            None => {
                wait(confirm).await?;
                say!(" [x] Appended {}", printable(event.as_bytes()))?;
            }
        }
    }
    for confirm in confirms {
        wait(confirm).await?;
    }
    if let Some(count) = args.count {
        let rate = count as f64 / start.elapsed().as_secs_f64();
        say!(" [x] Events appended: {count}; a second: {rate:.0}")?;
    }
    Ok(())
}

/// Waits for the confirm of one event: the stream has it.
async fn wait(confirm: PublisherConfirm) -> anyhow::Result<()> {
    match confirm.await? {
        Confirmation::Ack(None) => {}
        Confirmation::Ack(Some(returned)) => {
            bail!("{}: the stream is gone; the event came back", returned.reply_text)
        }
        confirmation => {
            ensure!(confirmation.is_ack(), "the stream did not take the event; try again")
        }
    }
    answered();
    Ok(())
}
