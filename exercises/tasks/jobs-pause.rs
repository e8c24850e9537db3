//! Lesson 7: a long pause, and a short one
//!
//! This program sends a job that is to be in the queue `jobs` after so many milliseconds.
//!
//! Wanted: each job is there after its own pause: not earlier, and not much later. You may declare
//! other queues.
//!
//! The check: it is run with a pause of 60000 ms, and then with one of 700 ms. How long it takes
//! until the second job is in `jobs` is measured.
//!
//! Help: 07-retries/README.md, "One queue for each pause".

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
    let queue = "jobs.later";
    channel.queue_declare(queue.into(), durable, arguments).await?;

    let properties =
        BasicProperties::default().with_delivery_mode(2).with_expiration(pause.to_string().into());
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let body = job.as_bytes();
    let confirm =
        channel.basic_publish("".into(), queue.into(), mandatory, body, properties).await?;
    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "`{queue}` has not taken the job");
    say!(" [x] {job}: in {pause} ms")
}
