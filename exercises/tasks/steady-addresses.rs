//! Lesson 10: one node of several
//!
//! This program sends a message to the queue `steady`, which is there. `AMQP_URL` names the nodes
//! of a cluster, with commas between them.
//!
//! Wanted: it sends the message as long as one of the nodes is there. If there is none, it ends
//! with an error.
//!
//! The check: two addresses, one of which nobody listens at: once the first one, once the second
//! one; and once both.
//!
//! Help: 10-cluster/README.md, "Which node a program is connected to".

use std::env;

use anyhow::{Context, ensure};
use common::say;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

#[tokio::main]
async fn main() {
    common::exit(send().await)
}

/// Connects to a node.
async fn connect(urls: &str) -> anyhow::Result<Connection> {
    let url = urls.split(',').next().context("AMQP_URL is empty")?;
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

async fn send() -> anyhow::Result<()> {
    let message = env::args().nth(1).context("usage: steady-addresses MESSAGE")?;
    let connection = connect(&env::var("AMQP_URL")?).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default().with_delivery_mode(2);
    let body = message.as_bytes();
    let confirm =
        channel.basic_publish("".into(), "steady".into(), mandatory, body, properties).await?;
    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "the broker has not taken it");
    say!(" [x] Sent {message}")?;
    connection.close(200, "Goodbye".into()).await?;
    Ok(())
}
