//! Hint: A queue may have many bindings: one `queue_bind` for each severity.
//!
//! Why: a queue may have any number of bindings, and gets what one of them asks for. A binding key
//! of a direct exchange is compared as a whole, so each severity needs a binding.

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
    for severity in &severities {
        let (key, options) = (severity.as_str().into(), QueueBindOptions::default());
        channel.queue_bind(name.clone(), "direct_logs".into(), key, options, table()).await?;
    }

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
