//! Receives the messages of the queue `hello` and ends when none has come for a while.
//!
//!     cargo run -p hello --bin receive-until-idle
//!     cargo run -p hello --bin receive-until-idle -- 2.5

use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use hello::printable;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::signal::ctrl_c;
use tokio::time::timeout;

/// Receive the messages of the queue `hello` until none has come for a while, or Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How long to wait for a message, in seconds
    #[arg(default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), common::Error> {
    let args = Args::parse();
    let mut connection = common::connect(env!("CARGO_BIN_NAME")).await?;

    let work = async {
        loop {
            let result = tokio::select! {
                result = receive(&connection, args.seconds) => result,
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

/// Receives over this connection, until it is lost or nothing comes any more.
async fn receive(connection: &Connection, idle: Duration) -> anyhow::Result<()> {
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

    let mut consumer = channel
        .basic_consume(
            "hello".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;

    // The stream of a consumer has no end of its own. A limit on the wait for its next item makes one.
    while let Ok(delivery) = timeout(idle, consumer.next()).await {
        let delivery =
            delivery.context("the broker ended the consumer: was the queue deleted?")??;
        println!(" [x] Received {}", printable(&delivery.data));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    eprintln!(" [*] No message for {idle:?}");
    Ok(())
}
