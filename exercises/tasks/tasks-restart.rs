//! Lesson 2: tasks that survive a restart
//!
//! This program sends its arguments to the classic queue `tasks`, one task each.
//!
//! Wanted: tasks that the broker has confirmed are there after it was restarted. The queue stays a
//! durable classic queue.
//!
//! The check: five tasks are sent, and the broker is restarted. What is in the queue then is
//! counted.
//!
//! Help: 02-work-queues/README.md, "Tasks that survive a restart" and "Quorum queue or classic
//! queue".

use std::env;

use anyhow::bail;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation};

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), send).await)
}

async fn send(channel: &Channel) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare("tasks".into(), durable, FieldTable::default()).await?;

    for task in env::args().skip(1) {
        let confirm = channel
            .basic_publish(
                "".into(),
                "tasks".into(),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                task.as_bytes(),
                BasicProperties::default(),
            )
            .await?;
        match confirm.await? {
            Confirmation::Ack(None) => say!(" [x] Sent {task}")?,
            other => bail!("the broker did not take the task: {other:?}"),
        }
    }
    Ok(())
}
