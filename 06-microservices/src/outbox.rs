//! The transactional outbox. A change and its event are written in one transaction: there is never
//! one without the other. A relay publishes what is in the outbox, and takes it out when it is
//! confirmed.

use std::collections::HashSet;
use std::mem;
use std::time::Duration;

use anyhow::{Error, bail};
use common::{CancellationToken, confirmed, note};
use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use mysql_async::prelude::Queryable;
use mysql_async::{Serialized, Transaction, params};
use serde::Serialize;
use tokio::time::sleep;
use uuid::Uuid;

use crate::database::{Database, Failure, persist};
use crate::events::{LIKED, ProductId, declare};
use crate::feed::{RECENT, Told};
use crate::service::Service;

/// How many events the relay takes from the outbox at once.
const BATCH: u32 = 1000;

/// Its parameter is a JSON array of ids. Not all up to the last one: an event with a smaller id may
/// have been committed meanwhile.
pub const DELETE: &str = "DELETE outbox FROM outbox
    JOIN JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) AS sent ON sent.id = outbox.id";

/// How long to wait before the relay looks into the outbox unasked.
const IDLE: Duration = Duration::from_secs(1);

struct Event {
    id: u64,
    message_id: String,
    kind: String,
    body: String,
}

/// Writes an event into the outbox, in the transaction of the change that it tells of.
pub async fn write(
    transaction: &mut Transaction<'static>,
    kind: &str,
    body: &impl Serialize,
) -> Result<(), Failure> {
    let values = params! {
        "message_id" => Uuid::now_v7().to_string(),
        "kind" => kind,
        "body" => serde_json::to_string(body)?,
    };
    let insert = "INSERT INTO outbox (message_id, kind, body) VALUES (:message_id, :kind, :body)";
    Ok(transaction.exec_drop(insert, values).await?)
}

/// Writes many events of one kind, in their order, with one statement.
pub async fn write_all<T: Serialize>(
    transaction: &mut Transaction<'static>,
    kind: &str,
    bodies: &[T],
) -> Result<(), Failure> {
    let body = |body| Ok((Uuid::now_v7().to_string(), serde_json::to_string(body)?));
    let events = bodies.iter().map(body).collect::<Result<Vec<_>, serde_json::Error>>()?;
    let insert = "INSERT INTO outbox (message_id, kind, body)
        SELECT event.message_id, ?, event.body FROM JSON_TABLE(?, '$[*]' COLUMNS (
            message_id CHAR(36) CHARACTER SET utf8mb4 PATH '$[0]',
            body TEXT CHARACTER SET utf8mb4 PATH '$[1]'
        )) AS event";
    Ok(transaction.exec_drop(insert, (kind, Serialized(&events))).await?)
}

/// How many events wait in the outbox, and the latest of them, for a page.
pub async fn latest(database: &Database) -> Result<(u64, Vec<Told>), Failure> {
    let mut connection = database.connection().await?;
    let count: Option<u64> = connection.query_first("SELECT COUNT(*) FROM outbox").await?;
    let select =
        format!("SELECT message_id, kind, body FROM outbox ORDER BY id DESC LIMIT {RECENT}");
    let told = |(id, kind, body): (String, String, String)| Told::outgoing(&id, &kind, &body);
    let mut latest = connection.query_map(select, told).await?;
    latest.reverse();
    Ok((count.unwrap_or_default(), latest))
}

/// Publishes what is in the outbox until Ctrl-C or until the connection is lost. `written` wakes
/// it. If it dies between the confirm and the deletion, it publishes an event twice, with the same
/// message id.
pub async fn relay(
    connection: &Connection,
    stop: &CancellationToken,
    Service { database, written, feed, .. }: &Service,
) -> anyhow::Result<()> {
    let open = async || {
        let channel = connection.create_channel().await?;
        declare(&channel).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        anyhow::Ok(channel)
    };
    let mut channel = open().await?;
    let mut said = false;
    while !stop.is_cancelled() {
        let read = async || {
            let mut transaction = database.begin().await?;
            let select =
                format!("SELECT id, message_id, kind, body FROM outbox ORDER BY id LIMIT {BATCH}");
            let event = |(id, message_id, kind, body)| Event { id, message_id, kind, body };
            Ok(transaction.query_map(select, event).await?)
        };
        let events = in_order(persist(read).await.map_err(Error::msg)?);
        // All at once, and then their confirms.
        let confirms = try_join_all(events.iter().map(|event| publish(&channel, event))).await?;
        let mut sent = Vec::with_capacity(events.len());
        let mut refused = false;
        for (event, confirm) in events.iter().zip(confirms) {
            match confirmed(connection, confirm).await? {
                Confirmation::Ack(None) => sent.push(event),
                Confirmation::Nack(_) => refused = true,
                _ => bail!("an event came back: was a queue deleted?"),
            }
        }
        if refused {
            if !mem::replace(&mut said, true) {
                note!(" [!] A queue for events is full, or down. Trying again ...");
            }
            // After an election in a cluster, RabbitMQ 3.10 may refuse for ever what comes over
            // this channel, and take it over a new one.
            channel.close(200, "Goodbye".into()).await?;
            channel = open().await?;
        }
        if sent.is_empty() {
            tokio::select! {
                () = written.notified() => {}
                () = sleep(IDLE) => {}
                () = stop.cancelled() => {}
            }
            continue;
        }
        let last = sent.len().saturating_sub(RECENT); // no page shows more of them
        for Event { message_id, kind, body, .. } in &sent[last..] {
            feed.tell(&Told::outgoing(message_id, kind, body), "published");
        }
        let ids: Vec<u64> = sent.iter().map(|event| event.id).collect();
        let delete = async || {
            let mut transaction = database.begin().await?;
            transaction.exec_drop(DELETE, (Serialized(&ids),)).await?;
            Ok(transaction.commit().await?)
        };
        persist(delete).await.map_err(Error::msg)?;
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}

/// Those that can be on their way at the same time: of each product the first only. The broker may
/// refuse one event and take the next, and what happens to a product must not be overtaken. Likes
/// can be counted in any order.
fn in_order(mut events: Vec<Event>) -> Vec<Event> {
    let mut products = HashSet::new();
    events.retain(|event| {
        let product = serde_json::from_str(&event.body).map(|ProductId { id }| id).ok();
        event.kind == LIKED || products.insert(product)
    });
    events
}

async fn publish(channel: &Channel, event: &Event) -> lapin::Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_message_id(event.message_id.as_str().into())
        .with_type(event.kind.as_str().into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let (kind, body) = (event.kind.as_str().into(), event.body.as_bytes());
    channel.basic_publish("products".into(), kind, mandatory, body, properties).await
}
