//! Lesson 10: a broker that says no for a while
//!
//! This program publishes its arguments to the queue `steady`, which is there, one message each,
//! and says `[x] Confirmed ...` of each.
//!
//! Wanted: what the broker refuses is published again, until the broker takes it. In the end each
//! message was in the queue, and the exit code is 0.
//!
//! The check: six messages for a queue that takes two at a time. The check takes them out. What it
//! got is counted.
//!
//! Help: 10-cluster/README.md, "Published again".

use std::env;

use anyhow::bail;
use common::{note, once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), publish).await)
}

async fn publish(channel: &Channel) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for message in env::args().skip(1) {
        let confirm = channel
            .basic_publish(
                "".into(),
                "steady".into(),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                message.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?;
        match confirm.await? {
            Confirmation::Ack(None) => say!(" [x] Confirmed {message}")?,
            Confirmation::Nack(_) => note!(" [!] {message} is refused"),
            other => bail!("there is no queue `steady`: {other:?}"),
        }
    }
    Ok(())
}
