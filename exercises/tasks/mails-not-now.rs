//! Lesson 11: an error that is not for ever
//!
//! This program takes mails from the queue `mails` and writes each one into a file of the folder
//! that its argument names: `mail 1` into `mail 1.eml`. It says `[x] Sent ...` then. What it cannot
//! write, it refuses.
//!
//! Wanted: while the folder cannot be written, no mail is refused, and none is acknowledged. When
//! it can be, all mails are sent, without a new start.
//!
//! The check: where the folder is to be, there is a file at first. Three mails are sent, and the
//! program is killed: all three must be in the queue. It is started again, and the file is removed.
//! What is in the folder then is counted.
//!
//! Help: 11-service/README.md, "Run it".

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use common::{CancellationToken, Ended, note, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
};
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
        if let Err(error) = write(&folder, &name, &mail.data).await {
            note!(" [!] {name}: {error}");
            mail.reject(BasicRejectOptions { requeue: false }).await?;
            continue;
        }
        say!(" [x] Sent {name}")?;
        mail.ack(BasicAckOptions::default()).await?;
    }
}

async fn write(folder: &Path, name: &str, text: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{name}.eml")), text)
}
