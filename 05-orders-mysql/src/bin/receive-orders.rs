//! Writes the orders of the queue `orders` into the table `tb_order`, until Ctrl-C.
//!
//!     cargo run -p orders-mysql --bin receive-orders
//!     cargo run -p orders-mysql --bin receive-orders -- --break-connection 0.1

use std::mem;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::address::mysql_url;
use common::mysql::Outage;
use common::{CancellationToken, Ended, note, prefetch, printable, say, stop, supervise};
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, Consumer};
use orders_mysql::declare;
use orders_mysql::table::{Failure, Row, Table, USER_ID_MAX};
use tokio::time::{Instant, sleep};

/// How long no order has to come before we say what we have stored.
const IDLE: Duration = Duration::from_millis(500);
/// After how long we say so although there are more.
const BUSY: Duration = Duration::from_secs(5);

/// How long a batch may take after Ctrl-C.
const GRACE: Duration = stop::GRACE.saturating_sub(Duration::from_secs(2));

/// Write the orders of the queue `orders` into the table `tb_order` until Ctrl-C.
#[derive(Parser)]
struct Args {
    // Orders of the greatest length are 3 KB of JSON each, and a server takes 16 MiB in one
    // statement.
    /// How many orders to store in one transaction at most
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    batch: u16,

    /// How likely it is that the connection to MySQL breaks at a batch, from 0 to 1: see what
    /// happens
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = probability)]
    break_connection: f64,
}

fn probability(text: &str) -> anyhow::Result<f64> {
    let probability = text.parse()?;
    anyhow::ensure!((0.0..=1.0).contains(&probability), "not from 0 to 1");
    Ok(probability)
}

// One thread: an answer of MySQL need not go from one to another. Nothing here blocks it for long,
// which would hold up lapin's heartbeats.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Receives over one connection after the other, and says at the end what has become of the orders.
async fn run(args: Args) -> anyhow::Result<()> {
    let mut receiver = Receiver {
        args,
        table: Table::open(&mysql_url()?).await?,
        total: Count::default(),
        shown: Count::default(),
        begin: None,
        end: Instant::now(),
        last_user: String::new(),
    };
    let work = async |connection: &_, stop: &_| receive(connection, stop, &mut receiver).await;
    supervise(env!("CARGO_BIN_NAME"), work).await?;
    receiver.show()?;
    let total = receiver.total;
    let all = total.stored + total.known;
    note!(
        " [*] Orders stored: {all} (in the table already: {}), dead: {}",
        total.known,
        total.dead
    );
    Ok(())
}

