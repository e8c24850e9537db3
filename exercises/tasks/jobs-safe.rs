//! Lesson 7: from one queue to another
//!
//! This program does the jobs of the queue `jobs`, and says `[x] Received ...` of each. All of them
//! fail today. A job that has failed goes to the queue `jobs.retry`, which is there.
//!
//! Wanted: a job is always in one of the two queues.
//!
//! The check: three jobs, and a queue `jobs.retry` that takes one job and refuses the others. The
//! program is killed after a while. The jobs in the two queues are counted.
//!
//! Help: 07-retries/README.md, "Publish, then acknowledge".

use anyhow::{Context, bail};
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection};

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
            publish(&channel, "jobs.retry", &job.data).await?;
        }
        job.ack(BasicAckOptions::default()).await?;
    }
}

/// Publishes a job to another queue.
async fn publish(channel: &Channel, queue: &str, job: &[u8]) -> anyhow::Result<()> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish("".into(), queue.into(), mandatory, job, properties).await?;
    Ok(())
}
