//! Hint: With `no_ack: true` the broker forgets a message when it has sent it. Without, it waits
//! for `delivery.ack(...)`: where does that belong?
//!
//! Why: with automatic acknowledgement (`no_ack`) the broker forgets a message as soon as it has
//! sent it. Those that were on their way to a program that dies are lost. An acknowledgement that
//! comes before the work is no better: it says that all is done.

use std::time::Duration;

use anyhow::Context;
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::sleep;

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), receive).await)
}

async fn receive(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("hello".into(), "".into(), options, FieldTable::default()).await?;
    say!(" [*] Waiting")?;

    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            () = stop.cancelled() => return Ok(()),
        };
        let delivery = delivery.context(Ended("hello"))??;
        sleep(Duration::from_millis(100)).await; // this is the work
        say!(" [x] Done {}", printable(&delivery.data))?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
}
