//! Hint: In which line can the first message arrive? What says that it waits belongs after it.
//!
//! Why: what is published before the queue is bound goes to the other queues only. A program that
//! says that it is ready must have declared its queue and bound it.

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
