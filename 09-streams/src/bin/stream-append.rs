//! Appends events to a stream over the stream protocol.
//!
//!     cargo run -p streams --bin stream-append -- --count 1000000
//!     cargo run -p streams --bin stream-append -- --count 1000000 --name importer

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use common::{CancellationToken, note, say};
use rabbitmq_stream_client::types::{Message, ResponseKind};
use streams::Stream;
use streams::link::{Link, Lost, PATIENCE, asked, check, supervise};
use tokio::time::{Instant, sleep, timeout};

/// Our number among the publishers of this connection.
const PUBLISHER: u8 = 1;

/// Append events to a stream over the stream protocol.
#[derive(Parser)]
struct Args {
    /// Append this many events: `event 1`, `event 2`, and so on
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,

    /// Append as this producer: of each of its events, RabbitMQ takes one only
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Send all events of this producer, whether RabbitMQ has them or not
    #[arg(long, requires = "name")]
    resend: bool,

    /// How many events may wait for their confirms at once
    #[arg(long, value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    window: u64,

    /// How many milliseconds to wait after each window
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause: u64,

    #[command(flatten)]
    stream: Stream,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Appends over one connection after the other, and says at the end how many were confirmed.
async fn run(args: Args) -> anyhow::Result<()> {
    let mut producer = Producer { next: 1, confirmed: 0, args: &args };
    let start = Instant::now();
    let work = async |link: &mut _, stop: &_| producer.append(link, stop).await;
    let result = supervise(env!("CARGO_BIN_NAME"), &args.stream, work).await;
    let rate = producer.confirmed as f64 / start.elapsed().as_secs_f64();
    if producer.confirmed > 0 || result.is_ok() {
        say!(" [x] Events confirmed: {}; a second: {rate:.0}", producer.confirmed)?;
    }
    result?;
    ensure!(producer.next > args.count, "interrupted");
    Ok(())
}

struct Producer<'a> {
    args: &'a Args,
    /// The first event that is not confirmed.
    next: u64,
    confirmed: u64,
}

impl Producer<'_> {
    /// Appends over this connection, until all events are confirmed, or until it is lost.
    async fn append(&mut self, link: &mut Link, stop: &CancellationToken) -> anyhow::Result<()> {
        let (stream, name) = (&self.args.stream.name, &self.args.name);
        let declared = link.client.declare_publisher(PUBLISHER, name.clone(), stream);
        check(asked(declared).await?.code(), stream)?;

        // What we have sent over a connection before may be in the stream, confirmed or not.
        if let Some(name) = name
            && !self.args.resend
        {
            let last = asked(link.client.query_publisher_sequence(name, stream)).await?;
            if last > 0 {
                note!(" [*] RabbitMQ has the first {last} events of `{name}`");
                self.next = self.next.max(last + 1);
            }
        }
        while self.next <= self.args.count && !stop.is_cancelled() {
            let end = self.args.count.min(self.next + self.args.window - 1);
            // The publishing id is for RabbitMQ. With the name, it is the event's: of a named
            // producer, RabbitMQ takes no event whose id is not larger than that of the last one.
            let event =
                |id| Message::builder().body(format!("event {id}")).publishing_id(id).build();
            let events: Vec<Message> = (self.next..=end).map(event).collect();
            asked(link.client.publish(PUBLISHER, events, 1)).await?;
            let confirms = timeout(PATIENCE, confirmed(link, end + 1 - self.next)).await;
            confirms.context(Lost)??;
            if self.confirmed == 0 {
                say!(" [x] Confirmed: event {} to event {end}, and so on ...", self.next)?;
            }
            self.confirmed += end + 1 - self.next;
            self.next = end + 1;
            if self.args.pause > 0 {
                sleep(Duration::from_millis(self.args.pause)).await;
            }
        }
        Ok(())
    }
}

/// Waits until so many events are confirmed: the stream has them.
async fn confirmed(link: &mut Link, mut count: u64) -> anyhow::Result<()> {
    while count > 0 {
        match link.frame().await? {
            ResponseKind::PublishConfirm(confirm) => count -= confirm.publishing_ids.len() as u64,
            ResponseKind::PublishError(_) => bail!(Lost), // not now
            _ => {}
        }
    }
    Ok(())
}
