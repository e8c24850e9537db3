//! Publishes one log line to the topic exchange `topic_logs`, for whoever has a pattern that its
//! key matches.
//!
//!     cargo run -p routing --bin emit-log-topic -- kern.critical The kernel is in panic

use anyhow::{Context, bail};
use clap::Parser;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use routing::routing_key;

/// Publish one log line to the exchange `topic_logs`.
#[derive(Parser)]
struct Args {
    /// What it is about: words with dots between them, such as `kern.critical`
    #[arg(value_parser = routing_key)]
    key: ShortString,

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
async fn emit(channel: &Channel, Args { key, words }: Args) -> anyhow::Result<()> {
    let line = words.join(" ");
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    channel
        .exchange_declare(
            "topic_logs".into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `topic_logs`")?;

    let confirm = channel
        .basic_publish(
            "topic_logs".into(),
            key.clone(), // to the queues that are bound with a pattern that it matches
            BasicPublishOptions::default(),
            line.as_bytes(),
            BasicProperties::default(),
        )
        .await?;

    match confirm.await.context("no confirm came: the broker may not have the log line")? {
        Confirmation::Ack(_) => say!(" [x] Sent {key}: {line}"),
        _ => bail!("the broker did not take the log line: a queue is full, or down. Try again"),
    }
}
