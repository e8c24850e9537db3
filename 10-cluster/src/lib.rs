//! What the programs here share: the queue, what a message says, and the longest gap.

use std::time::Duration;

use anyhow::Context;
use common::backoff::Backoff;
use common::{is_down, note};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// The queue: of the type quorum, or of the type classic, for comparison.
pub fn queue(classic: bool) -> &'static str {
    if classic { "steady.classic" } else { "steady" }
}

/// Opens a channel, and declares the queue. A quorum queue has a replica on three nodes of the
/// cluster, if there are as many. A classic queue is on the node that we are connected to, and
/// nowhere else.
///
/// A queue that is down is waited for: its node may come back.
pub async fn channel_with_queue(connection: &Connection, classic: bool) -> anyhow::Result<Channel> {
    let queue = queue(classic);
    let kind = if classic { "classic" } else { "quorum" };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let mut backoff = Backoff::default();
    loop {
        let channel = connection.create_channel().await?;
        let durable = QueueDeclareOptions::durable();
        match channel.queue_declare(queue.into(), durable, arguments.clone()).await {
            Err(error) if is_down(&error) => {
                if !backoff.has_waited() {
                    note!(" [!] `{queue}` is down. Trying again ...");
                }
                backoff.wait().await;
            }
            declared => {
                declared.with_context(|| format!("cannot declare the queue `{queue}`"))?;
                return Ok(channel);
            }
        }
    }
}

/// The body of a message: which run of `publish-steadily` it is from, and its number, from 1.
pub fn body(run: Uuid, number: u64) -> String {
    format!("{run} {number}")
}

/// What a body says.
pub fn parse(body: &[u8]) -> Option<(Uuid, u64)> {
    let (run, number) = str::from_utf8(body).ok()?.split_once(' ')?;
    Some((run.parse().ok()?, number.parse().ok()?))
}

/// The longest time between two events.
#[derive(Default)]
pub struct Gap {
    last: Option<Instant>,
    pub longest: Duration,
}

impl Gap {
    /// An event.
    pub fn end(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }
}

/// Calls `tell` each second, until it returns an error.
pub async fn each_second(mut tell: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    loop {
        sleep(Duration::from_secs(1)).await;
        tell()?;
    }
}
