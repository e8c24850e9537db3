//! Users 1 to COUNT place an order each, as fast as the broker takes them.
//!
//!     cargo run -p orders-mysql --bin request-orders
//!     cargo run --release -p orders-mysql --bin request-orders -- 100000

use std::collections::VecDeque;
use std::mem;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Parser;
use common::{CancellationToken, confirmed, note, say, supervise};
use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Confirmation, Connection};
use orders_mysql::{declare, new_order, publish, user_id};
use tokio::time::sleep;

/// How many orders may be on their way, published and not yet confirmed. Waiting for each confirm
/// would cost a round trip an order; without a limit, all of them would wait in our memory.
const WINDOW: usize = 1000;

/// How long to leave a queue in peace that has refused orders.
const REFUSED: Duration = Duration::from_millis(100);

/// Let users 1 to COUNT place one order each.
#[derive(Parser)]
struct Args {
    /// How many orders
    #[arg(default_value_t = 100)]
    count: u64,
}

/// An order keeps its message id until it is confirmed, however often it is sent.
struct Order {
    user_id: String,
    properties: BasicProperties,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse().count).await)
}

/// Publishes over one connection after the other, and says at the end how many orders were
/// confirmed.
async fn run(count: u64) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template(" [*] {wide_bar} {pos} of {len}")?;
    let progress = ProgressBar::new(count).with_style(style); // shown on a terminal only
    let start = Instant::now();
    let mut users = 1..=count;
    let mut unconfirmed = VecDeque::new();
    let work = async |connection: &_, stop: &_| {
        request(connection, stop, &mut users, &mut unconfirmed, &progress).await
    };
    let result = supervise(env!("CARGO_BIN_NAME"), work).await;
    let (sent, took) = (progress.position(), start.elapsed());
    progress.finish_and_clear();

    let rate = sent as f64 / took.as_secs_f64();
    if sent > 0 || result.is_ok() {
        say!(" [x] Sent {sent} of {count} orders, {rate:.0} a second")?;
    }
    result?;
    ensure!(sent == count, "interrupted");
    Ok(())
}

/// Publishes orders and counts them as the broker confirms them. If the connection is lost, the
/// orders that are left in `unconfirmed` may or may not have reached the broker; they are published
/// first the next time.
async fn request(
    connection: &Connection,
    stop: &CancellationToken,
    users: &mut RangeInclusive<u64>,
    unconfirmed: &mut VecDeque<Order>,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let mut said = false;
    while request_until_refused(connection, stop, users, unconfirmed, progress).await? {
        if !mem::replace(&mut said, true) {
            note!(" [!] The queue `orders` is full, or down. Trying again ...");
        }
        if stop.is_cancelled() {
            break;
        }
        sleep(REFUSED).await;
    }
    Ok(())
}

/// Publishes over a new channel. Whether the queue has refused an order. To try again over that
/// channel may be in vain: after an election in a cluster, RabbitMQ 3.10 may refuse for ever what
/// comes over it, and take it over a new one.
async fn request_until_refused(
    connection: &Connection,
    stop: &CancellationToken,
    users: &mut RangeInclusive<u64>,
    unconfirmed: &mut VecDeque<Order>,
    progress: &ProgressBar,
) -> anyhow::Result<bool> {
    let channel = connection.create_channel().await?;
    declare(&channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let mut confirms = VecDeque::new(); // for the first of the unconfirmed orders, in their order
    let mut refused = false;
    loop {
        // After Ctrl-C, only the confirms of those on their way.
        if confirms.len() <= WINDOW / 2 && !refused && !stop.is_cancelled() {
            let free = WINDOW - unconfirmed.len();
            unconfirmed.extend(users.by_ref().take(free).map(|user| Order {
                user_id: user_id(&user.to_string()),
                properties: new_order(),
            }));
            // All at once: each `basic_publish` waits until its bytes have gone to the socket.
            let orders = unconfirmed.range(confirms.len()..).map(|order| {
                let body = order.user_id.as_bytes();
                publish(&channel, body, order.properties.clone())
            });
            confirms.extend(try_join_all(orders).await?);
        }
        let Some(confirm) = confirms.pop_front() else {
            channel.close(200, "Goodbye".into()).await?;
            return Ok(refused);
        };
        match confirmed(connection, confirm).await? {
            Confirmation::Ack(None) => {
                unconfirmed.pop_front();
                progress.inc(1);
            }
            Confirmation::Nack(_) => {
                unconfirmed.rotate_left(1); // the queue does not take it now: try again
                refused = true;
            }
            _ => bail!("an order came back: was the queue `orders` deleted?"),
        }
    }
}
