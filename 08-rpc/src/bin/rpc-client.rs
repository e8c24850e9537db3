//! Asks `rpc-server` for Fibonacci numbers, and waits for the answers.
//!
//!     cargo run -p rpc --bin rpc-client
//!     cargo run -p rpc --bin rpc-client -- 10 20 --timeout 2
//!     cargo run -p rpc --bin rpc-client -- --calls 1000 --at-once 50

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Parser;
use common::lost::Again;
use common::{CancellationToken, printable, say, supervise};
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

/// How long to wait when the queue does not take a request now.
const REFUSED: Duration = Duration::from_millis(100);

/// After how many refusals another connection may mend it.
const OFTEN: u32 = 30;

/// How long the connection may take to close, when all calls have ended.
const CLOSING: Duration = Duration::from_secs(4);

/// Ask for Fibonacci numbers, and wait for the answers.
#[derive(Parser)]
struct Args {
    /// Which Fibonacci numbers
    #[arg(value_name = "NUMBER", default_value = "30", allow_negative_numbers = true)]
    numbers: Vec<String>,

    /// Make this many calls, and say at the end how they went
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,

    /// How many calls may wait for their answers at once
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,

    /// How many seconds a call may take
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Get the answers from an exclusive queue, not by direct reply-to
    #[arg(long)]
    reply_queue: bool,
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    let time = Duration::try_from_secs_f64(text.parse()?)?;
    let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
    ensure!(range.contains(&time), "not between a millisecond and a day");
    Ok(time)
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Makes the calls, while one connection after the other carries them.
async fn run(args: Args) -> anyhow::Result<()> {
    let (new, mut asked) = mpsc::unbounded_channel();
    let client = Client { timeout: args.timeout, waiting: RefCell::default(), new };
    let (ready, done) = (Notify::new(), CancellationToken::new());
    let mut carrying = pin!(supervise(env!("CARGO_BIN_NAME"), async |connection, stop| {
        ready.notify_one();
        tokio::select! {
            result = carry(connection, &client, &mut asked, &done, args.reply_queue) => result,
            () = stop.cancelled() => Ok(()),
        }
    }));
    tokio::select! {
        result = &mut carrying => {
            result?;
            bail!("interrupted")
        }
        result = async {
            ready.notified().await; // no call begins, and says so, before there is a connection
            make_calls(&args, &client).await
        } => {
            done.cancel();
            let _ = timeout(CLOSING, carrying).await; // it may be reconnecting
            result
        }
    }
}

/// Makes all calls, and says how each went; or how all of them went, if there are many.
async fn make_calls(args: &Args, client: &Client) -> anyhow::Result<()> {
    let one_by_one = args.calls.is_none();
    let count = args.calls.map_or(args.numbers.len(), |calls| calls as usize);
    let calls = args.numbers.iter().cycle().take(count).map(async |number| {
        if one_by_one {
            say!(" [x] Requesting fib({number})")?;
        }
        let start = Instant::now();
        anyhow::Ok((number, client.call(number).await, start.elapsed()))
    });
    let begin = Instant::now();
    let mut calls = stream::iter(calls).buffer_unordered(args.at_once.into());
    let (mut times, mut errors) = (Vec::new(), Vec::new());
    while let Some(ended) = calls.next().await {
        let (number, answer, time) = ended?;
        match answer {
            Ok(answer) => {
                match one_by_one {
                    true if count == 1 => say!(" [.] Got {answer}")?,
                    true => say!(" [.] Got {answer} for fib({number})")?,
                    false if times.is_empty() => say!(" [.] Got {answer}, and so on ...")?,
                    false => {}
                }
                times.push(time);
            }
            Err(error) => {
                if count > 1 && one_by_one {
                    say!(" [!] fib({number}): {error}")?;
                }
                errors.push(error);
            }
        }
    }
    let (answered, failed) = (times.len(), errors.len());
    if !one_by_one {
        let rate = answered as f64 / begin.elapsed().as_secs_f64();
        say!(" [x] Calls answered: {answered}, failed: {failed}; answers a second: {rate:.0}")?;
        times.sort();
        let quantile = |share: f64| {
            let time = times.get((answered.saturating_sub(1) as f64 * share).round() as usize);
            1000.0 * time.map_or(0.0, Duration::as_secs_f64)
        };
        let (median, p99) = (quantile(0.5), quantile(0.99));
        say!(" [x] Latency in ms: median {median:.2}, 99th percentile {p99:.2}")?;
    }
    match errors.into_iter().next() {
        Some(error) if count == 1 => Err(error),
        Some(error) => Err(error.context(format!("{failed} of {count} calls have failed"))),
        None => Ok(()),
    }
}

/// The calls that wait for their answers, whatever connection carries them.
struct Client {
    timeout: Duration,
    /// By correlation id: the answer says with it to which call it belongs. An id begins with the
    /// time (version 7), so this is the order in which the calls were made.
    waiting: RefCell<BTreeMap<String, Waiting>>,
    /// Tells `carry` the ids of new calls.
    new: mpsc::UnboundedSender<String>,
}

struct Waiting {
    number: String,
    deadline: Instant,
    answer: oneshot::Sender<anyhow::Result<String>>,
}

impl Client {
    /// One call. It ends with its answer or with an error, at its deadline at the latest.
    async fn call(&self, number: &str) -> anyhow::Result<String> {
        let id = Uuid::now_v7().to_string();
        let deadline = Instant::now() + self.timeout;
        let (answer, answered) = oneshot::channel();
        let call = Waiting { number: number.to_owned(), deadline, answer };
        self.waiting.borrow_mut().insert(id.clone(), call);
        let _ = self.new.send(id.clone());
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer?,
            Err(_) => {
                self.waiting.borrow_mut().remove(&id);
                bail!(
                    "no answer within {:?}: no `rpc-server` runs, or it needs longer",
                    self.timeout
                )
            }
        }
    }

