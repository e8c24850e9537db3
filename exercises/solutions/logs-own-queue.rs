//! Hint: Both receivers consume from one queue. Declare one without a name (`""`), exclusive:
//! `queue.name()` is the name that the broker has given it.
//!
//! Why: consumers of one queue share its messages. A receiver of all of them needs a queue of its
//! own: without a name from us, the broker makes one up.

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
    channel.exchange_declare("logs".into(), ExchangeKind::Fanout, options, table()).await?;

    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), exclusive, table()).await?;
    let name = queue.name().clone();
    let options = QueueBindOptions::default();
    channel.queue_bind(name.clone(), "logs".into(), "".into(), options, table()).await?;

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
