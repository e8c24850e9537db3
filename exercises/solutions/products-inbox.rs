//! Hint: Insert the message id into `inbox` first. If that changes no row (`affected_rows()`), the
//! like was counted before. Both statements belong in one transaction.
//!
//! Why: to add 1 twice is not the same as once. The inbox remembers which events were applied. Its
//! row is written in the transaction that applies the event: there are both, or neither.

use std::str;

use anyhow::Context;
use common::address::mysql_url;
use common::{CancellationToken, Ended, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use mysql_async::prelude::Queryable;
use mysql_async::{Pool, TxOpts};

const INBOX: &str =
    "INSERT INTO inbox (message_id) VALUES (?) ON DUPLICATE KEY UPDATE message_id = message_id";
const LIKE: &str = "UPDATE products SET likes = likes + 1 WHERE id = ?";

#[tokio::main]
async fn main() {
    common::exit(run().await)
}

async fn run() -> anyhow::Result<()> {
    let pool = Pool::new(mysql_url()?.as_str());
    let work = async |connection: &_, stop: &_| apply(connection, stop, &pool).await;
    supervise(env!("CARGO_BIN_NAME"), work).await
}

async fn apply(
    connection: &Connection,
    stop: &CancellationToken,
    pool: &Pool,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("likes".into(), QueueDeclareOptions::durable(), arguments).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut likes = channel.basic_consume("likes".into(), "".into(), options, table).await?;
    say!(" [*] Waiting")?;

    loop {
        let like = tokio::select! {
            like = likes.next() => like.context(Ended("likes"))??,
            () = stop.cancelled() => return Ok(()),
        };
        let product: u32 = str::from_utf8(&like.data)?.parse()?;
        let id = like.properties.message_id().as_ref().context("no message id")?.as_str();
        let mut transaction = pool.start_transaction(TxOpts::default()).await?;
        transaction.exec_drop(INBOX, (id,)).await?;
        if transaction.affected_rows() > 0 {
            transaction.exec_drop(LIKE, (product,)).await?;
        }
        transaction.commit().await?;
        say!(" [x] Liked {product}")?;
        like.ack(BasicAckOptions::default()).await?;
    }
}
