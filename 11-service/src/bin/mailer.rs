//! Sends the mails of a queue until Ctrl-C.
//!
//!     cargo run -p service --bin mailer
//!     cargo run -p service --bin mailer -- --health-listen 127.0.0.1:9000 --log-format json

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::backoff::Backoff;
use common::{CancellationToken, Ended, note, prefetch, printable, say, stop, supervise};
use futures_lite::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::Connection;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use service::{Queue, mail::Mail};
use telemetry::{failed, message, ready, returned};
use tokio::time::sleep;
use uuid::Uuid;

/// How long the mails under way may take after Ctrl-C or SIGTERM. What is not done then goes back.
const GRACE: Duration = stop::GRACE.saturating_sub(Duration::from_secs(1));

/// Send the mails of a queue until Ctrl-C.
#[derive(Parser)]
#[command(after_help = telemetry::VARIABLES)]
struct Args {
    #[command(flatten)]
    queue: Queue,

    /// Where to put the mails, for a mail server to take them from
    #[arg(long, env = "MAIL_FOLDER", default_value = "target/mails")]
    folder: PathBuf,

    /// How many mails to send at once
    #[arg(long, env = "MAIL_AT_ONCE", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,

    /// How many seconds each mail takes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    takes: u32,

    #[command(flatten)]
    telemetry: telemetry::Options,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Sends mails over one connection after the other, and says at the end what has become of them.
async fn run(args: Args) -> anyhow::Result<()> {
    let program = env!("CARGO_BIN_NAME");
    args.telemetry.start(program).await?;
    let tally = Tally::default();
    supervise(program, async |connection, stop| send_mails(connection, stop, &args, &tally).await)
        .await?;
    note!(" [*] Mails sent: {}, refused: {}", tally.sent.get(), tally.refused.get());
    Ok(())
}

/// What to say when we end.
#[derive(Default)]
struct Tally {
    sent: Cell<u32>,
    refused: Cell<u32>,
}

/// Sends mails over this connection, until Ctrl-C, or until it is lost or something else is wrong.
async fn send_mails(
    connection: &Connection,
    stop: &CancellationToken,
    args: &Args,
    tally: &Tally,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    args.queue.declare(&channel).await?;
    channel.basic_qos(prefetch(args.at_once), BasicQosOptions::default()).await?;
    let name: &str = args.queue.name.clone().leak(); // `Ended` wants it for ever
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(name.into(), "".into(), options, none).await?;
    // Ready, until this is dropped, or the connection is lost.
    let _ready = ready(connection, stop);
    note!(" [*] Waiting for mails. To exit press CTRL+C");

    let mut under_way = FuturesUnordered::new();
    loop {
        let mail = tokio::select! {
            mail = consumer.next() => mail,
            Some(result) = under_way.next() => {
                result?;
                continue;
            }
            () = stop.cancelled() => break,
        };
        let mail = mail.context(Ended(name))??;
        // If not, the connection it came over is lost: it comes again.
        if mail.acker.usable() {
            // Logs know from here on which message they speak of, and the metrics count it.
            under_way.push(message(&mail).handle(handle(mail, args, tally)));
        }
    }

    // Take no new mail, and finish those under way. Give back what takes too long.
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    if !under_way.is_empty() {
        note!(" [*] Stopping. Mails under way: {}", under_way.len());
    }
    let finish = async {
        while let Some(result) = under_way.next().await {
            result?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = finish => result?,
        () = sleep(GRACE) => {}
    }
    if !under_way.is_empty() {
        note!(" [*] Given back: {}", under_way.len());
    }
    let all = BasicNackOptions {
        multiple: true, // with the delivery tag 0: all that we have not acknowledged
        requeue: true,
    };
    channel.basic_nack(0, all).await?;
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}

/// Handles a message: sends the mail that is in it, and acknowledges it then.
async fn handle(message: Delivery, args: &Args, tally: &Tally) -> anyhow::Result<()> {
    let (id, mail) = match read(&message) {
        Ok(mail) => mail,
        // Nobody can ever send it: it goes to the other queue, for a person to look at.
        Err(error) => {
            if !message.reject(BasicRejectOptions { requeue: false }).await? {
                returned(); // the channel is gone: it comes again
                return Ok(());
            }
            failed();
            tally.refused.update(|refused| refused + 1);
            let why = format!("{error:#}");
            return say!(" [!] Refused: {}", printable(why.as_bytes()));
        }
    };
    let to = printable(mail.to.as_bytes());
    say!(" [x] Received a mail to {to}")?;
    sleep(Duration::from_secs(args.takes.into())).await;
    let mut backoff = Backoff::default();
    // What may be mended is tried again. The mail stays in our hands: given back, it would come
    // again at once, and keep us busy for nothing.
    let new = loop {
        match mail.send(id, &args.folder).await {
            Ok(new) => break new,
            Err(error) => {
                if !backoff.has_waited() {
                    note!(" [!] Cannot send the mail to {to}: {error}. Trying again ...");
                }
                backoff.wait().await;
            }
        }
    };
    if !message.ack(BasicAckOptions::default()).await? {
        returned(); // the channel is gone: it comes again, and is known then
    }
    tally.sent.update(|sent| sent + u32::from(new));
    say!(" [x] {} {to}", if new { "Sent the mail to" } else { "Sent already: the mail to" })
}

/// The mail in a message, and its id.
fn read(message: &Delivery) -> anyhow::Result<(Uuid, Mail)> {
    let id = message.properties.message_id().as_ref().context("no message id")?;
    let id = Uuid::try_parse(id.as_str()).context("the message id is not a UUID")?;
    Ok((id, Mail::read(&message.data)?))
}
