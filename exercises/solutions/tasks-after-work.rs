//! Hint: Which line is the last one that a dying worker must have reached, so that the task is
//! done?
//!
//! Why: an acknowledgement is the end of a task: the broker forgets it. A worker that dies between
//! the acknowledgement and the end of the work takes the task with it.

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
        say!(" [x] Received {}", printable(&task.data))?;
        sleep(Duration::from_millis(300)).await; // this is the work
        say!(" [x] Done {}", printable(&task.data))?;
        task.ack(BasicAckOptions::default()).await?;
    }
}
