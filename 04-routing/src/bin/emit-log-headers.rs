//! Publishes one log line to the headers exchange `header_test`, for whoever asks for its headers.
//!
//!     cargo run -p routing --bin emit-log-headers -- The disk is full level=error part=disk

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use common::say;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, ExchangeKind};
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
async fn main() -> ExitCode {
    common::exit(emit(Args::parse()).await)
}

/// Publishes the log line, and waits until the broker has it.
async fn emit(args: Args) -> anyhow::Result<()> {
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
    let line = words.join(" ");
    let headers = table(headers).unwrap_or_else(|error| error.exit());

    let connection = common::connect(env!("CARGO_BIN_NAME")).await?;
    let channel = connection.create_channel().await?;
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

    let confirmation =
        confirm.await.context("no confirm came: the broker may not have the log line")?;
    common::close(connection).await;
    match confirmation {
        Confirmation::Ack(_) => say!(" [x] Sent {line}"),
        other => bail!("the broker did not take the log line: {other:?}"),
    }
}
