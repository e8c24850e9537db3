//! Hint: In one queue, the first message holds up those behind it. How many queues do you need, so
//! that in each of them all pauses are the same? `x-message-ttl` is an argument of a queue, in
//! milliseconds.
//!
//! Why: RabbitMQ looks for messages whose time is over at the head of a queue. In one queue, a
//! message with a long time to live holds up those behind it. In a queue of its own for each time,
//! the oldest message is always the first whose time is over.

use std::env;

use anyhow::{Context, ensure};
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

#[tokio::main]
async fn main() {
    common::exit(once(env!("CARGO_BIN_NAME"), later).await)
}

async fn later(channel: &Channel) -> anyhow::Result<()> {
    let usage = "usage: jobs-pause MILLISECONDS JOB";
    let pause: u32 = env::args().nth(1).context(usage)?.parse().context(usage)?;
    let job = env::args().nth(2).context(usage)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare("jobs".into(), durable, arguments.clone()).await?;
    // What has waited here long enough goes to `jobs`.
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text("jobs"));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongUInt(pause));
    let queue = format!("jobs.later.{pause}");
    channel.queue_declare(queue.as_str().into(), durable, arguments).await?;

    let properties = BasicProperties::default().with_delivery_mode(2);
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let body = job.as_bytes();
    let confirm = channel
        .basic_publish("".into(), queue.as_str().into(), mandatory, body, properties)
        .await?;
    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "`{queue}` has not taken the job");
    say!(" [x] {job}: in {pause} ms")
}
