//! Hint: A loop around the publish, which ends with `Confirmation::Ack`. A short pause before the
//! next attempt leaves the broker in peace.
//!
//! Why: a broker that refuses a message (`nack`) does not have it. It may take it later: a queue
//! that is full becomes free, and a cluster elects a new leader.

use std::env;
use std::time::Duration;

use anyhow::bail;
use common::answer::answered;
use common::{note, once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::sleep;

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), publish).await)
}

async fn publish(channel: &Channel) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for message in env::args().skip(1) {
        loop {
            let confirm = channel
                .basic_publish(
                    "".into(),
                    "steady".into(),
                    BasicPublishOptions { mandatory: true, ..Default::default() },
                    message.as_bytes(),
                    BasicProperties::default().with_delivery_mode(2),
                )
                .await?;
            let confirmation = confirm.await?;
            answered(); // a refusal is an answer, too: `once` lets us try for as long as it takes
            match confirmation {
                Confirmation::Ack(None) => break,
                Confirmation::Nack(_) => note!(" [!] {message} is refused"),
                other => bail!("there is no queue `steady`: {other:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
        say!(" [x] Confirmed {message}")?;
    }
    Ok(())
}
