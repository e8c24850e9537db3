//! Lesson 5: an order that cannot be stored
//!
//! This program stores the orders of the queue `orders` in the table `orders`, and says `[x] Stored
//! ...` of each. The table has room for 20 characters.
//!
//! Wanted: an order that is too long goes to the queue `orders.dead`, and the others are stored.
//! While MySQL is not as it should be, no order goes there: the program tries again, or ends with
//! an error.
//!
//! The check: three orders, one of them too long. Then one more while the table has another name,
//! and the table gets its name back. The rows and the queues are counted.
//!
//! Help: 05-orders-mysql/README.md, "Orders that cannot be stored".

use std::str;

use anyhow::Context;
use common::address::mysql_url;
use common::{CancellationToken, Ended, note, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use mysql_async::Pool;
use mysql_async::prelude::Queryable;

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

/// Declares `orders.dead`, and `orders`, whose dead letters go there.
async fn declare(channel: &Channel) -> anyhow::Result<()> {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let durable = QueueDeclareOptions::durable();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    channel.queue_declare("orders.dead".into(), durable, arguments.clone()).await?;
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text("orders.dead"));
    channel.queue_declare("orders".into(), durable, arguments).await?;
    Ok(())
}

async fn store(
    connection: &Connection,
    stop: &CancellationToken,
    pool: &Pool,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    declare(&channel).await?;
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
        match pool.get_conn().await?.exec_drop(INSERT, (item,)).await {
            Ok(()) => {
                say!(" [x] Stored {item}")?;
                order.ack(BasicAckOptions::default()).await?;
            }
            Err(error) => {
                note!(" [!] {error}");
                order.nack(BasicNackOptions { requeue: true, ..Default::default() }).await?;
            }
        }
    }
}
