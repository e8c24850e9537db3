//! What the programs of this lesson share: the queues, and what an order is.

pub mod table;

use anyhow::Context;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind};
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
    channel
        .exchange_declare(
            "orders.dlx".into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions {
                durable: true,
                ..Default::default()
            },
            FieldTable::default(),
        )
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
    channel
        .queue_bind(
            "orders.dead".into(),
            "orders.dlx".into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok(())
}

/// A message body as it can be shown on a terminal. A body is bytes, whatever the sender made of
/// them: text is shown as it is but for control characters and those that turn the direction of
/// writing, which could play tricks on a terminal; of anything else the bytes are escaped.
pub fn printable(body: &[u8]) -> String {
    let Ok(text) = str::from_utf8(body) else {
        return body.escape_ascii().to_string();
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match character.is_control() || turns {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}
