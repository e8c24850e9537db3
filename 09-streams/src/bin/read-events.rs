//! Reads a stream over AMQP 0-9-1 until Ctrl-C.
//!
//!     cargo run -p streams --bin read-events
//!     cargo run -p streams --bin read-events -- --from next
//!     cargo run -p streams --bin read-events -- --offset-file reader.offset

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, bail};
use clap::Parser;
use common::{CancellationToken, Ended, note, printable, say, supervise};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use streams::{Begin, Stream, ready};
use tokio::time::{Instant, sleep};

/// Read a stream over AMQP 0-9-1 until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where to begin: first, last, next, an offset, or how long ago (90s, 15m, 12h, 7D)
    #[arg(long, value_name = "BEGIN", default_value = "first", value_parser = Begin::parse)]
    from: Begin,

    /// Go on at the offset in this file, and store the next one there
    #[arg(long, value_name = "FILE")]
    offset_file: Option<PathBuf>,

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

    /// How many events RabbitMQ sends ahead of our acknowledgements
    #[arg(long, value_name = "N", default_value = "100",
          value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,

    #[command(flatten)]
    stream: Stream,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Reads over one connection after the other, and says at the end how many events.
async fn run(args: Args) -> anyhow::Result<()> {
    let mut reader = Reader { begin: args.from, read: 0, stored: 0, args };
    if let Some(file) = &reader.args.offset_file
        && let Some(next) = load(file)?
    {
        note!(" [*] Goes on at offset {next}");
        reader.begin = Begin::Offset(next);
    }
    let start = Instant::now();
    let work = async |connection: &_, stop: &_| reader.read(connection, stop).await;
    supervise(env!("CARGO_BIN_NAME"), work).await?;
    let rate = reader.read as f64 / start.elapsed().as_secs_f64();
    note!(" [*] Events read: {}; a second: {rate:.0}", reader.read);
    Ok(())
}

struct Reader {
    args: Args,
    /// Where the next connection begins.
    begin: Begin,
    read: u64,
    /// How many of those were read when the offset was stored the last time.
    stored: u64,
}

impl Reader {
    /// Reads over this connection, until Ctrl-C, or until it is lost.
    async fn read(
        &mut self,
        connection: &Connection,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let channel = connection.create_channel().await?;
        self.args.stream.declare(&channel).await?;
        let mut events = self.consume(&channel, self.begin).await?;
        note!(" [*] Waiting for events. To exit press CTRL+C");
        if self.read == 0 {
            self.begin = self.begin.again();
        }
        let name = self.args.stream.name.clone().leak(); // `Ended` wants it for ever
        let mut unacknowledged = 0;
        while self.args.count != Some(self.read) {
            let event = tokio::select! {
                event = events.next() => event.context(Ended(name))??,
                () = stop.cancelled() => break,
            };
            let offset = offset(&event)?;
            if let (0, Begin::Offset(wanted)) = (self.read, self.begin)
                && wanted < offset
            {
                self.look_for_gap(connection, wanted).await?;
            }
            say!(" [x] {offset}: {}", printable(&event.data))?;
            if self.args.work > 0 {
                sleep(Duration::from_millis(self.args.work)).await;
            }

            // The event stays in the stream, for other readers and for us. This only says that
            // RabbitMQ may send more.
            unacknowledged += 1;
            if unacknowledged > self.args.prefetch / 2 {
                event.ack(BasicAckOptions { multiple: true }).await?;
                unacknowledged = 0;
            }
            self.begin = Begin::Offset(offset + 1);
            self.read += 1;
            if self.read - self.stored == self.args.store_every {
                self.store()?;
            }
        }
        self.store()?;
        channel.close(200, "Goodbye".into()).await?;
        Ok(())
    }

    async fn consume(&self, channel: &Channel, begin: Begin) -> anyhow::Result<Consumer> {
        // A stream insists on a limit, and on acknowledgements. (`common::prefetch` would not help:
        // an event that lapin cannot read stays in the stream. Only `--from` leads past it.)
        channel.basic_qos(self.args.prefetch, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), begin.argument());
        let (stream, options) = (self.args.stream.name.as_str(), BasicConsumeOptions::default());
        let events = channel.basic_consume(stream.into(), "".into(), options, arguments).await;
        Ok(ready(events)??)
    }

    /// Says what is deleted of what we wanted to read. RabbitMQ does not: it begins with the oldest
    /// event that is there.
    async fn look_for_gap(&self, connection: &Connection, wanted: u64) -> anyhow::Result<()> {
        let channel = connection.create_channel().await?;
        let mut events = self.consume(&channel, Begin::First).await?;
        let first = offset(&events.next().await.context("the stream is gone")??)?;
        if wanted < first {
            note!(" [!] Offsets {wanted} to {} are deleted", first - 1);
        }
        channel.close(200, "Goodbye".into()).await?;
        Ok(())
    }

    /// Stores the offset of the next event, so that another process can go on there.
    fn store(&mut self) -> anyhow::Result<()> {
        if let (Some(file), Begin::Offset(next)) = (&self.args.offset_file, self.begin) {
            // Another file, renamed: whoever kills us in the middle leaves one or the other.
            let mut new = file.clone().into_os_string();
            new.push(".new");
            let stored = fs::write(&new, next.to_string()).and_then(|()| fs::rename(&new, file));
            stored.with_context(|| format!("cannot write {}", file.display()))?;
        }
        self.stored = self.read;
        Ok(())
    }
}

/// RabbitMQ sends the offset of each event in a header.
fn offset(event: &Delivery) -> anyhow::Result<u64> {
    let headers = event.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-stream-offset")) {
        Some(AMQPValue::LongLongInt(offset)) => Ok(*offset as u64),
        _ => bail!("a message without an offset: is this a stream?"),
    }
}

fn load(file: &Path) -> anyhow::Result<Option<u64>> {
    match fs::read_to_string(file) {
        Ok(text) => {
            let next = text.trim().parse();
            Ok(Some(next.with_context(|| format!("no offset in {}", file.display()))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}
