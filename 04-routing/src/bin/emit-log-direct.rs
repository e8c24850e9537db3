//! Publishes one log line to the direct exchange `direct_logs`, for whoever listens to its severity.
//!
//!     cargo run -p routing --bin emit-log-direct -- error The disk is full

use anyhow::{Context, anyhow};
use clap::Parser;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, ExchangeKind};
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), common::Error> {
    let Args { severity, words } = Args::parse();
    let line = words.join(" ");
    let connection = common::connect(env!("CARGO_BIN_NAME")).await?;
    let channel = connection.create_channel().await?;
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

    let confirmation =
        confirm.await.context("no confirm came: the broker may not have the log line")?;
    common::close(connection).await;
    match confirmation {
        Confirmation::Ack(_) => println!(" [x] Sent {severity}: {line}"),
        other => Err(anyhow!("the broker did not take the log line: {other:?}"))?,
    }
    Ok(())
}
