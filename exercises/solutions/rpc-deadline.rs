//! Hint: `tokio::time::timeout(duration, future)` ends the waiting.
//!
//! Why: nobody promises an answer: there may be no server, or it has died. Whoever asks must know
//! when to give up.

use std::env;
use std::time::Duration;

use anyhow::Context;
use common::{once, printable, say};
use futures_lite::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use tokio::time::timeout;

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), call).await)
}

async fn call(channel: &Channel) -> anyhow::Result<()> {
    let number = env::args().nth(1).context("usage: rpc-deadline NUMBER")?;
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let replies = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
    let reply_to = replies.name().clone();
    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let table = FieldTable::default();
    let mut answers = channel.basic_consume(reply_to.clone(), "".into(), no_ack, table).await?;

    let properties =
        BasicProperties::default().with_reply_to(reply_to).with_correlation_id("1".into());
    let (options, body) = (BasicPublishOptions::default(), number.as_bytes());
    channel.basic_publish("".into(), "rpc_queue".into(), options, body, properties).await?;

    let answer = timeout(Duration::from_secs(3), answers.next());
    let answer = answer.await.context("no answer within three seconds")?;
    let answer = answer.context("the reply queue is gone")??;
    say!(" [.] fib({number}) = {}", printable(&answer.data))
}
