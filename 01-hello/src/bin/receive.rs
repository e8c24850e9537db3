//! Receives the messages of the queue `hello`, as a stream, until Ctrl-C.
//!
//!     cargo run -p hello --bin receive

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, Ended, note, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

/// Receive the messages of the queue `hello` until Ctrl-C.
#[derive(Parser)]
struct Args {}

#[tokio::main]
async fn main() {
    Args::parse();
    common::exit(supervise(env!("CARGO_BIN_NAME"), receive).await)
}

/// Receives over this connection, until Ctrl-C, or until it is lost or something else is wrong.
async fn receive(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    // A connection is a TCP connection to the broker. A channel is a light, virtual connection
    // inside it; nearly all of AMQP is said on a channel.
    let channel = connection.create_channel().await?;

    // The same queue with the same properties as in `send`: whoever comes first creates it.
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .context("cannot declare the queue `hello`")?;

    // From here on the broker pushes messages to us as they come; nobody polls.
    let mut consumer = channel
        .basic_consume(
            "hello".into(),
            "".into(), // the consumer's name: the broker makes one up
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    note!(" [*] Waiting for messages. To exit press CTRL+C");

    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            () = stop.cancelled() => return Ok(()),
        };
        let delivery = delivery.context(Ended("hello"))??;
        let again = if delivery.redelivered { " (redelivered)" } else { "" };
        say!(" [x] Received {}{again}", printable(&delivery.data))?;
        // Only now may the broker forget the message. Had we died before this line, it would
        // deliver the message again, to us or to another consumer.
        delivery.ack(BasicAckOptions::default()).await?;
    }
}