    /// Ends a call, if it still waits.
    fn end(&self, id: &str, result: anyhow::Result<String>) {
        if let Some(call) = self.waiting.borrow_mut().remove(id) {
            let _ = call.answer.send(result);
        }
    }

    /// Publishes the request of a call, and returns when the broker has it.
    async fn ask(&self, channel: &Channel, reply_to: &str, id: String) -> anyhow::Result<()> {
        let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
        let mut refused = 0;
        loop {
            let (body, left) = match self.waiting.borrow().get(&id) {
                Some(call) => (call.number.clone(), call.deadline - Instant::now()),
                None => return Ok(()), // it has ended: its answer came, or its deadline
            };
            let properties = BasicProperties::default()
                .with_reply_to(reply_to.into())
                .with_correlation_id(id.as_str().into())
                // After so many milliseconds the broker drops the request, and a server that works
                // on it gives it up: nobody waits for it any more.
                .with_expiration(left.as_millis().to_string().into());
            let (queue, body) = ("rpc_queue".into(), body.as_bytes());
            let confirm =
                channel.basic_publish("".into(), queue, mandatory, body, properties).await?;
            match confirm.await? {
                // Full, or down: ask again, until the deadline. After an election in a cluster,
                // RabbitMQ 3.10 may refuse for ever what comes over this channel.
                Confirmation::Nack(_) if refused == OFTEN => {
                    bail!(Again("RabbitMQ refuses a request"))
                }
                Confirmation::Nack(_) => {
                    refused += 1;
                    sleep(REFUSED).await;
                }
                Confirmation::Ack(Some(returned)) => {
                    let why = returned.reply_text.as_str();
                    let advice = "no queue `rpc_queue`: start `rpc-server`, which declares it";
                    self.end(&id, Err(anyhow!("{why}: {advice}")));
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Takes an answer. One that nobody waits for is passed over: it comes after its deadline, or a
    /// second time, or it has an id that is not ours.
    fn take(&self, answer: &Delivery) {
        let text = printable(&answer.data);
        let result = match answer.properties.kind().as_ref().map(ShortString::as_str) {
            Some("error") => Err(anyhow!("the server says: {text}")),
            _ => Ok(text),
        };
        if let Some(id) = answer.properties.correlation_id() {
            self.end(id.as_str(), result);
        }
    }
}

/// Carries calls over this connection, until all are done, or until it is lost.
///
/// One connection is enough here. While RabbitMQ is short of memory it reads nothing from it, but
/// answers still come, and nothing has to be acknowledged.
async fn carry(
    connection: &Connection,
    client: &Client,
    new: &mut mpsc::UnboundedReceiver<String>,
    done: &CancellationToken,
    reply_queue: bool,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // Where the answers come: to a queue that the broker gives a name, that is for this connection
    // alone, and that is gone with it; or, without any queue, to this channel.
    let reply_to = match reply_queue {
        true => {
            let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
            let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
            queue.name().to_string()
        }
        false => "amq.rabbitmq.reply-to".to_owned(),
    };
    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let (queue, none) = (reply_to.as_str().into(), FieldTable::default());
    let mut answers = channel.basic_consume(queue, "".into(), no_ack, none).await?;

    // What was asked over a connection before, and is not answered, is asked again: its answer
    // would not find us any more. So it may be computed twice. Fibonacci is idempotent; a request
    // that sends money is not.
    while new.try_recv().is_ok() {} // they are among those that wait: do not ask twice
    let ids: Vec<String> = client.waiting.borrow().keys().cloned().collect();
    let ask = |id| client.ask(&channel, &reply_to, id);
    let mut asking: FuturesUnordered<_> = ids.into_iter().map(ask).collect();
    loop {
        tokio::select! {
            answer = answers.next() => {
                client.take(&answer.context(Again("The broker has ended our reply queue"))??);
            }
            Some(id) = new.recv() => asking.push(ask(id)),
            Some(result) = asking.next() => result?,
            () = done.cancelled() => break,
        }
    }
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}
