//! Lesson 2: acknowledge after the work
//!
//! This worker says `[x] Received ...` of a task of the queue `task_queue`, works on it for 0.3
//! seconds, and says `[x] Done ...`.
//!
//! Wanted: a task whose worker dies in the middle of it is done by the next worker.
//!
//! The check: five tasks. The worker is killed (-9) in the middle of the second one, and another
//! one is started.
//!
//! Help: 02-work-queues/README.md, "Acknowledge after the work".

use std::time::Duration;

use anyhow::Context;
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
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
    channel.basic_qos(1, BasicQosOptions::default()).await?;
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
        task.ack(BasicAckOptions::default()).await?;
        say!(" [x] Received {}", printable(&task.data))?;
        sleep(Duration::from_millis(300)).await; // this is the work
        say!(" [x] Done {}", printable(&task.data))?;
    }
}
