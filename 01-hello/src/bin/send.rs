//! Sends one message to the queue `hello`.
//!
//!     cargo run -p hello --bin send
//!     cargo run -p hello --bin send -- Good morning

use anyhow::{Context, bail};
use clap::Parser;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};

/// Send one message to the queue `hello`.
#[derive(Parser)]
struct Args {
    /// The message; several words are joined with spaces
    #[arg(default_values = ["Hello", "World!"])]
    words: Vec<String>,

    /// Another routing key: the default exchange delivers to the queue of that name
    #[arg(long, default_value = "hello", value_parser = routing_key)]
    routing_key: ShortString,
}

/// AMQP gives a routing key 255 bytes at most.
fn routing_key(text: &str) -> Result<ShortString, &'static str> {
    ShortString::try_new(text).map_err(|_| "longer than 255 bytes")
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| send(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// Sends the message, and waits until the broker has it.
async fn send(channel: &Channel, Args { words, routing_key }: Args) -> anyhow::Result<()> {
    let message = words.join(" ");

    // From now on the broker confirms each message that we publish on this channel.
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // Creates the queue if it is missing. If it is there, this only checks that it has the same
    // properties: we need not know which program was started first, so each of them declares it.
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("hello".into(), QueueDeclareOptions::durable(), arguments)
        .await
        .context("cannot declare the queue `hello`")?;

    // A message goes to an exchange, never straight to a queue. The exchange without a name is the
    // default one: it delivers to the queue whose name is the routing key.
    let confirm = channel
        .basic_publish(
            "".into(),
            routing_key.clone(),
            BasicPublishOptions {
                mandatory: true, // do not drop a message that no queue takes: send it back to us
                ..Default::default()
            },
            message.as_bytes(),
            BasicProperties::default().with_delivery_mode(2), // persistent: stored on disk
        )
        .await?;

    // The message is on its way; the broker has it when it says so.
    match confirm.await.context("no confirm came: the broker may not have the message")? {
        Confirmation::Ack(None) => say!(" [x] Sent {message}"),
        Confirmation::Ack(Some(returned)) => bail!(
            "{}: no queue has the name `{routing_key}`; the message came back",
            returned.reply_text
        ),
        // a negative confirm, `basic.nack`
        _ => bail!("the broker did not take the message: a queue is full, or down. Try again"),
    }
}
