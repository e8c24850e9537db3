//! Lesson 2: Ctrl-C in the middle of a task
//!
//! This worker says `[x] Received ...` of a task of the queue `task_queue`, works on it for a
//! second, and says `[x] Done ...`.
//!
//! Wanted: on Ctrl-C it ends within two seconds, with exit code 0. Each task that it has not done
//! is in the queue.
//!
//! The check: three tasks, and Ctrl-C in the middle of the second one. What is done is compared
//! with what is in the queue.
//!
//! Help: 02-work-queues/README.md, "Stop without a loss".

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
            () = stop.cancelled() => break,
        };
        let task = task.context(Ended("task_queue"))??;
        say!(" [x] Received {}", printable(&task.data))?;
        tokio::select! {
            () = sleep(Duration::from_millis(1000)) => {} // this is the work
            () = stop.cancelled() => {
                task.ack(BasicAckOptions::default()).await?;
                break;
            }
        }
        say!(" [x] Done {}", printable(&task.data))?;
        task.ack(BasicAckOptions::default()).await?;
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}
