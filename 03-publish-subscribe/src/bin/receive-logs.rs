//! Receives every log line that is published to the exchange `logs` from now on, until Ctrl-C.
//!
//!     cargo run -p publish-subscribe --bin receive-logs

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, note, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};

/// Receive every log line of the exchange `logs` until Ctrl-C.
#[derive(Parser)]
struct Args {}

#[tokio::main]
async fn main() {
    Args::parse();
    common::exit(supervise(env!("CARGO_BIN_NAME"), receive).await)
}

/// Receives over this connection, with a new queue, until Ctrl-C, or until it is lost or something
/// else is wrong.
async fn receive(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel
        .exchange_declare(
            "logs".into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `logs`")?;

    // A queue for us alone. Without a name from us, the broker makes one up; exclusive, it is
    // deleted when our connection closes.
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;

    // From here on the exchange puts a copy of every message into our queue.
    channel
        .queue_bind(
            queue.name().clone(),
            "logs".into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;

    // Automatic acknowledgement: if we die, our queue dies with us, and nobody else could get the
    // messages that we have not acknowledged.
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
