//! What the programs here share: the queues, and what travels with a job.

pub mod job;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use common::backoff::Backoff;
use common::{confirmed, note};
use lapin::message::Delivery;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

/// How long a job that has failed waits until its next attempt, in seconds: after its first
/// failure, its second, its third. After one more it is parked.
pub const PAUSES: [u32; 3] = [1, 5, 25];

/// Where jobs are that nobody tries any more.
pub const PARKED: &str = "jobs.parked";

/// The queue in which a job waits for `pause` seconds. The pause is in the name: another pause is
/// another queue, because the time to live of a queue that exists cannot be changed.
pub fn retry_queue(pause: u32) -> String {
    format!("jobs.retry.{pause}s")
}

/// Declares `jobs`, a retry queue for each pause, and `jobs.parked`.
pub async fn declare(channel: &Channel) -> anyhow::Result<()> {
    // Jobs stay in `jobs.parked` until a person takes them. To look at them counts as a failure of
    // each (before RabbitMQ 4.3), and at the 21st RabbitMQ 4.0 to 4.2 would drop a job. So
    // there is a limit that nobody reaches. (-1 means no limit to RabbitMQ 4, and to RabbitMQ 3
    // that a job is dropped the first time that it comes back.)
    let mut parked = quorum();
    parked.insert("x-delivery-limit".into(), AMQPValue::LongInt(1_000_000_000));
    // If an operator limits its length: refuse the next job, do not drop the oldest.
    parked.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    declare_queue(channel, PARKED, parked).await?;

    // What RabbitMQ takes out of `jobs` itself: jobs of which too many workers have died. How many
    // is for a policy to say.
    declare_queue(channel, "jobs", dead_letters_to(PARKED)).await?;

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

/// Opens a channel on which RabbitMQ confirms what we publish.
pub async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes a job to a queue, and returns when the broker has it. A queue that is full or down is
/// asked again, with growing pauses; meanwhile the job keeps its place among those at once.
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
    let mut another = None;
    loop {
        let channel = another.as_ref().unwrap_or(channel);
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
                // After an election in a cluster, RabbitMQ 3.10 may refuse for ever what comes over
                // this channel, and take it over a new one.
                another = Some(confirming(connection).await?);
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
/// RabbitMQ's. Since 4.3 the first one counts each time; before, there is only the second one, and
/// a nack counts there, too.
pub fn returned(properties: &BasicProperties) -> u32 {
    let counts = ["x-acquired-count", "x-delivery-count"];
    let mut counts = counts.into_iter().filter_map(|name| header(properties, name));
    counts.next().and_then(integer).and_then(|n| n.try_into().ok()).unwrap_or(0)
}

/// The properties of a job that is published again: those of before, and how often it has failed,
/// when it failed first, and why it failed last.
pub fn failed(job: &Delivery, attempts: u32, reason: &str) -> BasicProperties {
    // All headers of a message are in one frame, of 128 KiB here, and RabbitMQ will add its own. A
    // frame that becomes too large is one that lapin cannot read. (`{:?}` is never shorter than the
    // encoded headers, so its length is a safe bound.)
    const ROOM: usize = 100_000;
    let mut reason: String = reason.chars().take(200).collect();
    let mut headers = own_headers(&job.properties);
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
    with_headers(&job.properties, headers)
}

/// The properties of a job whose attempts begin from the start.
pub fn reset(properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in own_headers(properties).inner() {
        if !["attempts", "first-failure", "reason"].contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    with_headers(properties, headers)
}

/// The headers without those that RabbitMQ has written, which begin with `x-`, and without those
/// that name other queues to copy the message to.
fn own_headers(properties: &BasicProperties) -> FieldTable {
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    let mut own = FieldTable::default();
    for (name, value) in headers {
        if !name.as_str().starts_with("x-") && !["CC", "BCC"].contains(&name.as_str()) {
            own.insert(name.clone(), value.clone());
        }
    }
    own
}

/// The properties with other headers, and without what must not be said again: an expiration would
/// end the life of a job that is parked, and RabbitMQ refuses the user id of somebody else.
fn with_headers(properties: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut anew = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    macro_rules! keep {
        ($($property:ident $with:ident),*) => { $(
            if let Some(value) = properties.$property() {
                anew = anew.$with(value.to_owned());
            }
        )* };
    }
    keep!(app_id with_app_id, content_encoding with_content_encoding);
    keep!(content_type with_content_type, correlation_id with_correlation_id);
    keep!(kind with_type, message_id with_message_id, priority with_priority);
    keep!(reply_to with_reply_to, timestamp with_timestamp);
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
