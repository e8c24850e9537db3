//! Hint: Read a number from a header of the job, add 1, and publish the job with the new number.
//! The third time, publish it to `jobs.parked`.
//!
//! Why: a job that is published again is a new message: nobody counts its attempts but us. The
//! count travels in a header of ours.

use anyhow::{Context, bail, ensure};
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), do_jobs).await)
}

/// The payment service is out today.
async fn pay() -> anyhow::Result<()> {
    bail!("the payment service does not answer")
}

async fn do_jobs(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare("jobs".into(), durable, arguments.clone()).await?;
    channel.queue_declare("jobs.parked".into(), durable, arguments.clone()).await?;
    // A job waits here for 0.2 seconds, and goes back to `jobs`.
    arguments.insert("x-message-ttl".into(), AMQPValue::LongUInt(200));
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text("jobs"));
    channel.queue_declare("jobs.retry".into(), durable, arguments).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut jobs = channel.basic_consume("jobs".into(), "".into(), options, table).await?;
    say!(" [*] Waiting")?;

    loop {
        let job = tokio::select! {
            job = jobs.next() => job.context(Ended("jobs"))??,
            () = stop.cancelled() => return Ok(()),
        };
        say!(" [x] Received {}", printable(&job.data))?;
        if pay().await.is_err() {
            let attempts = attempts(&job) + 1;
            let queue = if attempts < 3 { "jobs.retry" } else { "jobs.parked" };
            publish(&channel, queue, &job, attempts).await?;
        }
        job.ack(BasicAckOptions::default()).await?;
    }
}

/// How often the job has failed before.
fn attempts(job: &Delivery) -> u32 {
    let headers = job.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("attempts")) {
        Some(AMQPValue::LongUInt(attempts)) => *attempts,
        _ => 0,
    }
}

/// Publishes the job to another queue, and waits until the broker has it there.
async fn publish(
    channel: &Channel,
    queue: &str,
    job: &Delivery,
    attempts: u32,
) -> anyhow::Result<()> {
    let mut headers = FieldTable::default();
    headers.insert("attempts".into(), AMQPValue::LongUInt(attempts));
    let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm =
        channel.basic_publish("".into(), queue.into(), mandatory, &job.data, properties).await?;
    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "`{queue}` has not taken a job");
    Ok(())
}
