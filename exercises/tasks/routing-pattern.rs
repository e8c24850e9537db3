//! Lesson 4: a pattern that fits
//!
//! This program receives what the topic exchange `events` has on orders in Europe, and says `[x]
//! Received ...`.
//!
//! Wanted: it gets `eu.order`, `eu.order.created` and `eu.order.item.added`, and whatever else
//! begins so; and no event of other regions or on other things.
//!
//! The check: events with eight routing keys are published.
//!
//! Help: 04-routing/README.md, "By a pattern: the topic exchange".

use anyhow::Context;
use common::{CancellationToken, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), receive).await)
}

async fn receive(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let table = FieldTable::default;
    let options = ExchangeDeclareOptions::default();
    let kind = ExchangeKind::Topic;
    channel.exchange_declare("events".into(), kind, options, table()).await?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, table()).await?;
    let name = queue.name().clone();
    let (pattern, options) = ("eu.order.*", QueueBindOptions::default());
    channel.queue_bind(name.clone(), "events".into(), pattern.into(), options, table()).await?;

    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel.basic_consume(name, "".into(), no_ack, table()).await?;
    say!(" [*] Waiting")?;
    loop {
        let event = tokio::select! {
            event = consumer.next() => event,
            () = stop.cancelled() => return Ok(()),
        };
        let event = event.context("the broker has ended the consumer")??;
        say!(" [x] Received {}", printable(&event.data))?;
    }
}
