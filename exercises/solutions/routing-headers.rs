//! Hint: `x-match` is `any` or `all`.
//!
//! Why: `x-match` says whether all headers of the binding must be there (`all`), or whether one is
//! enough (`any`).

use anyhow::Context;
use common::{CancellationToken, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ExchangeKind};

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), receive).await)
}

async fn receive(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let table = FieldTable::default;
    let options = ExchangeDeclareOptions::default();
    let kind = ExchangeKind::Headers;
    channel.exchange_declare("documents".into(), kind, options, table()).await?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, table()).await?;
    let name = queue.name().clone();
    let mut wanted = table();
    for (key, value) in [("x-match", "all"), ("format", "pdf"), ("type", "report")] {
        wanted.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    let options = QueueBindOptions::default();
    channel.queue_bind(name.clone(), "documents".into(), "".into(), options, wanted).await?;

    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel.basic_consume(name, "".into(), no_ack, table()).await?;
    say!(" [*] Waiting")?;
    loop {
        let document = tokio::select! {
            document = consumer.next() => document,
            () = stop.cancelled() => return Ok(()),
        };
        let document = document.context("the broker has ended the consumer")??;
        say!(" [x] Received {}", printable(&document.data))?;
    }
}
