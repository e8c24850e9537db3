//! Hint: A durable queue is still there after a restart. Its messages have a property of their own:
//! `with_delivery_mode`.
//!
//! Why: a durable queue outlives a restart of the broker, but not its messages: a classic queue
//! keeps those alone whose delivery mode is 2. (A quorum queue stores every message.)

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
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?;
        match confirm.await? {
            Confirmation::Ack(None) => say!(" [x] Sent {task}")?,
            other => bail!("the broker did not take the task: {other:?}"),
        }
    }
    Ok(())
}
