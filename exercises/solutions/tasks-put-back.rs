//! Hint: Look at what is done with the task when `stop` is cancelled. `task.nack(...)` with
//! `requeue: true` gives it back.
//!
//! Why: Ctrl-C ends a worker, not its task. The task in hand was not done, so nobody may
//! acknowledge it. `nack` with `requeue` gives it back at once; a connection that closes does so,
//! too.

use std::time::Duration;

use anyhow::Context;
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
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
                let requeue = BasicNackOptions { requeue: true, ..Default::default() };
                task.nack(requeue).await?;
                break;
            }
        }
        say!(" [x] Done {}", printable(&task.data))?;
        task.ack(BasicAckOptions::default()).await?;
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}
