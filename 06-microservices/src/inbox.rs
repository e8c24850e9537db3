//! The inbox. An event may come twice, and is applied once: its message id is written in the
//! transaction that applies it, and one that is there already is skipped.

use anyhow::Context;
use common::{CancellationToken, note, printable, say};
use futures_lite::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, message::Delivery};
use mysql_async::Transaction;
use mysql_async::prelude::Queryable;

use crate::database::{Database, Failure, persist};
use crate::events::declare;

/// Applies the events of a queue, one after the other, until Ctrl-C or until the connection is
/// lost. `apply` gets the kind and the body; what it refuses goes to `products.dead`. `applied` is
/// called after each commit.
pub async fn consume(
    connection: &Connection,
    stop: &CancellationToken,
    queue: &str,
    database: &Database,
    mut apply: impl AsyncFnMut(&mut Transaction<'static>, &str, &[u8]) -> Result<(), Failure>,
    mut applied: impl AsyncFnMut(),
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    declare(&channel).await?;
    channel.basic_qos(50, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    note!(" [*] Waiting for events. To exit press CTRL+C");

    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            () = stop.cancelled() => return Ok(()),
        };
        let event = delivery.context("the broker ended the consumer: was the queue deleted?")??;
        let once = async || {
            let mut transaction = database.begin().await?;
            once(&mut transaction, &event, &mut apply).await?;
            Ok(transaction.commit().await?)
        };
        match persist(once).await {
            Ok(()) => {
                applied().await;
                let kind = event.properties.kind().as_ref();
                let kind = printable(kind.map_or("", |kind| kind.as_str()).as_bytes());
                say!(" [x] Received {kind} {}", printable(&event.data))?;
                event.ack(BasicAckOptions::default()).await?;
            }
            Err(reason) => {
                note!(" [!] An event goes to products.dead: {reason}");
                event.nack(BasicNackOptions::default()).await?; // without `requeue`
            }
        }
    }
}

async fn once(
    transaction: &mut Transaction<'static>,
    event: &Delivery,
    apply: &mut impl AsyncFnMut(&mut Transaction<'static>, &str, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
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
    match transaction.affected_rows() {
        0 => Ok(()), // known already
        _ => apply(transaction, kind, &event.data).await,
    }
}