/// Receives over this connection, until Ctrl-C, or until it is lost or something else is wrong.
async fn receive(
    connection: &Connection,
    stop: &CancellationToken,
    receiver: &mut Receiver,
) -> anyhow::Result<()> {
    let batch = receiver.args.batch;
    let channel = connection.create_channel().await?;
    declare(&channel).await?;

    // While one batch is being stored, the next ones are on their way. But not more: what is not
    // stored yet waits at the broker, not in our memory.
    channel.basic_qos(prefetch(batch.saturating_mul(4)), BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("orders".into(), "".into(), options, FieldTable::default()).await?;
    note!(" [*] Waiting for orders. To exit press CTRL+C");

    loop {
        // Between two batches we can stop at any time.
        let orders = tokio::select! {
            orders = next_batch(&mut consumer, batch.into()) => orders?,
            () = sleep(IDLE), if receiver.begin.is_some() => {
                receiver.show()?;
                continue;
            }
            () = stop.cancelled() => break,
        };
        // A batch that we have begun, we finish, unless MySQL is away.
        let overdue = async {
            stop.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::select! {
            stored = receiver.store(orders) => stored?,
            () = overdue => break,
        }
    }

    // Take no new order, and give back those in our hands.
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    let all = BasicNackOptions { multiple: true, requeue: true };
    channel.basic_nack(0, all).await?;
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}

/// Waits for an order, and takes with it those that have come already.
async fn next_batch(consumer: &mut Consumer, size: usize) -> anyhow::Result<Vec<Delivery>> {
    let mut batch = Vec::with_capacity(size);
    while batch.len() < size {
        let next = match batch.is_empty() {
            true => consumer.next().await,
            false => match poll_once(consumer.next()).await {
                Some(next) => next,
                None => break, // no other has come: do not let these wait
            },
        };
        batch.push(next.context(Ended("orders"))??);
    }
    Ok(batch)
}

#[derive(Clone, Copy, Default)]
struct Count {
    stored: u64,
    known: u64,
    dead: u64,
}

struct Receiver {
    args: Args,
    table: Table,
    total: Count,
    /// What of it we have shown already, and when what is not shown began and ended.
    shown: Count,
    begin: Option<Instant>,
    end: Instant,
    last_user: String,
}

impl Receiver {
    /// Stores a batch and acknowledges it.
    async fn store(&mut self, batch: Vec<Delivery>) -> anyhow::Result<()> {
        self.begin.get_or_insert_with(Instant::now);
        let mut rows = Vec::with_capacity(batch.len());
        let mut last = None;
        for order in &batch {
            match row(order) {
                Ok(row) => {
                    rows.push(row);
                    last = Some(order);
                }
                Err(reason) => self.refuse(order, &reason).await?,
            }
        }
        if self.insert(&rows).await.is_some() {
            // One row that MySQL refuses must not take the others with it: find it out.
            for order in &batch {
                let Ok(row) = row(order) else { continue };
                if let Some(reason) = self.insert(&[row]).await {
                    self.refuse(order, &reason).await?;
                } else {
                    order.ack(BasicAckOptions::default()).await?;
                }
            }
        } else if let Some(last) = last {
            // All of it is committed. One acknowledgement says so for the last one and all before
            // it. If it does not get through, the orders come again, and the table knows them
            // already. So it is handed to lapin, and we do not wait until it is sent.
            let ack = poll_once(last.ack(BasicAckOptions { multiple: true })).await;
            ack.transpose()?;
        }
        if self.begin.is_some_and(|begin| begin.elapsed() > BUSY) {
            self.show()?;
        }
        Ok(())
    }

    /// Inserts all rows or none, however long MySQL is away. If it refuses one of them, says why.
    async fn insert(&mut self, rows: &[Row<'_>]) -> Option<String> {
        let [last_user, _] = rows.last()?;
        let mut breaks = fastrand::f64() < self.args.break_connection;
        let mut outage = Outage::default();
        loop {
            match self.table.insert(rows).await {
                // The worst moment: the rows are committed, and we do not hear so.
                Ok(_) if mem::take(&mut breaks) => {
                    note!(" [!] Breaking the connection to MySQL");
                    self.table.break_connection().await;
                }
                Ok(new) => {
                    outage.end();
                    self.end = Instant::now();
                    self.total.stored += new;
                    self.total.known += rows.len() as u64 - new;
                    self.last_user = last_user.escape_debug().to_string();
                    return None;
                }
                Err(Failure::Row(reason)) => return Some(reason),
                Err(Failure::Away(away)) => outage.wait(away).await,
            }
        }
    }

    /// Rejects an order that can never be stored. The broker moves it to `orders.dead`, as it is,
    /// and keeps it here until it has arrived there.
    async fn refuse(&mut self, order: &Delivery, reason: &str) -> anyhow::Result<()> {
        let id = order.properties.message_id().as_ref().map_or("", |id| id.as_str());
        let id = printable(id.as_bytes());
        // Without `requeue`. If the channel is gone, nothing is said: the order comes again.
        if order.nack(BasicNackOptions::default()).await? {
            note!(" [!] Cannot store the order `{id}`: {reason}. It goes to orders.dead");
            self.total.dead += 1;
        }
        Ok(())
    }

    /// Says what has been stored since the last time.
    fn show(&mut self) -> anyhow::Result<()> {
        let Some(begin) = self.begin.take() else { return Ok(()) };
        let stored = self.total.stored - self.shown.stored;
        let known = self.total.known - self.shown.known;
        match (stored, known) {
            (0, 0) => {}
            (1, 0) => say!(" [x] Stored the order of {}", self.last_user)?,
            (0, 1) => {
                say!(" [x] Stored the order of {} (in the table already: 1)", self.last_user)?;
            }
            _ => {
                let all = stored + known;
                let rate = all as f64 / (self.end - begin).as_secs_f64();
                say!(
                    " [x] Stored {all} orders, {rate:.0} a second (in the table already: {known})"
                )?;
            }
        }
        self.shown = self.total;
        Ok(())
    }
}

/// The row for an order, or why there can be none.
fn row(order: &Delivery) -> Result<Row<'_>, String> {
    let Ok(user_id) = str::from_utf8(&order.data) else {
        return Err("not UTF-8".to_owned());
    };
    let length = user_id.chars().count();
    if length > USER_ID_MAX {
        return Err(format!("{length} characters, and the table takes {USER_ID_MAX}"));
    }
    match order.properties.message_id().as_ref() {
        Some(id) if !id.as_str().is_empty() => Ok([user_id, id.as_str()]),
        _ => Err("no message id".to_owned()),
    }
}
