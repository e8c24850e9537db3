//! Publishes one log line to the headers exchange `header_test`, for whoever asks for its headers.
//!
//!     cargo run -p routing --bin emit-log-headers -- The disk is full level=error part=disk

use anyhow::{Context, bail};
use clap::Parser;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use routing::{header, table};

/// Publish one log line to the exchange `header_test`.
#[derive(Parser)]
#[command(override_usage = "emit-log-headers <WORDS|KEY=VALUE>...")]
struct Args {
    /// The log line, and its headers: what has a `=` in it is a header
    #[arg(required = true, value_name = "WORDS|KEY=VALUE", value_parser = argument)]
    arguments: Vec<Argument>,
}

#[derive(Clone)]
enum Argument {
    Word(String),
    Header((ShortString, AMQPValue)),
}

fn argument(text: &str) -> Result<Argument, &'static str> {
    match text.contains('=') {
        true => header(text).map(Argument::Header),
        false => Ok(Argument::Word(text.to_owned())),
    }
}

#[tokio::main]
async fn main() {
    let (line, headers) = read(Args::parse());
    let work = async |channel: &_| emit(channel, line, headers).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// The log line and its headers.
fn read(args: Args) -> (String, FieldTable) {
    let (mut words, mut headers) = (Vec::new(), Vec::new());
    for argument in args.arguments {
        match argument {
            Argument::Word(word) => words.push(word),
            Argument::Header(header) => headers.push(header),
        }
    }
    if words.is_empty() {
        words.push("Hello World!".to_owned());
    }
    (words.join(" "), table(headers).unwrap_or_else(|error| error.exit()))
}

/// Publishes the log line, and waits until the broker has it.
async fn emit(channel: &Channel, line: String, headers: FieldTable) -> anyhow::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    channel
        .exchange_declare(
            "header_test".into(),
            ExchangeKind::Headers,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .context("cannot declare the exchange `header_test`")?;

    let confirm = channel
        .basic_publish(
            "header_test".into(),
            "".into(), // a headers exchange does not look at the routing key
            BasicPublishOptions::default(),
            line.as_bytes(),
            BasicProperties::default().with_headers(headers),
        )
        .await?;

    match confirm.await.context("no confirm came: the broker may not have the log line")? {
        Confirmation::Ack(_) => say!(" [x] Sent {line}"),
        _ => bail!("the broker did not take the log line: a queue is full, or down. Try again"),
    }
}
