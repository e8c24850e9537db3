//! The transactional outbox. A change and its event are written in one transaction: there is never
//! one without the other. A relay publishes what is in the outbox, and takes it out when it is
//! confirmed.

use std::mem;
use std::time::Duration;

use anyhow::{Error, bail};
use common::{CancellationToken, note};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection};
use mysql_async::prelude::Queryable;
use mysql_async::{Transaction, params};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use crate::database::{Database, Failure, persist};
use crate::events::declare;

/// How many events the relay takes from the outbox at once.
const BATCH: u32 = 100;

/// How long to wait before the relay looks into the outbox unasked.
const IDLE: Duration = Duration::from_secs(1);

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

/// Publishes what is in the outbox, in its order, until Ctrl-C or until the connection is lost.
/// `written` wakes it. If it dies between the confirm and the deletion, it publishes an event
/// twice, with the same message id.
pub async fn relay(
    connection: &Connection,
    stop: &CancellationToken,
    database: &Database,
    written: &Notify,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    declare(&channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let mut refused = false;
    while !stop.is_cancelled() {
        let read = async || {
            let mut transaction = database.begin().await?;
            let select =
                format!("SELECT id, message_id, kind, body FROM outbox ORDER BY id LIMIT {BATCH}");
            Ok(transaction.query::<(u64, String, String, String), _>(select).await?)
        };
        let events = persist(read).await.map_err(Error::msg)?;
        // One after the other: the next one only when this one is confirmed. What happens to a
        // product must not be overtaken.
        let mut sent = Vec::new();
        for (id, message_id, kind, body) in &events {
            let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
            let properties = BasicProperties::default()
                .with_message_id(message_id.as_str().into())
                .with_type(kind.as_str().into())
                .with_content_type("application/json".into())
                .with_delivery_mode(2);
            let kind = kind.as_str().into();
            let confirm = channel
                .basic_publish("products".into(), kind, mandatory, body.as_bytes(), properties)
                .await?;
            match confirm.await? {
                Confirmation::Ack(None) => sent.push((*id,)),
                Confirmation::Nack(_) => {
                    if !mem::replace(&mut refused, true) {
                        note!(" [!] A queue for events is full, or down. Trying again ...");
                    }
                    break;
                }
                _ => bail!("an event came back: was a queue deleted?"),
            }
        }
        if sent.is_empty() {
            tokio::select! {
                () = written.notified() => {}
                () = sleep(IDLE) => {}
                () = stop.cancelled() => {}
            }
            continue;
        }
        let delete = async || {
            let mut transaction = database.begin().await?;
            let delete = "DELETE FROM outbox WHERE id = ?";
            transaction.exec_batch(delete, sent.clone()).await?;
            Ok(transaction.commit().await?)
        };
        persist(delete).await.map_err(Error::msg)?;
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}
