//! Receives the messages of the queue `hello`, as a stream, until Ctrl-C.
//!
//!     cargo run -p hello --bin receive

use std::pin::pin;

use anyhow::{Context, bail};
use clap::Parser;
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use hello::printable;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::signal::ctrl_c;

/// Receive the messages of the queue `hello` until Ctrl-C.
#[derive(Parser)]
struct Args {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), common::Error> {
    Args::parse();
    let connection = common::connect(env!("CARGO_BIN_NAME")).await?;
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

    let work = async {
        while let Some(delivery) = consumer.next().await {
            match delivery {
                Ok(delivery) => {
                    let again = if delivery.redelivered {
                        " (redelivered)"
                    } else {
                        ""
                    };
                    println!(" [x] Received {}{again}", printable(&delivery.data));
                    // Only now may the broker forget the message. Had we died before this line, it
                    // would deliver the message again, to us or to another consumer.
                    if let Err(error) = delivery.ack(BasicAckOptions::default()).await {
                        channel.wait_for_recovery(error).await?;
                    }
                }
                // If the connection broke, lapin restores it, and the stream goes on. Any other
                // error comes back at once.
                Err(error) => channel.wait_for_recovery(error).await?,
            }
        }
        bail!("the broker ended the consumer: was the queue deleted?")
    };

    // From its first poll on, Ctrl-C no longer kills the program. It ends the work instead.
    let mut interrupted = pin!(ctrl_c());
    poll_once(&mut interrupted).await;
    eprintln!(" [*] Waiting for messages. To exit press CTRL+C");
    tokio::select! {
        result = work => result?,
        signal = interrupted => signal?,
    }

    common::close(connection).await;
    Ok(())
}
