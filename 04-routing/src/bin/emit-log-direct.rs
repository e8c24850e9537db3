//! Publishes one log line to the direct exchange `direct_logs`, for whoever listens to its
//! severity.
//!
//!     cargo run -p routing --bin emit-log-direct -- error The disk is full

use anyhow::{Context, bail};
use clap::Parser;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use routing::routing_key;

/// Publish one log line to the exchange `direct_logs`.
#[derive(Parser)]
struct Args {
    /// How bad it is: `info`, `warning`, `error`, or any other word
    #[arg(value_parser = routing_key)]
    severity: ShortString,

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
async fn emit(channel: &Channel, Args { severity, words }: Args) -> anyhow::Result<()> {
    let line = words.join(" ");
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    channel
        .exchange_declare(
            "direct_logs".into(),
            ExchangeKind::Direct,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `direct_logs`")?;

    let confirm = channel
        .basic_publish(
            "direct_logs".into(),
            severity.clone(), // to the queues that are bound with exactly this key
            BasicPublishOptions::default(),
            line.as_bytes(),
            BasicProperties::default(),
        )
        .await?;

    match confirm.await.context("no confirm came: the broker may not have the log line")? {
        Confirmation::Ack(_) => say!(" [x] Sent {severity}: {line}"),
        _ => bail!("the broker did not take the log line: a queue is full, or down. Try again"),
    }
}
