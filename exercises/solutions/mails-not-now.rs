//! Hint: `common::backoff::Backoff` waits between two attempts. Try again, with the mail in hand,
//! until it is written.
//!
//! Why: a folder that cannot be written is a fault of the place, not of the mail. To refuse is for
//! what nobody can ever send. Given back, the mail would come again at once. Before RabbitMQ 4.3
//! that counts as its failure, too, up to the delivery limit.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use common::backoff::Backoff;
use common::{CancellationToken, Ended, note, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), send_mails).await)
}

async fn send_mails(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let folder = PathBuf::from(env::args().nth(1).context("usage: mails-not-now FOLDER")?);
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("mails".into(), QueueDeclareOptions::durable(), arguments).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume("mails".into(), "".into(), options, none).await?;
    say!(" [*] Waiting")?;

    loop {
        let mail = tokio::select! {
            mail = consumer.next() => mail,
            () = stop.cancelled() => return Ok(()),
        };
        let mail = mail.context(Ended("mails"))??;
        let name = printable(&mail.data);
        let mut backoff = Backoff::default();
        while let Err(error) = write(&folder, &name, &mail.data).await {
            if !backoff.has_waited() {
                note!(" [!] {name}: {error}. Trying again ...");
            }
            backoff.wait().await;
        }
        say!(" [x] Sent {name}")?;
        mail.ack(BasicAckOptions::default()).await?;
    }
}

async fn write(folder: &Path, name: &str, text: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{name}.eml")), text)
}
