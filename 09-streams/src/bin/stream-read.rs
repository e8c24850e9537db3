//! Reads a stream over the stream protocol until Ctrl-C.
//!
//!     cargo run -p streams --bin stream-read
//!     cargo run -p streams --bin stream-read -- --name consumer-1

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, note, printable, say};
use rabbitmq_stream_client::error::ClientError;
use rabbitmq_stream_client::types::{OffsetSpecification, ResponseCode, ResponseKind};
use streams::link::{Link, Lost, PATIENCE, asked, check, supervise};
use streams::{Begin, Stream};
use tokio::time::{Instant, sleep, timeout};

/// Our numbers among the subscriptions of this connection.
const EVENTS: u8 = 1;
const FIRST: u8 = 2;

/// Read a stream over the stream protocol until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where to begin: first, last, next, an offset, or how long ago (90s, 15m, 12h, 7D)
    #[arg(long, value_name = "BEGIN", default_value = "first", value_parser = Begin::parse)]
    from: Begin,

    /// Go on after the offset that RabbitMQ has stored for this name, and store it there
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Store the offset after this many events
    #[arg(long, value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u64).range(1..))]
    store_every: u64,

    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// How many milliseconds to work on each event
    #[arg(long, value_name = "MS", default_value_t = 0)]
    work: u64,

    #[command(flatten)]
    stream: Stream,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Reads over one connection after the other, and says at the end how many events.
async fn run(args: Args) -> anyhow::Result<()> {
    let mut reader = Reader { begin: args.from, read: 0, stored: None, args: &args };
    let start = Instant::now();
    let work = async |link: &mut _, stop: &_| reader.read(link, stop).await;
    supervise(env!("CARGO_BIN_NAME"), &args.stream, work).await?;
    let rate = reader.read as f64 / start.elapsed().as_secs_f64();
    note!(" [*] Events read: {}; a second: {rate:.0}", reader.read);
    Ok(())
}

struct Reader<'a> {
    args: &'a Args,
    /// Where the next connection begins.
    begin: Begin,
    read: u64,
    /// How many of those were read when the offset was stored the last time.
    stored: Option<u64>,
}

impl Reader<'_> {
    /// Reads over this connection, until Ctrl-C, or until it is lost.
    async fn read(&mut self, link: &mut Link, stop: &CancellationToken) -> anyhow::Result<()> {
        let stream = &self.args.stream.name;
        if self.stored.is_none() {
            self.go_on(link).await?;
        }
        // One credit is one chunk: events that were written together. RabbitMQ sends no more until
        // we give it another one.
        let begin = self.begin.specification();
        let subscribed = link.client.subscribe(EVENTS, stream, begin, 1, HashMap::new());
        check(asked(subscribed).await?.code(), stream)?;
        note!(" [*] Waiting for events. To exit press CTRL+C");
        if self.read == 0 {
            self.begin = self.begin.again();
        }
        while !self.has_ended(stop) {
            let frame = tokio::select! {
                frame = link.frame() => frame?,
                () = stop.cancelled() => break,
            };
            let ResponseKind::Deliver(chunk) = frame else { continue };
            let first = chunk.chunk_first_offset;
            if let (0, Begin::Offset(wanted)) = (self.read, self.begin)
                && wanted < first
            {
                look_for_gap(link, stream, wanted).await?;
            }
            // The next chunk may come while we work on this one. More than one at a time could
            // come in another order: the client has a task for each.
            asked(link.client.credit(EVENTS, 1)).await?;
            for (offset, event) in (first..).zip(&chunk.messages) {
                // RabbitMQ sends whole chunks, whichever event in them we have asked for.
                if matches!(self.begin, Begin::Offset(wanted) if offset < wanted) {
                    continue;
                }
                say!(" [x] {offset}: {}", printable(event.data().unwrap_or_default()))?;
                if self.args.work > 0 {
                    sleep(Duration::from_millis(self.args.work)).await;
                }
                self.begin = Begin::Offset(offset + 1);
                self.read += 1;
                if self.read - self.stored.unwrap_or(0) >= self.args.store_every {
                    self.store(link).await?;
                }
                if self.has_ended(stop) {
                    break;
                }
            }
        }
        self.store(link).await
    }

    fn has_ended(&self, stop: &CancellationToken) -> bool {
        stop.is_cancelled() || self.args.count == Some(self.read)
    }

    /// Begins after the offset that RabbitMQ has stored for our name, if it has one.
    async fn go_on(&mut self, link: &Link) -> anyhow::Result<()> {
        if let Some(name) = &self.args.name {
            let stored = link.client.query_offset(name.clone(), &self.args.stream.name);
            match timeout(PATIENCE, stored).await.context(Lost)? {
                Ok(offset) => {
                    note!(" [*] Goes on after offset {offset}");
                    self.begin = Begin::Offset(offset + 1);
                }
                Err(ClientError::RequestError(ResponseCode::OffsetNotFound)) => {}
                Err(error) => return Err(error).context(Lost),
            }
        }
        self.stored = Some(0);
        Ok(())
    }

    /// Has RabbitMQ store the offset of the last event. It does not answer.
    async fn store(&mut self, link: &Link) -> anyhow::Result<()> {
        if let (Some(name), Begin::Offset(next)) = (&self.args.name, self.begin)
            && self.stored != Some(self.read)
        {
            asked(link.client.store_offset(name, &self.args.stream.name, next - 1)).await?;
        }
        self.stored = Some(self.read);
        Ok(())
    }
}

/// Says what is deleted of what we wanted to read. RabbitMQ does not: it begins with the oldest
/// event that is there.
async fn look_for_gap(link: &mut Link, stream: &str, wanted: u64) -> anyhow::Result<()> {
    let begin = OffsetSpecification::First;
    let subscribed = link.client.subscribe(FIRST, stream, begin, 1, HashMap::new());
    check(asked(subscribed).await?.code(), stream)?;
    loop {
        if let ResponseKind::Deliver(chunk) = link.frame().await?
            && chunk.subscription_id == FIRST
        {
            if wanted < chunk.chunk_first_offset {
                note!(" [!] Offsets {wanted} to {} are deleted", chunk.chunk_first_offset - 1);
            }
            asked(link.client.unsubscribe(FIRST)).await?;
            return Ok(());
        }
    }
}
