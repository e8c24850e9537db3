//! Receives the log lines whose key matches one of some patterns from the topic exchange
//! `topic_logs`, until Ctrl-C.
//!
//!     cargo run -p routing --bin receive-logs-topic -- 'kern.*' '*.critical'

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, note, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Connection, ExchangeKind};
use routing::routing_key;

/// Receive the log lines whose key matches a pattern from the exchange `topic_logs` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Words with dots between them, where `*` stands for one word and `#` for any number, none
    /// included
    #[arg(required = true, value_parser = routing_key)]
    patterns: Vec<ShortString>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |connection: &_, stop: &_| receive(connection, stop, &args.patterns).await;
    common::exit(supervise(env!("CARGO_BIN_NAME"), work).await)
}

/// Receives over this connection, with a new queue, until Ctrl-C, or until it is lost or something
/// else is wrong.
async fn receive(
    connection: &Connection,
    stop: &CancellationToken,
    patterns: &[ShortString],
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel
        .exchange_declare(
            "topic_logs".into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `topic_logs`")?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;

    // One queue with several bindings: it gets what any of them lets through.
    for pattern in patterns {
        channel
            .queue_bind(
                queue.name().clone(),
                "topic_logs".into(),
                pattern.clone(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }

    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel
        .basic_consume(queue.name().clone(), "".into(), no_ack, FieldTable::default())
        .await?;
    note!(" [*] Waiting for logs in the queue {}. To exit press CTRL+C", queue.name());

    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            () = stop.cancelled() => return Ok(()),
        };
        let log = delivery.context("the broker ended the consumer: was the queue deleted?")??;
        let key = printable(log.routing_key.as_str().as_bytes());
        say!(" [x] Received {key}: {}", printable(&log.data))?;
    }
}
