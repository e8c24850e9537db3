//! Takes one message from the queue `hello`, if there is one, and says what becomes of it.
//!
//!     cargo run -p hello --bin receive-get
//!     cargo run -p hello --bin receive-get -- nack

use anyhow::Context;
use clap::{Parser, ValueEnum};
use common::{once, printable, say};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// Take one message from the queue `hello`, if there is one, and show its headers.
#[derive(Parser)]
struct Args {
    /// What to tell the broker about the message
    #[arg(value_enum, default_value_t = Answer::Ack)]
    answer: Answer,

    /// Another queue, which must be there
    #[arg(long, default_value = "hello", value_parser = queue_name)]
    queue: ShortString,
}

/// AMQP gives a queue's name 255 bytes at most.
fn queue_name(text: &str) -> Result<ShortString, &'static str> {
    ShortString::try_new(text).map_err(|_| "longer than 255 bytes")
}

#[derive(Clone, PartialEq, ValueEnum)]
enum Answer {
    /// Done with it: the broker deletes it
    Ack,
    /// Cannot do it: the broker puts it back into the queue
    Nack,
    /// Nothing, and end, as a program that dies: the broker puts it back into the queue
    Nothing,
    /// Nothing either, but the broker was told to delete it as soon as it is sent
    Auto,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| receive(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// Takes one message.
async fn receive(channel: &Channel, args: Args) -> anyhow::Result<()> {
    let queue = args.queue.as_str();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Passive: an error if there is no such queue. Who knows how somebody else would declare it?
    let options =
        QueueDeclareOptions { passive: queue != "hello", ..QueueDeclareOptions::durable() };
    channel
        .queue_declare(queue.into(), options, arguments)
        .await
        .with_context(|| format!("cannot declare the queue `{queue}`"))?;

    // One request, one message or none. Asking again and again costs a round trip each time and
    // keeps the broker busy for nothing: a program that waits for messages uses `basic_consume`.
    let got = channel
        .basic_get(
            queue.into(),
            BasicGetOptions {
                no_ack: args.answer == Answer::Auto, // automatic acknowledgement
            },
        )
        .await?;

    match got {
        None => say!(" [ ] The queue is empty")?,
        Some(message) => {
            let again = if message.redelivered { " (redelivered)" } else { "" };
            say!(" [x] Received {}{again}", printable(&message.data))?;
            // RabbitMQ writes headers, too: into a dead letter, for instance, why it is one.
            for (name, value) in message.properties.headers().iter().flat_map(FieldTable::inner) {
                if let AMQPValue::LongString(text) = value {
                    say!(
                        "     {}: {}",
                        printable(name.as_str().as_bytes()),
                        printable(text.as_bytes())
                    )?;
                }
            }
            match args.answer {
                Answer::Ack => {
                    message.ack(BasicAckOptions::default()).await?;
                }
                Answer::Nack => {
                    let requeue = BasicNackOptions {
                        requeue: true, // false: drop it, or hand it to a dead-letter exchange
                        ..Default::default()
                    };
                    message.nack(requeue).await?;
                }
                Answer::Nothing | Answer::Auto => {}
            }
            say!(" [ ] Messages behind it in the queue: {}", message.message_count)?;
        }
    }

    Ok(())
}
