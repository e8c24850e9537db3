//! What the programs here share: the queues, and what an order is.

pub mod table;

use anyhow::Context;
use lapin::options::{
    BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind, PublisherConfirm};
use md5::{Digest, Md5};
use uuid::Uuid;

/// Who orders, as the table has it: the MD5 of a name, in hex.
pub fn user_id(name: &str) -> String {
    let digest: [u8; 16] = Md5::digest(name).into();
    format!("{:032x}", u128::from_be_bytes(digest))
}

/// The properties of a new order. The message id is what tells an order that comes twice from two
/// orders of one user; an order that is sent again must have the same. Version 7 begins with the
/// time, so that new rows are neighbours in the index of the table.
pub fn new_order() -> BasicProperties {
    BasicProperties::default()
        .with_message_id(Uuid::now_v7().to_string().into())
        .with_content_type("text/plain".into())
        .with_delivery_mode(2) // persistent
}

/// Declares the queue `orders`, and `orders.dead` for those that cannot be stored.
pub async fn declare(channel: &Channel) -> anyhow::Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let (exchange, none) = ("orders.dlx", FieldTable::default());
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Fanout, durable, none.clone())
        .await
        .context("cannot declare the exchange `orders.dlx`")?;

    let text = |value: &str| AMQPValue::LongString(value.into());
    let mut dead = FieldTable::default();
    dead.insert("x-queue-type".into(), text("quorum"));
    // The broker itself sends a message there whose consumer has died of it too often. It keeps the
    // message until the other queue has confirmed it; that needs `reject-publish`.
    // https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
    let mut orders = dead.clone();
    orders.insert("x-dead-letter-exchange".into(), text("orders.dlx"));
    orders.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    orders.insert("x-overflow".into(), text("reject-publish"));
    for (queue, arguments) in [("orders.dead", dead), ("orders", orders)] {
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .with_context(|| format!("cannot declare the queue `{queue}`"))?;
    }
    let (queue, options) = ("orders.dead", QueueBindOptions::default());
    channel.queue_bind(queue.into(), exchange.into(), "".into(), options, none).await?;
    Ok(())
}

/// Publishes an order to the queue `orders`. If that is gone, the order comes back with its
/// confirm.
pub async fn publish(
    channel: &Channel,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish("".into(), "orders".into(), mandatory, body, properties).await
}
