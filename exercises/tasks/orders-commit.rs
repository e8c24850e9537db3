//! Lesson 5: stored is what is committed
//!
//! This program stores the orders of the queue `orders` in the table `orders`. It says `[x]
//! Received ...` when an order has come, and `[x] Stored ...` when it is in the table.
//!
//! Wanted: an order is in the table or in the queue, whenever the program dies.
//!
//! The check: the table is locked, so that the program waits for MySQL in the middle of an order.
//! There it is killed (-9), and started again; and once more, when it wants to commit. The rows are
//! counted.
//!
//! Help: 05-orders-mysql/README.md, "At least once, exactly once".

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

const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (item VARCHAR(20) NOT NULL PRIMARY KEY)";
const INSERT: &str = "INSERT INTO orders (item) VALUES (?) ON DUPLICATE KEY UPDATE item = item";

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
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut orders = channel.basic_consume("orders".into(), "".into(), options, table).await?;
    say!(" [*] Waiting")?;

    loop {
        let order = tokio::select! {
            order = orders.next() => order.context(Ended("orders"))??,
            () = stop.cancelled() => return Ok(()),
        };
        let item = str::from_utf8(&order.data)?;
        order.ack(BasicAckOptions::default()).await?;
        say!(" [x] Received {item}")?;
        let mut transaction = pool.start_transaction(TxOpts::default()).await?;
        transaction.exec_drop(INSERT, (item,)).await?;
        transaction.commit().await?;
        say!(" [x] Stored {item}")?;
    }
}
