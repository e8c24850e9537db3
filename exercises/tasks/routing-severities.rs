//! Lesson 4: several keys, one queue
//!
//! This program receives the lines of the direct exchange `direct_logs` whose severities are its
//! arguments, and says `[x] Received ...`.
//!
//! Wanted: it gets the lines of each of these severities, and no others.
//!
//! The check: it is started with `warning error`. Lines of three severities are published.
//!
//! Help: 04-routing/README.md, "By a key: the direct exchange".

use std::env;

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
    let severities: Vec<String> = env::args().skip(1).collect();
    let channel = connection.create_channel().await?;
    let table = FieldTable::default;
    let options = ExchangeDeclareOptions::default();
    let kind = ExchangeKind::Direct;
    channel.exchange_declare("direct_logs".into(), kind, options, table()).await?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, table()).await?;
    let name = queue.name().clone();
    let (key, options) = (severities[0].as_str().into(), QueueBindOptions::default());
    channel.queue_bind(name.clone(), "direct_logs".into(), key, options, table()).await?;

    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel.basic_consume(name, "".into(), no_ack, table()).await?;
    say!(" [*] Waiting")?;
    loop {
        let line = tokio::select! {
            line = consumer.next() => line,
            () = stop.cancelled() => return Ok(()),
        };
        let line = line.context("the broker has ended the consumer")??;
        say!(" [x] Received {}", printable(&line.data))?;
    }
}
