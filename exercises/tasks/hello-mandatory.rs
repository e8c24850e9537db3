//! Lesson 1: a message that no queue takes
//!
//! This program sends a message to the queue that its first argument names, and says `[x] Sent
//! ...`.
//!
//! Wanted: if there is no queue of that name, it ends with an error, and does not say that it has
//! sent anything.
//!
//! The check: it is run with the name of a queue, and with a name that no queue has.
//!
//! Help: 01-hello/README.md, "A message that no queue takes".

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
            BasicPublishOptions::default(),
            message.as_bytes(),
            BasicProperties::default().with_delivery_mode(2),
        )
        .await?;
    match confirm.await? {
        Confirmation::Ack(None) => say!(" [x] Sent {message}"),
        other => bail!("the broker did not take the message: {other:?}"),
    }
}
