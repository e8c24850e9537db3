//! Lesson 8: which answer to which question
//!
//! This program asks for several Fibonacci numbers at once. It publishes a request for each of its
//! arguments to `rpc_queue`, and says `[.] fib(...) = ...` of each answer.
//!
//! Wanted: each answer stands beside its own question, in whatever order the answers come. An
//! answer to nothing that was asked is passed over.
//!
//! The check: the check is the server. It answers three requests in reverse order, and sends an
//! answer with an unknown correlation id first.
//!
//! Help: 08-rpc/README.md, "Which answer belongs to which question".

use std::collections::VecDeque;
use std::env;

use anyhow::Context;
use common::{once, printable, say};
use futures_lite::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use uuid::Uuid;

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), call).await)
}

async fn call(channel: &Channel) -> anyhow::Result<()> {
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let replies = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
    let reply_to = replies.name().clone();
    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let table = FieldTable::default();
    let mut answers = channel.basic_consume(reply_to.clone(), "".into(), no_ack, table).await?;

    let mut asked = VecDeque::new();
    for number in env::args().skip(1) {
        let id = Uuid::now_v7().to_string();
        let properties = BasicProperties::default()
            .with_reply_to(reply_to.clone())
            .with_correlation_id(id.as_str().into());
        let (options, body) = (BasicPublishOptions::default(), number.as_bytes());
        channel.basic_publish("".into(), "rpc_queue".into(), options, body, properties).await?;
        asked.push_back(number);
    }

    while let Some(number) = asked.pop_front() {
        let answer = answers.next().await.context("the reply queue is gone")??;
        say!(" [.] fib({number}) = {}", printable(&answer.data))?;
    }
    Ok(())
}
