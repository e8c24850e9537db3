//! Receives the messages of the queue `hello`, as a stream, until Ctrl-C.
//!
//!     cargo run -p hello --bin receive

use std::pin::pin;

use anyhow::{Context, bail};
use clap::Parser;
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use hello::printable;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::signal::ctrl_c;

/// Receive the messages of the queue `hello` until Ctrl-C.
#[derive(Parser)]
struct Args {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), common::Error> {
    Args::parse();
    let mut connection = common::connect(env!("CARGO_BIN_NAME")).await?;

    let work = async {
        loop {
            let result = tokio::select! {
                result = receive(&connection) => result,
                error = common::lost(&connection) => Err(error),
            };
            if !common::is_lost(&connection, &result) {
                return result;
            }
            // What was not acknowledged comes again. We begin anew: connect, declare, consume.
            connection = common::reconnect(env!("CARGO_BIN_NAME")).await;
        }
    };

    // From its first poll on, Ctrl-C no longer kills the program. It ends the work instead.
    let mut interrupted = pin!(ctrl_c());
    poll_once(&mut interrupted).await;
    tokio::select! {
        result = work => result?,
        signal = interrupted => signal?,
    }

    common::close(connection).await;
    Ok(())
}

/// Receives over this connection, until it is lost or something else is wrong.
async fn receive(connection: &Connection) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;

    // The same queue with the same properties as in `send`: whoever comes first creates it.
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    channel
        .queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .context("cannot declare the queue `hello`")?;

    // From here on the broker pushes messages to us as they come; nobody polls.
    let mut consumer = channel
        .basic_consume(
            "hello".into(),
            "".into(), // the consumer's name: the broker makes one up
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    eprintln!(" [*] Waiting for messages. To exit press CTRL+C");

    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let again = if delivery.redelivered {
            " (redelivered)"
        } else {
            ""
        };
        println!(" [x] Received {}{again}", printable(&delivery.data));
        // Only now may the broker forget the message. Had we died before this line, it would deliver
        // the message again, to us or to another consumer.
        delivery.ack(BasicAckOptions::default()).await?;
    }
    bail!("the broker ended the consumer: was the queue deleted?")
}
