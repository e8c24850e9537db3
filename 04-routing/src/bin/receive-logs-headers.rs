//! Receives the log lines that have some headers from the headers exchange `header_test`, until
//! Ctrl-C.
//!
//!     cargo run -p routing --bin receive-logs-headers -- all level=error part=disk
//!     cargo run -p routing --bin receive-logs-headers -- any level=error part=disk

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, note, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Connection, ExchangeKind};
use routing::{header, table};

/// Receive the log lines that have some headers from the exchange `header_test` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Whether a log line must have all of the headers, or one of them at least
    #[arg(value_name = "all|any", value_parser = ["all", "any"])]
    matching: String,

    /// The headers
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(ShortString, AMQPValue)>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let mut arguments = table(args.headers).unwrap_or_else(|error| error.exit());
    arguments.insert("x-match".into(), AMQPValue::LongString(args.matching.into()));

    let work = async |connection: &_, stop: &_| receive(connection, stop, &arguments).await;
    common::exit(supervise(env!("CARGO_BIN_NAME"), work).await)
}

/// Receives over this connection, with a new queue, until Ctrl-C, or until it is lost or something
/// else is wrong.
async fn receive(
    connection: &Connection,
    stop: &CancellationToken,
    arguments: &FieldTable,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel
        .exchange_declare(
            "header_test".into(),
            ExchangeKind::Headers,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `header_test`")?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;

    // What the exchange compares stands in the arguments of the binding: the headers, and in
    // `x-match` whether all of them must be there.
    channel
        .queue_bind(
            queue.name().clone(),
            "header_test".into(),
            "".into(),
            QueueBindOptions::default(),
            arguments.clone(),
        )
        .await?;

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
        let delivery =
            delivery.context("the broker ended the consumer: was the queue deleted?")??;
        say!(" [x] Received {}", printable(&delivery.data))?;
    }
}
