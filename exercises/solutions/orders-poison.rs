//! Hint: `requeue: false` sends an order to the dead letters. Not every error may do so:
//! `common::mysql::is_fault_of_data(state, code)` knows those that the data has caused. They are
//! `mysql_async::Error::Server`.
//!
//! Why: what can never be stored must not be tried for ever: it goes to the dead letters, with
//! `requeue: false`. Only an error that is the order's own fault says so; at any other one the
//! order stays, because it can be stored later.

use std::str;

use anyhow::Context;
use common::address::mysql_url;
use common::mysql::is_fault_of_data;
use common::{CancellationToken, Ended, note, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use mysql_async::prelude::Queryable;
use mysql_async::{Error, Pool};

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
            Err(Error::Server(error)) if is_fault_of_data(&error.state, error.code) => {
                note!(" [!] {error}");
                order.nack(BasicNackOptions::default()).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
