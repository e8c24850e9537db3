//! Publishes one log line to the exchange `logs`, for whoever listens.
//!
//!     cargo run -p publish-subscribe --bin emit-log
//!     cargo run -p publish-subscribe --bin emit-log -- The disk is full

use anyhow::{Context, bail};
use clap::Parser;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};

/// Publish one log line to the exchange `logs`.
#[derive(Parser)]
struct Args {
    /// The log line; several words are joined with spaces
    #[arg(default_values = ["Hello", "World!"])]
    words: Vec<String>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| emit(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// Publishes the log line, and waits until the broker has it.
async fn emit(channel: &Channel, args: Args) -> anyhow::Result<()> {
    let line = args.words.join(" ");
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // The receivers declare the same exchange: whoever comes first creates it. There is no queue
    // here. Which queues get the line is the receivers' affair.
    channel
        .exchange_declare(
            "logs".into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `logs`")?;

    let confirm = channel
        .basic_publish(
            "logs".into(),
            "".into(), // a fanout exchange does not look at the routing key
            BasicPublishOptions::default(), // not mandatory: it may be that nobody listens
            line.as_bytes(),
            BasicProperties::default(),
        )
        .await?;

    // The broker has handed the line to every queue that is bound: to none, if there is none.
    match confirm.await.context("no confirm came: the broker may not have the log line")? {
        Confirmation::Ack(_) => say!(" [x] Sent {line}"),
        _ => bail!("the broker did not take the log line: a queue is full, or down. Try again"),
    }
}
