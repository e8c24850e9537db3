//! As a good user of amqprs does. It does not recover; a program is told that its connection is
//! lost, if it asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use amqprs::callbacks::{ChannelCallback, DefaultConnectionCallback};
use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicPublishArguments, BasicQosArguments, Channel,
    ConfirmSelectArguments, QueueDeclareArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, FieldTable, Nack, Return};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use peers::{FLOW, PREFETCH, QUEUE, What, number, order, say, took, url, what};
use tokio::sync::Semaphore;

#[tokio::main]
async fn main() -> Result<()> {
    match what()? {
        What::Publish(count, window) => publish(count, window).await,
        What::Consume(count, batch) => consume(count, batch).await,
        What::Send => unless_lost(async |connection| send(connection).await).await,
        What::Receive => unless_lost(async |connection| receive(connection).await).await,
    }
}

async fn connect() -> Result<Connection> {
    let mut arguments = OpenConnectionArguments::try_from(url()?.as_str())?;
    arguments.virtual_host("/"); // it does not decode %2f
    let connection = Connection::open(&arguments).await?;
    connection.register_callback(DefaultConnectionCallback).await?;
    Ok(connection)
}

/// What waits for its confirm: the numbers by their delivery tags; and room for more.
struct Confirms {
    waiting: Mutex<BTreeMap<u64, u64>>,
    room: Semaphore,
    print: bool,
}

impl Confirms {
    fn new(window: usize, print: bool) -> Arc<Self> {
        let (waiting, room) = (Mutex::default(), Semaphore::new(window));
        Arc::new(Self { waiting, room, print })
    }

    fn take(&self, tag: u64, multiple: bool) {
        let mut waiting = self.waiting.lock().expect("nobody panics");
        let confirmed = match multiple {
            true => {
                let later = waiting.split_off(&(tag + 1));
                std::mem::replace(&mut *waiting, later)
            }
            false => waiting.remove_entry(&tag).into_iter().collect(),
        };
        self.room.add_permits(confirmed.len());
        if self.print {
            confirmed.values().for_each(|number| say(&number.to_string()).expect("it is read"));
        }
    }

    /// Publishes a message when there is room.
    async fn publish(
        &self,
        channel: &Channel,
        tag: u64,
        number: u64,
        message: (BasicProperties, String, &str),
    ) -> Result<()> {
        self.room.acquire().await?.forget();
        self.waiting.lock().expect("nobody panics").insert(tag, number);
        let (properties, body, queue) = message;
        let arguments = BasicPublishArguments::new("", queue).mandatory(true).finish();
        Ok(channel.basic_publish(properties, body.into_bytes(), arguments).await?)
    }
}

struct Callback(Arc<Confirms>);

#[async_trait]
impl ChannelCallback for Callback {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.0.take(ack.delivery_tag(), ack.mutiple());
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        panic!("the broker did not take a message");
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {
        panic!("a message came back");
    }
}

async fn confirming(connection: &Connection, confirms: &Arc<Confirms>) -> Result<Channel> {
    let channel = connection.open_channel(None).await?;
    channel.register_callback(Callback(confirms.clone())).await?;
    channel.confirm_select(ConfirmSelectArguments::default()).await?;
    Ok(channel)
}

async fn publish(count: u64, window: usize) -> Result<()> {
    let start = Instant::now();
    let connection = connect().await?;
    let confirms = Confirms::new(window, false);
    let channel = confirming(&connection, &confirms).await?;
    for index in 0..count {
        let (body, id) = order(index);
        let properties = BasicProperties::default()
            .with_content_type("text/plain")
            .with_persistence(true)
            .with_message_id(&id)
            .finish();
        confirms.publish(&channel, index + 1, index, (properties, body, "orders")).await?;
    }
    confirms.room.acquire_many(u32::try_from(window)?).await?.forget();
    channel.close().await?;
    connection.close().await?;
    took(start)
}

async fn consume(count: u64, batch: u64) -> Result<()> {
    let start = Instant::now();
    let connection = connect().await?;
    let channel = connection.open_channel(None).await?;
    channel.basic_qos(BasicQosArguments::new(0, PREFETCH, false)).await?;
    let (_, mut messages) =
        channel.basic_consume_rx(BasicConsumeArguments::new("orders", "consumer")).await?;
    for received in 1..=count {
        let message = messages.recv().await.context("the consumer has ended")?;
        let tag = message.deliver.context("no delivery")?.delivery_tag();
        if received % batch == 0 || received == count {
            channel.basic_ack(BasicAckArguments::new(tag, batch > 1)).await?;
        }
    }
    channel.close().await?;
    connection.close().await?;
    took(start)
}

/// Ends with an error when the connection is lost.
async fn unless_lost(work: impl AsyncFnOnce(&Connection) -> Result<()>) -> Result<()> {
    let connection = connect().await?;
    tokio::select! {
        result = work(&connection) => result,
        _ = connection.listen_network_io_failure() => bail!("the connection is lost"),
    }
}

async fn declare(channel: &Channel) -> Result<()> {
    let mut arguments = FieldTable::new();
    arguments.insert("x-queue-type".try_into()?, "quorum".into());
    let mut queue = QueueDeclareArguments::durable_client_named(QUEUE);
    channel.queue_declare(queue.arguments(arguments).finish()).await?;
    Ok(())
}

async fn send(connection: &Connection) -> Result<()> {
    let confirms = Confirms::new(FLOW.into(), true);
    let channel = confirming(connection, &confirms).await?;
    declare(&channel).await?;
    for index in 0.. {
        let properties = BasicProperties::default().with_persistence(true).finish();
        let message = (properties, index.to_string(), QUEUE);
        confirms.publish(&channel, index + 1, index, message).await?;
    }
    Ok(())
}

async fn receive(connection: &Connection) -> Result<()> {
    let channel = connection.open_channel(None).await?;
    declare(&channel).await?;
    channel.basic_qos(BasicQosArguments::new(0, FLOW, false)).await?;
    let (_, mut messages) =
        channel.basic_consume_rx(BasicConsumeArguments::new(QUEUE, "consumer")).await?;
    while let Some(message) = messages.recv().await {
        say(&number(&message.content.context("no body")?)?)?;
        let tag = message.deliver.context("no delivery")?.delivery_tag();
        channel.basic_ack(BasicAckArguments::new(tag, false)).await?;
    }
    bail!("the consumer has ended")
}
