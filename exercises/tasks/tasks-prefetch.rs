//! Lesson 2: fair dispatch
//!
//! This worker says `[x] Received ...` of a task of the queue `task_queue`, works on it for 0.3
//! seconds, and says `[x] Done ...`.
//!
//! Wanted: a worker that is started when there is much to do gets its share.
//!
//! The check: ten tasks and one worker; once it is at work, a second one is started. What each has
//! done is counted.
//!
//! Help: 02-work-queues/README.md, "Fair dispatch".

use std::time::Duration;

use anyhow::Context;
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::sleep;

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), do_tasks).await)
}

async fn do_tasks(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("task_queue".into(), QueueDeclareOptions::durable(), arguments).await?;
    let options = BasicConsumeOptions::default();
    let table = FieldTable::default();
    let mut consumer =
        channel.basic_consume("task_queue".into(), "".into(), options, table).await?;
    say!(" [*] Waiting")?;

    loop {
        let task = tokio::select! {
            task = consumer.next() => task,
            () = stop.cancelled() => return Ok(()),
        };
        let task = task.context(Ended("task_queue"))??;
        say!(" [x] Received {}", printable(&task.data))?;
        sleep(Duration::from_millis(300)).await; // this is the work
        say!(" [x] Done {}", printable(&task.data))?;
        task.ack(BasicAckOptions::default()).await?;
    }
}
