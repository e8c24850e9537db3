//! Hint: Keep the requests in a `HashMap`, by correlation id. An answer has the id of its request:
//! `answer.properties.correlation_id()`.
//!
//! Why: answers come in the order in which the servers finish, and there may be one to an earlier
//! call. The correlation id says to which request an answer belongs.

use std::collections::HashMap;
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

    let mut asked = HashMap::new();
    for number in env::args().skip(1) {
        let id = Uuid::now_v7().to_string();
        let properties = BasicProperties::default()
            .with_reply_to(reply_to.clone())
            .with_correlation_id(id.as_str().into());
        let (options, body) = (BasicPublishOptions::default(), number.as_bytes());
        channel.basic_publish("".into(), "rpc_queue".into(), options, body, properties).await?;
        asked.insert(id, number);
    }

    while !asked.is_empty() {
        let answer = answers.next().await.context("the reply queue is gone")??;
        let id = answer.properties.correlation_id().as_ref().map_or("", |id| id.as_str());
        if let Some(number) = asked.remove(id) {
            say!(" [.] fib({number}) = {}", printable(&answer.data))?;
        }
    }
    Ok(())
}
