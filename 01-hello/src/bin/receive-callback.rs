//! Receives the messages of the queue `hello` with a callback, until Ctrl-C.
//!
//!     cargo run -p hello --bin receive-callback

use std::pin::pin;

use anyhow::{Context, bail};
use clap::Parser;
use futures_lite::future::poll_once;
use hello::printable;
use lapin::message::DeliveryResult;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;

/// Receive the messages of the queue `hello` with a callback, until Ctrl-C.
#[derive(Parser)]
struct Args {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), common::Error> {
    Args::parse();
    let connection = common::connect(env!("CARGO_BIN_NAME")).await?;
    let channel = connection.create_channel().await?;

    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    channel
        .queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .context("cannot declare the queue `hello`")?;

    let consumer = channel
        .basic_consume(
            "hello".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;

    // lapin calls this for each delivery, in a task of its own: `main` is free for other work, and a
    // slow call does not hold up the next one. The calls may start and end in any order.
    let (ended, mut end) = mpsc::unbounded_channel();
    consumer.set_delegate(move |delivery: DeliveryResult| {
        let ended = ended.clone();
        async move {
            match delivery {
                Ok(Some(delivery)) => {
                    println!(" [x] Received {}", printable(&delivery.data));
                    // An acknowledgement that fails has lost its connection: lapin restores that,
                    // and the broker delivers the message again.
                    let _ = delivery.ack(BasicAckOptions::default()).await;
                }
                // A callback has nobody to return an error to, so it sends it to `main`.
                Ok(None) => drop(ended.send(None)),
                Err(error) => drop(ended.send(Some(error))),
            }
        }
    });
    let watch = async {
        while let Some(Some(error)) = end.recv().await {
            channel.wait_for_recovery(error).await?;
        }
        bail!("the broker ended the consumer: was the queue deleted?")
    };

    let mut interrupted = pin!(ctrl_c());
    poll_once(&mut interrupted).await;
    eprintln!(" [*] Waiting for messages. To exit press CTRL+C");
    tokio::select! {
        result = watch => result?,
        signal = interrupted => signal?,
    }

    common::close(connection).await;
    Ok(())
}
