//! Hint: `basic_publish(...).await?` gives a `PublisherConfirm`. Await it, too, and look at which
//! `Confirmation` comes: only `Ack(None)` means that the broker has the message.
//!
//! Why: `basic_publish` is done when the message is on its way. Whether the broker has it, the
//! confirm says: an acknowledgement, or a `nack` if the broker refuses the message.

use std::env;

use anyhow::bail;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), send).await)
}

async fn send(channel: &Channel) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for message in env::args().skip(1) {
        let confirm = channel
            .basic_publish(
                "".into(),
                "hello".into(),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                message.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?;
        match confirm.await? {
            Confirmation::Ack(None) => say!(" [x] Sent {message}")?,
            other => bail!("the broker did not take the message: {other:?}"),
        }
    }
    Ok(())
}
