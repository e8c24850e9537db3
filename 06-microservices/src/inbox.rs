//! The inbox. An event may come twice, and is applied once: its message id is written in the
//! transaction that applies it, and one that is there already is skipped.

use std::time::Duration;

use anyhow::{Context, Error};
use common::{CancellationToken, Ended, note, prefetch, printable, say};
use futures_lite::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, message::Delivery};
use mysql_async::Transaction;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;
use uuid::Uuid;

use crate::database::{Database, Failure, persist};
use crate::events::declare;
use crate::feed::Told;
use crate::service::Service;

/// An event comes again soon after its first time, or after what was down has started again. Three
/// months is longer than anything should be down.
const FORGET: &str =
    "DELETE FROM inbox WHERE received < CURRENT_TIMESTAMP - INTERVAL 90 DAY LIMIT 1000";
const HOUR: Duration = Duration::from_secs(3600);

/// Applies the events of a queue, one after the other, until Ctrl-C or until the connection is
/// lost. `apply` gets the kind and the body; what it refuses goes to `products.dead`.
pub async fn consume(
    connection: &Connection,
    stop: &CancellationToken,
    queue: &'static str,
    service: &Service,
    mut apply: impl AsyncFnMut(&mut Transaction<'static>, &str, &[u8]) -> Result<(), Failure>,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    declare(&channel).await?;
    channel.basic_qos(prefetch(50), BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    note!(" [*] Waiting for events. To exit press CTRL+C");

    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            // What is under way comes back when the connection closes. No nack: RabbitMQ 3.10 would
            // put these events behind later ones.
            () = stop.cancelled() => return Ok(()),
        };
        let event = delivery.context(Ended(queue))??;
        let kind = event.properties.kind().as_ref().map_or("", |kind| kind.as_str());
        let told = Told::incoming(&Uuid::now_v7().to_string(), kind, &event.data);
        service.feed.tell(&told, "arrived");
        let once = async || {
            let mut transaction = service.database.begin().await?;
            let outcome = once(&mut transaction, &event, &mut apply).await?;
            transaction.commit().await?;
            Ok(outcome)
        };
        match persist(once).await {
            Ok(outcome) => {
                service.feed.tell(&told, outcome);
                service.applied(&event.data).await;
                let kind = printable(kind.as_bytes());
                say!(" [x] Received {kind} {}", printable(&event.data))?;
                event.ack(BasicAckOptions::default()).await?;
            }
            Err(reason) => {
                // Without `requeue`. If the channel is gone, the event comes again.
                if event.nack(BasicNackOptions::default()).await? {
                    service.feed.tell(&told, &format!("put aside: {reason}"));
                    note!(" [!] An event goes to products.dead: {reason}");
                }
            }
        }
    }
}

/// Forgets, once an hour, the events that came long ago.
pub async fn forget(database: &Database, stop: &CancellationToken) -> anyhow::Result<()> {
    loop {
        let delete = async || {
            let mut transaction = database.begin().await?;
            transaction.query_drop(FORGET).await?;
            let deleted = transaction.affected_rows();
            transaction.commit().await?;
            Ok(deleted)
        };
        if persist(delete).await.map_err(Error::msg)? > 0 {
            continue; // not all at once: the events that come now must not wait for it
        }
        tokio::select! {
            () = sleep(HOUR) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// What has become of the event.
async fn once(
    transaction: &mut Transaction<'static>,
    event: &Delivery,
    apply: &mut impl AsyncFnMut(&mut Transaction<'static>, &str, &[u8]) -> Result<(), Failure>,
) -> Result<&'static str, Failure> {
    let refused = |what: &str| Failure::Refused(what.to_owned());
    let id = event.properties.message_id().as_ref();
    let id = id.map_or("", |id| id.as_str());
    if id.is_empty() {
        return Err(refused("no message id"));
    }
    let kind = event.properties.kind().as_ref();
    let kind = kind.ok_or_else(|| refused("no type"))?.as_str();
    let insert =
        "INSERT INTO inbox (message_id) VALUES (?) ON DUPLICATE KEY UPDATE message_id = message_id";
    transaction.exec_drop(insert, (id,)).await?;
    if transaction.affected_rows() == 0 {
        return Ok("known already");
    }
    apply(transaction, kind, &event.data).await?;
    Ok("applied")
}
