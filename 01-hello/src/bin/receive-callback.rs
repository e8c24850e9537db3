//! Receives the messages of the queue `hello` with a callback, until Ctrl-C.
//!
//!     cargo run -p hello --bin receive-callback

use anyhow::{Context, anyhow};
use clap::Parser;
use common::{CancellationToken, Ended, note, printable, say, supervise};
use lapin::Connection;
use lapin::message::{Delivery, DeliveryResult};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::mpsc;

/// Receive the messages of the queue `hello` with a callback, until Ctrl-C.
#[derive(Parser)]
struct Args {}

#[tokio::main]
async fn main() {
    Args::parse();
    common::exit(supervise(env!("CARGO_BIN_NAME"), receive).await)
}

/// Receives over this connection, until Ctrl-C, or until it is lost or something else is wrong.
async fn receive(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;

    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .context("cannot declare the queue `hello`")?;

    let consumer = channel
        .basic_consume(
            "hello".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;

    // lapin calls this for each delivery, in a task of its own: `main` is free for other work, and
    // a slow call does not hold up the next one. The calls may start and end in any order.
    let (ended, mut end) = mpsc::unbounded_channel();
    consumer.set_delegate(move |delivery: DeliveryResult| {
        let ended = ended.clone();
        async move {
            let result = match delivery {
                Ok(Some(delivery)) => match show(delivery).await {
                    Ok(()) => return,
                    Err(error) => Err(error),
                },
                Ok(None) => Err(anyhow!(Ended("hello"))),
                Err(error) => Err(error.into()),
            };
            let _ = ended.send(result); // a callback has nobody to return an error to
        }
    });
    note!(" [*] Waiting for messages. To exit press CTRL+C");

    // Nor is a callback told that the connection is lost, but `supervise` looks after that.
    tokio::select! {
        Some(result) = end.recv() => result,
        () = stop.cancelled() => Ok(()),
    }
}

async fn show(delivery: Delivery) -> anyhow::Result<()> {
    let again = if delivery.redelivered { " (redelivered)" } else { "" };
    say!(" [x] Received {}{again}", printable(&delivery.data))?;
    delivery.ack(BasicAckOptions::default()).await?;
    Ok(())
}
