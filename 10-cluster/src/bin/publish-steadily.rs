//! Publishes numbered messages at a steady rate, until Ctrl-C, and says each second how it goes.
//!
//!     cargo run -p cluster --bin publish-steadily
//!     cargo run -p cluster --bin publish-steadily -- --rate 500 --count 5000

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use cluster::{Gap, body, channel_with_queue, each_second, queue};
use common::{CancellationToken, confirmed, note, say, supervise};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

/// How many messages may be on their way, published and not yet confirmed.
const WINDOW: usize = 100;

/// How long to leave a queue in peace that has refused a message.
const REFUSED: Duration = Duration::from_millis(500);

/// Publish numbered messages at a steady rate.
#[derive(Parser)]
struct Args {
    /// How many messages a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,

    /// End after this many messages [default: at Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Publish to a classic queue, which is on one node only
    #[arg(long)]
    classic: bool,
}

/// How it goes, whatever connection carries it.
#[derive(Default)]
struct Progress {
    published: u64,
    /// The numbers that the broker has not confirmed.
    unconfirmed: BTreeSet<u64>,
    this_second: u64,
    again: u64,
    gap: Gap,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Publishes over one connection after the other, and says each second how it goes.
async fn run(args: Args) -> anyhow::Result<()> {
    let run = Uuid::now_v7();
    let progress = RefCell::new(Progress::default());
    let work = async |connection: &_, stop: &_| {
        publish_steadily(connection, stop, run, &args, &progress).await
    };
    let tell = || {
        let mut progress = progress.borrow_mut();
        if progress.published == 0 {
            return Ok(()); // it has not begun
        }
        let (now, waiting) = (mem::take(&mut progress.this_second), progress.unconfirmed.len());
        let (all, again) = (progress.published - waiting as u64, progress.again);
        let gap = progress.gap.longest.as_secs_f64();
        say!(
            " [x] Confirmed: {now} ({all} in all), waiting: {waiting}, published again: {again}, \
             longest gap: {gap:.1} s"
        )
    };
    tokio::select! {
        result = supervise(env!("CARGO_BIN_NAME"), work) => result?,
        result = each_second(tell) => result?,
    }
    let Progress { published, unconfirmed, again, gap, .. } = progress.into_inner();
    let (waiting, gap) = (unconfirmed.len(), gap.longest.as_secs_f64());
    let all = published - waiting as u64;
    say!(" [*] Confirmed: {all}, published again: {again}, longest gap: {gap:.1} s")?;
    ensure!(waiting == 0, "not confirmed, so the broker may have them or not: {waiting} messages");
    Ok(())
}

/// Publishes over this connection, until Ctrl-C or the last message, or until it is lost.
async fn publish_steadily(
    connection: &Connection,
    stop: &CancellationToken,
    run: Uuid,
    args: &Args,
    progress: &RefCell<Progress>,
) -> anyhow::Result<()> {
    let mut said = false;
    while publish_until_refused(connection, stop, run, args, progress).await? {
        if !mem::replace(&mut said, true) {
            let queue = queue(args.classic);
            note!(" [!] `{queue}` takes no message, it is down or full. Trying again ...");
        }
        if stop.is_cancelled() {
            break;
        }
        sleep(REFUSED).await;
    }
    Ok(())
}

/// Publishes over a new channel. Whether the queue has refused a message: a nack, or the message
/// has come back. To try again over that channel may be in vain: if it began to publish during an
/// election, RabbitMQ 3.10 may refuse for ever what comes over it, and take it over a new one.
async fn publish_until_refused(
    connection: &Connection,
    stop: &CancellationToken,
    run: Uuid,
    args: &Args,
    progress: &RefCell<Progress>,
) -> anyhow::Result<bool> {
    let channel = channel_with_queue(connection, args.classic).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // What was not confirmed over a channel before, the broker may have or not: publish it
    // again. So a message may come twice, and none is lost.
    let mut again: VecDeque<u64> = progress.borrow().unconfirmed.iter().copied().collect();
    let mut pace = interval(Duration::from_secs(1) / args.rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut confirms = FuturesUnordered::new();
    let mut refused = false;
    loop {
        let (waiting, published) = {
            let progress = progress.borrow();
            (progress.unconfirmed.len(), progress.published)
        };
        let any_more =
            !again.is_empty() || (waiting < WINDOW && published < args.count.unwrap_or(u64::MAX));
        let more = any_more && !refused && !stop.is_cancelled();
        if !more && confirms.is_empty() {
            break;
        }
        tokio::select! {
            _ = pace.tick(), if more => {
                let number = progress.borrow_mut().next(again.pop_front());
                let confirm = publish(&channel, args.classic, run, number).await?;
                confirms.push(async move { (number, confirmed(connection, confirm).await) });
            }
            Some((number, confirmation)) = confirms.next() => match confirmation? {
                Confirmation::Ack(None) => progress.borrow_mut().confirm(number),
                _ => refused = true,
            },
            () = stop.cancelled(), if more => {}
        }
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(refused)
}

impl Progress {
    /// What is published next: this one again, or a new one.
    fn next(&mut self, again: Option<u64>) -> u64 {
        match again {
            Some(number) => {
                self.again += 1;
                number
            }
            None => {
                self.published += 1;
                self.unconfirmed.insert(self.published);
                self.published
            }
        }
    }

    fn confirm(&mut self, number: u64) {
        self.unconfirmed.remove(&number);
        self.this_second += 1;
        self.gap.end();
    }
}

/// Publishes a message. If no queue takes it, it comes back with its confirm.
async fn publish(
    channel: &Channel,
    classic: bool,
    run: Uuid,
    number: u64,
) -> lapin::Result<PublisherConfirm> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let (queue, body) = (queue(classic), body(run, number));
    channel.basic_publish("".into(), queue.into(), mandatory, body.as_bytes(), persistent).await
}
