//! Lesson 9: a reader that comes late
//!
//! This program reads the events of the stream `events`, and says `[x] Read ...` of each.
//!
//! Wanted: it reads all events that are in the stream, and then those that come.
//!
//! The check: five events, then the program, then five more. What it has read is counted.
//!
//! Help: 09-streams/README.md, "Where to begin".

use anyhow::Context;
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), read).await)
}

async fn read(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    channel.queue_declare("events".into(), QueueDeclareOptions::durable(), arguments).await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("next".into()));
    let options = BasicConsumeOptions::default();
    let mut events = channel.basic_consume("events".into(), "".into(), options, arguments).await?;
    say!(" [*] Waiting")?;

    loop {
        let event = tokio::select! {
            event = events.next() => event.context(Ended("events"))??,
            () = stop.cancelled() => return Ok(()),
        };
        say!(" [x] Read {}", printable(&event.data))?;
        event.ack(BasicAckOptions::default()).await?;
    }
}
