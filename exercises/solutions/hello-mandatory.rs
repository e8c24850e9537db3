//! Hint: An exchange drops what no queue takes, unless `BasicPublishOptions` has `mandatory: true`.
//! Then the message comes back in `Confirmation::Ack(Some(_))`.
//!
//! Why: the default exchange drops a message whose routing key is the name of no queue, and
//! confirms it all the same. With `mandatory` it sends the message back, and the confirm holds it.

use std::env;

use anyhow::{Context, bail};
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), send).await)
}

async fn send(channel: &Channel) -> anyhow::Result<()> {
    let queue = env::args().nth(1).context("usage: hello-mandatory QUEUE MESSAGE")?;
    let message = env::args().nth(2).context("usage: hello-mandatory QUEUE MESSAGE")?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let confirm = channel
        .basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions { mandatory: true, ..Default::default() },
            message.as_bytes(),
            BasicProperties::default().with_delivery_mode(2),
        )
        .await?;
    match confirm.await? {
        Confirmation::Ack(None) => say!(" [x] Sent {message}"),
        Confirmation::Ack(Some(_)) => bail!("there is no queue `{queue}`; the message came back"),
        other => bail!("the broker did not take the message: {other:?}"),
    }
}
