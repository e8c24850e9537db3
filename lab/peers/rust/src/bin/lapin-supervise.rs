//! lapin as the lessons use it: `supervise` of `common` makes one connection after the other.

use std::cell::Cell;
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use common::{CancellationToken, Ended, supervise};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use peers::{FLOW, QUEUE, What, number, say, what};

#[tokio::main]
async fn main() {
    common::exit(run().await)
}

async fn run() -> Result<()> {
    match what()? {
        What::Send => {
            let (mut waiting, next) = (BTreeSet::new(), Cell::new(0));
            let work = async |connection: &_, _: &_| send(connection, &mut waiting, &next).await;
            supervise("lapin-supervise", work).await
        }
        What::Receive => supervise("lapin-supervise", receive).await,
        _ => bail!("as fast as lapin in the lessons"),
    }
}

async fn declare(connection: &Connection) -> Result<Channel> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
    Ok(channel)
}

/// What has no confirm when the connection is lost is sent again over the next one.
async fn send(
    connection: &Connection,
    waiting: &mut BTreeSet<u64>,
    next: &Cell<u64>,
) -> Result<()> {
    let channel = declare(connection).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut again = waiting.clone().into_iter();
    let mut confirms = FuturesUnordered::new();
    loop {
        while confirms.len() < FLOW.into() {
            let number = again.next().unwrap_or_else(|| next.replace(next.get() + 1));
            waiting.insert(number);
            let (options, body) = (BasicPublishOptions::default(), number.to_string());
            let properties = BasicProperties::default().with_delivery_mode(2);
            let confirm = channel
                .basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties)
                .await?;
            confirms.push(async move { (number, confirm.await) });
        }
        let (number, confirmed) = confirms.next().await.context("none waits")?;
        ensure!(confirmed?.is_ack(), "the broker did not take a message");
        waiting.remove(&number);
        say(&number.to_string())?;
    }
}

async fn receive(connection: &Connection, _: &CancellationToken) -> Result<()> {
    let channel = declare(connection).await?;
    channel.basic_qos(FLOW, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
    loop {
        let delivery = consumer.next().await.context(Ended(QUEUE))??;
        say(&number(&delivery.data)?)?;
        delivery.ack(BasicAckOptions::default()).await?;
    }
}
