//! What the programs of this lesson share: the queues, and what travels with a job.

pub mod job;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use common::backoff::Backoff;
use common::{confirmed, note};
use lapin::message::Delivery;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

/// How long a job that has failed waits until its next attempt, in seconds: after its first
/// failure, its second, its third. After one more it is parked.
pub const PAUSES: [u32; 3] = [1, 5, 25];

/// The queue in which a job waits so long. The pause is in the name: another pause is another
/// queue, because the time to live of a queue that exists cannot be changed.
pub fn retry_queue(pause: u32) -> String {
    format!("jobs.retry.{pause}s")
}

/// Declares `jobs`, a retry queue for each pause, and `jobs.parked`.
pub async fn declare(channel: &Channel) -> anyhow::Result<()> {
    // Jobs stay in `jobs.parked` until a person takes them. To look at them counts as a failure of
    // each (before RabbitMQ 4.3), and after 20 of them RabbitMQ 4 would drop a job. -1, for no
    // limit, drops all at once on RabbitMQ 3.
    let mut parked = quorum();
    parked.insert("x-delivery-limit".into(), AMQPValue::LongInt(1_000_000_000));
    declare_queue(channel, "jobs.parked", parked).await?;

    // What RabbitMQ takes out of `jobs` itself: jobs of which too many workers have died.
    declare_queue(channel, "jobs", dead_letters_to("jobs.parked")).await?;

    // Nobody consumes from a retry queue. What has been in it for its time to live, in
    // milliseconds, is a dead letter: RabbitMQ moves it to `jobs`.
    for pause in PAUSES {
        let mut retry = dead_letters_to("jobs");
        retry.insert("x-message-ttl".into(), AMQPValue::LongUInt(1000 * pause));
        declare_queue(channel, &retry_queue(pause), retry).await?;
    }
    Ok(())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

/// The arguments of a queue whose dead letters go to another one, through the default exchange.
/// RabbitMQ keeps each of them until the other queue has it; that needs `reject-publish`:
/// <https://www.rabbitmq.com/docs/quorum-queues#dead-lettering>.
pub fn dead_letters_to(queue: &str) -> FieldTable {
    let text = |value: &str| AMQPValue::LongString(value.into());
    let mut arguments = quorum();
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(queue));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

/// Declares a durable queue.
pub async fn declare_queue(
    channel: &Channel,
    queue: &str,
    arguments: FieldTable,
) -> anyhow::Result<()> {
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .with_context(|| format!("cannot declare the queue `{queue}`"))?;
    Ok(())
}

/// Publishes a job to a queue, and returns when the broker has it. A queue that is full or down is
/// asked again, with growing pauses.
///
/// # Errors
///
/// There is no such queue, or the connection is lost: the broker may have the job, or not.
pub async fn publish(
    connection: &Connection,
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> anyhow::Result<()> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let mut backoff = Backoff::default();
    loop {
        let confirm = channel
            .basic_publish("".into(), queue.into(), mandatory, body, properties.clone())
            .await?;
        match confirmed(connection, confirm).await? {
            Confirmation::Ack(None) => return Ok(()),
            Confirmation::Nack(_) => {
                if !backoff.has_waited() {
                    note!(" [!] The queue `{queue}` is full, or down. Trying again ...");
                }
                backoff.wait().await;
            }
            _ => bail!("a job came back: was the queue `{queue}` deleted?"),
        }
    }
}

/// How often a job has failed, as its header `attempts` says.
pub fn attempts(properties: &BasicProperties) -> u32 {
    header(properties, "attempts").and_then(integer).and_then(|n| n.try_into().ok()).unwrap_or(0)
}

/// How often RabbitMQ has taken a job back since it was published to this queue. Both headers are
/// RabbitMQ's: the first one counts each time (since 4.3), the second one failures.
pub fn returned(properties: &BasicProperties) -> u32 {
    let counts = ["x-acquired-count", "x-delivery-count"];
    let mut counts = counts.into_iter().filter_map(|name| header(properties, name));
    counts.next().and_then(integer).and_then(|n| n.try_into().ok()).unwrap_or(0)
}

/// The properties of a job that is published again: those of before, and how often it has failed,
/// when it failed first, and why it failed last.
///
/// Left out is what must not be said again: an expiration of its own, the user who sent it, other
/// queues to copy it to (`CC`), and what RabbitMQ has written: headers that begin with `x-`.
pub fn failed(job: &Delivery, attempts: u32, reason: &str) -> BasicProperties {
    // All headers of a message are in one frame, of 128 KiB here, and RabbitMQ will add its own. A
    // frame that becomes too large is one that lapin cannot read. (The text for programmers is
    // longer than the headers are.)
    const ROOM: usize = 100_000;
    let mut reason: String = reason.chars().take(200).collect();
    let mut headers = kept(&job.properties);
    if format!("{headers:?}").len() > ROOM {
        headers = FieldTable::default();
        reason += " (its headers were too large to be kept)";
    }
    let since = match header(&job.properties, "first-failure") {
        Some(AMQPValue::Timestamp(time)) => *time,
        _ => now(),
    };
    headers.insert("attempts".into(), AMQPValue::LongUInt(attempts));
    headers.insert("first-failure".into(), AMQPValue::Timestamp(since));
    headers.insert("reason".into(), AMQPValue::LongString(reason.into()));
    anew(&job.properties, headers)
}

/// The properties of a job whose attempts begin from the start.
pub fn fresh(properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in kept(properties).inner() {
        if !["attempts", "first-failure", "reason"].contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    anew(properties, headers)
}

fn kept(properties: &BasicProperties) -> FieldTable {
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    let mut kept = FieldTable::default();
    for (name, value) in headers {
        if !name.as_str().starts_with("x-") && !["CC", "BCC"].contains(&name.as_str()) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

fn anew(properties: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut anew = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    if let Some(id) = properties.message_id() {
        anew = anew.with_message_id(id.clone());
    }
    if let Some(kind) = properties.content_type() {
        anew = anew.with_content_type(kind.clone());
    }
    anew
}

/// A header of a message.
pub fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// A number, in whatever type a client has sent it: others choose other ones.
fn integer(value: &AMQPValue) -> Option<i64> {
    Some(match *value {
        AMQPValue::ShortShortInt(number) => number.into(),
        AMQPValue::ShortShortUInt(number) => number.into(),
        AMQPValue::ShortInt(number) => number.into(),
        AMQPValue::ShortUInt(number) => number.into(),
        AMQPValue::LongInt(number) => number.into(),
        AMQPValue::LongUInt(number) => number.into(),
        AMQPValue::LongLongInt(number) => number,
        _ => return None,
    })
}

/// Seconds since 1970, as AMQP's timestamps count.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
