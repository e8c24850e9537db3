//! Receives the messages of the queue `hello` and ends when none has come for a while.
//!
//!     cargo run -p hello --bin receive-until-idle
//!     cargo run -p hello --bin receive-until-idle -- 2.5

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, Ended, note, printable, say, supervise};
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

/// Receive the messages of the queue `hello` until none has come for a while, or Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How long to wait for a message, in seconds
    #[arg(default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |connection: &_, stop: &_| receive(connection, stop, args.seconds).await;
    common::exit(supervise(env!("CARGO_BIN_NAME"), work).await)
}

/// Receives over this connection, until nothing comes any more or Ctrl-C, or until it is lost.
async fn receive(
    connection: &Connection,
    stop: &CancellationToken,
    idle: Duration,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;

    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .context("cannot declare the queue `hello`")?;

    // At most so many messages come before we acknowledge any. If we die, they come again.
    channel.basic_qos(1000, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(
            "hello".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;

    // The stream of a consumer has no end of its own. A limit on the wait for its next item makes
    // one.
    loop {
        let next = tokio::select! {
            next = timeout(idle, consumer.next()) => next,
            () = stop.cancelled() => return Ok(()),
        };
        let Ok(delivery) = next else { break };
        let mut delivery = delivery.context(Ended("hello"))??;
        loop {
            let again = if delivery.redelivered { " (redelivered)" } else { "" };
            say!(" [x] Received {}{again}", printable(&delivery.data))?;
            // Is the next one here already?
            let Some(next) = poll_once(consumer.next()).await else { break };
            delivery = next.context(Ended("hello"))??;
        }
        // One acknowledgement for all that has come: `multiple` means this one and those before.
        delivery.ack(BasicAckOptions { multiple: true }).await?;
    }
    note!(" [*] No message for {idle:?}");
    Ok(())
}
