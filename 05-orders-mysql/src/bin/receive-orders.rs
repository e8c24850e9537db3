//! Writes the orders of the queue `orders` into the table `tb_order`, until Ctrl-C.
//!
//!     cargo run -p orders-mysql --bin receive-orders
//!     cargo run -p orders-mysql --bin receive-orders -- --break-connection 0.1

use std::mem;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use common::address::mysql_url;
use common::backoff::Backoff;
use common::{CancellationToken, note, say, supervise};
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection, Consumer};
use orders_mysql::table::{Failure, Row, Table, USER_ID_MAX};
use orders_mysql::{declare, publish};
use tokio::time::{Instant, sleep};

/// How long no order has to come before we say what we have stored.
const IDLE: Duration = Duration::from_millis(500);
/// After how long we say so although there are more.
const BUSY: Duration = Duration::from_secs(5);

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

#[tokio::main]
async fn main() -> ExitCode {
    common::exit(run(Args::parse()).await)
}

/// Receives over one connection after the other, and says at the end what has become of the orders.
async fn run(args: Args) -> anyhow::Result<()> {
    let mut receiver = Receiver {
        args,
        table: Table::open(&mysql_url()).await?,
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
    note!(
        " [*] Orders stored: {}, known already: {}, dead: {}",
        total.stored,
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
    // for those that we send to `orders.dead`
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // While one batch is being stored, the next ones are on their way. But not more: what is not
    // stored yet waits at the broker, not in our memory.
    channel.basic_qos(batch.saturating_mul(4), BasicQosOptions::default()).await?;
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
            () = stop.cancelled() => return Ok(()),
        };
        // A batch that we have begun, we finish.
        receiver.store(&channel, orders).await?;
    }
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
        batch.push(next.context("the broker ended the consumer: was the queue deleted?")??);
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
    async fn store(&mut self, channel: &Channel, batch: Vec<Delivery>) -> anyhow::Result<()> {
        self.begin.get_or_insert_with(Instant::now);
        let mut rows = Vec::with_capacity(batch.len());
        for order in &batch {
            match row(order) {
                Ok(row) => rows.push(row),
                Err(reason) => self.bury(channel, order, &reason).await?,
            }
        }
        // One row that MySQL refuses must not take the others with it: find it out.
        if self.insert(&rows).await?.is_some() {
            for order in &batch {
                if let Ok(row) = row(order)
                    && let Some(reason) = self.insert(&[row]).await?
                {
                    self.bury(channel, order, &reason).await?;
                }
            }
        }

        // All of it is committed, or safe in `orders.dead`. One acknowledgement says so for the
        // last one and all before it. If it does not get through, the orders come again, and the
        // table knows them already.
        if let Some(last) = batch.last() {
            last.ack(BasicAckOptions { multiple: true }).await?;
        }
        self.end = Instant::now();
        if self.begin.is_some_and(|begin| begin.elapsed() > BUSY) {
            self.show()?;
        }
        Ok(())
    }

    /// Inserts all rows or none, however long MySQL is away. If it refuses one of them, says why.
    async fn insert(&mut self, rows: &[Row<'_>]) -> anyhow::Result<Option<String>> {
        let Some([last_user, _]) = rows.last() else {
            return Ok(None);
        };
        let mut breaks = fastrand::f64() < self.args.break_connection;
        let mut backoff = Backoff::default();
        loop {
            match self.table.insert(rows).await {
                // The worst moment: the rows are committed, and we do not hear so.
                Ok(_) if mem::take(&mut breaks) => {
                    note!(" [!] Breaking the connection to MySQL");
                    self.table.break_connection().await;
                }
                Ok(new) => {
                    if backoff.has_waited() {
                        note!(" [!] MySQL is back");
                    }
                    self.total.stored += new;
                    self.total.known += rows.len() as u64 - new;
                    self.last_user = last_user.escape_debug().to_string();
                    return Ok(None);
                }
                Err(Failure::Row(reason)) => return Ok(Some(reason)),
                Err(Failure::Fatal(cause)) => bail!("MySQL: {cause}"),
                Err(Failure::Away(cause)) => {
                    if !backoff.has_waited() {
                        note!(" [!] MySQL: {cause}. Trying again ...");
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    /// Sends an order that cannot be stored to `orders.dead`, with the reason in its headers.
    async fn bury(
        &mut self,
        channel: &Channel,
        order: &Delivery,
        reason: &str,
    ) -> anyhow::Result<()> {
        note!(" [!] Cannot store an order: {reason}. It goes to orders.dead");
        let properties = order.properties.clone();
        let mut headers = properties.headers().clone().unwrap_or_default();
        headers.insert("reason".into(), AMQPValue::LongString(reason.into()));
        let properties = properties.with_headers(headers).with_delivery_mode(2);
        let confirm = publish(channel, "orders.dlx", &order.data, properties).await?;
        match confirm.await? {
            Confirmation::Ack(None) => self.total.dead += 1,
            other => bail!("the broker did not take an order for `orders.dead`: {other:?}"),
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
            _ => {
                let rate = (stored + known) as f64 / (self.end - begin).as_secs_f64();
                say!(" [x] Stored {stored} orders, {rate:.0} a second; known already: {known}")?;
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
