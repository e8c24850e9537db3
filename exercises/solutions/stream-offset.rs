//! Hint: A stored offset means: all before it is done. When is that true?
//!
//! Why: a stored offset says what is done. Stored before the work, it makes the next reader skip
//! the event in which this one has died. Stored after it, that event is read twice.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::sleep;

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), read).await)
}

async fn read(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let file: PathBuf = std::env::args_os().nth(1).context("usage: stream-offset FILE")?.into();
    let next: i64 = match fs::read_to_string(&file) {
        Ok(text) => text.parse()?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0, // the first time
        Err(error) => return Err(error.into()),
    };
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    channel.queue_declare("events".into(), QueueDeclareOptions::durable(), arguments).await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongLongInt(next));
    let options = BasicConsumeOptions::default();
    let mut events = channel.basic_consume("events".into(), "".into(), options, arguments).await?;
    say!(" [*] Waiting")?;

    loop {
        let event = tokio::select! {
            event = events.next() => event.context(Ended("events"))??,
            () = stop.cancelled() => return Ok(()),
        };
        say!(" [x] Received {}", printable(&event.data))?;
        sleep(Duration::from_millis(100)).await; // this is the work
        say!(" [x] Done {}", printable(&event.data))?;
        store(&file, offset(&event)? + 1)?;
        event.ack(BasicAckOptions::default()).await?;
    }
}

/// Whoever kills us in the middle leaves the old number or the new one, and not half of it.
fn store(file: &Path, next: i64) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, next.to_string())?;
    Ok(fs::rename(new, file)?)
}

/// RabbitMQ sends the offset of each event in a header.
fn offset(event: &Delivery) -> anyhow::Result<i64> {
    let headers = event.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-stream-offset")) {
        Some(AMQPValue::LongLongInt(offset)) => Ok(*offset),
        _ => bail!("an event without an offset"),
    }
}
