//! What the services tell each other: an event has a kind, which is the message's `type` property
//! and its routing key, a body in JSON, and a message id.

use anyhow::Context;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use serde::{Deserialize, Serialize};

/// Admin tells of products.
pub const CREATED: &str = "product_created";
pub const UPDATED: &str = "product_updated";
pub const DELETED: &str = "product_deleted";
/// Main tells of likes.
pub const LIKED: &str = "product_liked";
/// Main asks for all products: admin tells of each as if it had been updated.
pub const WANTED: &str = "products_wanted";

/// The body of [`CREATED`] and [`UPDATED`].
#[derive(Serialize, Deserialize)]
pub struct Product {
    pub id: u32,
    pub title: String,
    pub image: String,
}

impl Product {
    /// What is wrong with a title or an image, whether a request brings them or an event.
    pub fn check(title: &str, image: &str) -> Result<(), &'static str> {
        if title.trim().is_empty() || title.chars().count() > 200 {
            return Err("title: 1 to 200 characters");
        }
        // an address with another scheme, `javascript:` for one, has no business on a page
        let known = ["/", "http://", "https://"].iter().any(|start| image.starts_with(start));
        if !known || image.chars().count() > 2000 {
            return Err(
                "image: an address that begins with http://, https:// or /, of at most 2000 characters",
            );
        }
        Ok(())
    }
}

/// The body of [`DELETED`] and [`LIKED`].
#[derive(Serialize, Deserialize)]
pub struct ProductId {
    pub id: u32,
}

/// Declares the exchange `products`, the queues of both services, and `products.dead` for events
/// that nobody can use. Both services declare all of it: an event must find the queue of the other
/// one even if that has never run.
pub async fn declare(channel: &Channel) -> anyhow::Result<()> {
    for (exchange, kind) in
        [("products", ExchangeKind::Direct), ("products.dlx", ExchangeKind::Fanout)]
    {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(exchange.into(), kind, durable, FieldTable::default())
            .await
            .with_context(|| format!("cannot declare the exchange `{exchange}`"))?;
    }

    let text = |value: &str| AMQPValue::LongString(value.into());
    let mut dead = FieldTable::default();
    dead.insert("x-queue-type".into(), text("quorum"));
    let mut events = dead.clone();
    // What is rejected goes to `products.dead`, and stays here until it has arrived there.
    // https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
    events.insert("x-dead-letter-exchange".into(), text("products.dlx"));
    events.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    events.insert("x-overflow".into(), text("reject-publish"));
    // One consumer at a time, even if a service runs twice: or else events overtake each other.
    // https://www.rabbitmq.com/docs/consumers#single-active-consumer
    events.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    for (queue, arguments, exchange, kinds) in [
        ("products.dead", dead, "products.dlx", &[""][..]),
        ("main", events.clone(), "products", &[CREATED, UPDATED, DELETED]),
        ("admin", events, "products", &[LIKED, WANTED]),
    ] {
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .with_context(|| format!("cannot declare the queue `{queue}`"))?;
        for kind in kinds {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            channel
                .queue_bind(queue.into(), exchange.into(), (*kind).into(), options, none)
                .await?;
        }
    }
    Ok(())
}
