//! Lesson 3: say that you are ready when you are
//!
//! This program receives what is published to the fanout exchange `logs`, and says `[x] Received
//! ...`.
//!
//! Wanted: when it says `[*] Waiting`, it is ready: it gets every line that is published from then
//! on.
//!
//! The check: the way from the program to the broker is slow. 200 lines are published as soon as it
//! has said `[*] Waiting`. What has come is counted.
//!
//! Help: 03-publish-subscribe/README.md, "The binding" and "A receiver that starts late".

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
    say!(" [*] Waiting")?;
    let table = FieldTable::default;
    let options = ExchangeDeclareOptions::default();
    channel.exchange_declare("logs".into(), ExchangeKind::Fanout, options, table()).await?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, table()).await?;
    let name = queue.name().clone();
    let options = QueueBindOptions::default();
    channel.queue_bind(name.clone(), "logs".into(), "".into(), options, table()).await?;

    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel.basic_consume(name, "".into(), no_ack, table()).await?;
    loop {
        let line = tokio::select! {
            line = consumer.next() => line,
            () = stop.cancelled() => return Ok(()),
        };
        let line = line.context("the broker has ended the consumer")??;
        say!(" [x] Received {}", printable(&line.data))?;
    }
}
