//! Hint: `*` is exactly one word. What stands for any number of words?
//!
//! Why: in a pattern, `*` stands for exactly one word and `#` for any number of words, none
//! included. What comes behind `order` may be one word, two, or none.

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
    let (pattern, options) = ("eu.order.#", QueueBindOptions::default());
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
