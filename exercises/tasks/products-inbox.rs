//! Lesson 6: an event that counts once
//!
//! This program counts the likes of the queue `likes` in the table `products`: the body is the
//! number of a product. It says `[x] Liked ...` of each. There is a table `inbox`, with a column
//! `message_id`, which is its primary key.
//!
//! Wanted: a like counts once, however often it comes; and it counts, whatever breaks.
//!
//! The check: three likes, one of which comes again. Then one more, and the connections to MySQL
//! are cut in the middle of it. The program is started again if it has ended. And one more, and the
//! program is killed when it wants to commit.
//!
//! Help: 06-microservices/README.md, "The inbox".

use std::str;

use anyhow::Context;
use common::address::mysql_url;
use common::{CancellationToken, Ended, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use mysql_async::Pool;
use mysql_async::prelude::Queryable;

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
        pool.get_conn().await?.exec_drop(LIKE, (product,)).await?;
        say!(" [x] Liked {product}")?;
        like.ack(BasicAckOptions::default()).await?;
    }
}
