//! Lesson 1: a receiver that dies
//!
//! This program receives the messages of the queue `hello`, needs a tenth of a second for each, and
//! says `[x] Done ...`.
//!
//! Wanted: when it dies, the messages that it has not done are still there for the next one; and a
//! message that is done does not come again.
//!
//! The check: ten messages. The program is killed (-9) after the third, and started again. What was
//! done is counted, and what is left in the queue.
//!
//! Help: 01-hello/README.md, "Acknowledge" and "A consumer that does not finish".

use std::time::Duration;

use anyhow::Context;
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
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
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
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
    }
}
