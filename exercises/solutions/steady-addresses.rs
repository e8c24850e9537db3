//! Hint: `urls.split(',')` gives all addresses. Try one after the other; return the first
//! connection.
//!
//! Why: a cluster is there as long as one of its nodes is. A program that knows all of them tries
//! the next one. (`common::connect` does this for the lessons.)

use std::env;

use anyhow::{Context, ensure};
use common::say;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

#[tokio::main]
async fn main() {
    common::exit(send().await)
}

/// Connects to the first of the nodes that answers.
async fn connect(urls: &str) -> anyhow::Result<Connection> {
    let mut last = None;
    for url in urls.split(',') {
        match Connection::connect(url, ConnectionProperties::default()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("AMQP_URL is empty")?.into())
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
