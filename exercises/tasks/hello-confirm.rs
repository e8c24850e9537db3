//! Lesson 1: sent is what the broker has
//!
//! This program sends its arguments to the queue `hello`, which is there, one message each, and
//! says `[x] Sent ...` of each.
//!
//! Wanted: it says so when the broker has the message, and not before. When the broker refuses one,
//! the program ends with an error.
//!
//! The check: five messages for a queue that takes two and refuses the others. What the program
//! says is compared with what is in the queue.
//!
//! Help: 01-hello/README.md, "Publish".

use std::env;

use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel};

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), send).await)
}

async fn send(channel: &Channel) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for message in env::args().skip(1) {
        channel
            .basic_publish(
                "".into(),
                "hello".into(),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                message.as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?;
        say!(" [x] Sent {message}")?;
    }
    Ok(())
}
