//! Hint: What is the same in both deliveries of an order, and different in two orders? Let the
//! table have it once only: a primary key. `ON DUPLICATE KEY UPDATE` makes the second insert change
//! nothing.
//!
//! Why: a broker delivers at least once, so an order may come twice. Its message id is the same
//! each time. As the primary key of the table it lets MySQL find the second one.

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

const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (
    message_id VARCHAR(36) NOT NULL PRIMARY KEY,
    item VARCHAR(20) NOT NULL
)";

const INSERT: &str = "INSERT INTO orders (message_id, item) VALUES (?, ?)
    ON DUPLICATE KEY UPDATE message_id = message_id";

#[tokio::main]
async fn main() {
    common::exit(run().await)
}

async fn run() -> anyhow::Result<()> {
    let pool = Pool::new(mysql_url()?.as_str());
    pool.get_conn().await?.query_drop(TABLE).await?;
    let work = async |connection: &_, stop: &_| store(connection, stop, &pool).await;
    supervise(env!("CARGO_BIN_NAME"), work).await
}

async fn store(
    connection: &Connection,
    stop: &CancellationToken,
    pool: &Pool,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("orders".into(), QueueDeclareOptions::durable(), arguments).await?;
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut orders = channel.basic_consume("orders".into(), "".into(), options, table).await?;
    say!(" [*] Waiting")?;

    loop {
        let order = tokio::select! {
            order = orders.next() => order.context(Ended("orders"))??,
            () = stop.cancelled() => return Ok(()),
        };
        let item = str::from_utf8(&order.data)?;
        let id = order.properties.message_id().as_ref().context("no message id")?.as_str();
        pool.get_conn().await?.exec_drop(INSERT, (id, item)).await?;
        say!(" [x] Stored {item}")?;
        order.ack(BasicAckOptions::default()).await?;
    }
}
