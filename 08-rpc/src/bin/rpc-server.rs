//! Answers the requests of the queue `rpc_queue` with Fibonacci numbers until Ctrl-C.
//!
//!     cargo run -p rpc --bin rpc-server
//!     cargo run -p rpc --bin rpc-server -- --at-once 1

use std::cell::Cell;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::backoff::Backoff;
use common::lost::Again;
use common::{
    CancellationToken, Ended, beside, close, confirmed, connect, note, prefetch, printable, say,
    stop, supervise,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind};
use rpc::{fib, number};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// How long the requests under way may take after Ctrl-C. What is not done then goes back.
const GRACE: Duration = stop::GRACE.saturating_sub(Duration::from_secs(1));

/// Up to this number, to compute takes less time than to wake another thread.
const SMALL: u64 = 20;

/// Answer the requests of the queue `rpc_queue` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How many requests to work on at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Answers over one connection after the other, and says at the end how many requests.
async fn run(args: Args) -> anyhow::Result<()> {
    let answered = Cell::new(0);
    supervise(env!("CARGO_BIN_NAME"), async |connection, stop| {
        // A connection each: while RabbitMQ is short of memory it stops those that publish, and
        // what is answered must still be acknowledged.
        beside("rpc-server: answers", async |publisher| {
            serve(connection, publisher, stop, args.at_once, &answered).await
        })
        .await
    })
    .await?;
    note!(" [*] Requests answered: {}", answered.get());
    Ok(())
}

/// Answers over these connections, until Ctrl-C, or until one is lost or something else is wrong.
async fn serve(
    connection: &Connection,
    publisher: &Connection,
    stop: &CancellationToken,
    at_once: u16,
    answered: &Cell<u64>,
) -> anyhow::Result<()> {
    let answers = publisher.create_channel().await?;
    answers.confirm_select(ConfirmSelectOptions::default()).await?;

    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions::durable();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("rpc_queue".into(), durable, arguments)
        .await
        .context("cannot declare the queue `rpc_queue`")?;

    // As many as we work on at once, and no more: a request that waited here behind a slow one
    // would be better off with another server.
    channel.basic_qos(prefetch(at_once), BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut requests = channel.basic_consume("rpc_queue".into(), "".into(), options, none).await?;
    note!(" [*] Waiting for requests. To exit press CTRL+C");

    let server = Server { publisher, answers, answered };

    let mut under_way = FuturesUnordered::new();
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            Some(result) = under_way.next() => {
                result?;
                continue;
            }
            () = stop.cancelled() => break,
        };
        let request = request.context(Ended("rpc_queue"))??;
        // If not, the connection it came over is lost: it comes again.
        if request.acker.usable() {
            under_way.push(server.answer(request));
        }
    }

    // Take no new request, and finish those under way. Another server gets what takes too long.
    channel.basic_cancel(requests.tag(), BasicCancelOptions::default()).await?;
    let finish = async {
        while let Some(result) = under_way.next().await {
            result?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = finish => result?,
        () = sleep(GRACE) => {}
    }
    let all = BasicNackOptions {
        multiple: true, // with the delivery tag 0: all that we have not acknowledged
        requeue: true,
    };
    channel.basic_nack(0, all).await?;
    channel.close(200, "Goodbye".into()).await?;
    server.answers.close(200, "Goodbye".into()).await?;
    Ok(())
}

struct Server<'a> {
    publisher: &'a Connection,
    answers: Channel,
    answered: &'a Cell<u64>,
}

impl Server<'_> {
    /// Answers one request: with a result, or with an error if the request is wrong.
    async fn answer(&self, request: Delivery) -> anyhow::Result<()> {
        let reply_to = request.properties.reply_to().clone().unwrap_or_default();
        if reply_to.as_str().is_empty() {
            say!(" [!] A request without `reply_to` cannot be answered")?;
            request.ack(BasicAckOptions::default()).await?;
            return Ok(());
        }
        // The client tells by the id which of its questions this answers.
        let mut properties = BasicProperties::default();
        if let Some(id) = request.properties.correlation_id() {
            properties = properties.with_correlation_id(id.clone());
        }
        let body = match number(&request.data) {
            Ok(number) => {
                let again = if request.redelivered { " (redelivered)" } else { "" };
                say!(" [.] fib({number}){again}")?;
                // On a thread for work that blocks: a long one does not hold up the other
                // requests. It ends with us: when this function does, or is dropped.
                let given_up = CancellationToken::new();
                let _when_we_end = given_up.clone().drop_guard();
                let computed = match number {
                    ..=SMALL => Ok(Ok(fib(number, &given_up))),
                    _ => {
                        let computing = spawn_blocking(move || fib(number, &given_up));
                        timeout(patience(&request), computing).await
                    }
                };
                match computed {
                    Ok(result) => result?.unwrap_or_default().to_string(),
                    Err(_) => {
                        say!(" [!] fib({number}) is given up: its client waits no longer")?;
                        request.ack(BasicAckOptions::default()).await?;
                        return Ok(());
                    }
                }
            }
            // The client tells an error from a result by the type. A result has none.
            Err(reason) => {
                say!(" [!] A wrong request: {reason}")?;
                properties = properties.with_type("error".into());
                reason
            }
        };
        let answer = Answer { reply_to, body, properties };
        match request.redelivered {
            false => answer.publish(self.publisher, &self.answers).await?,
            true => answer.publish_apart().await?,
        }

        // Only now. If we die before, another server does the same work again. Acknowledged before
        // the broker has the answer, the request could be lost with us, and never be answered.
        request.ack(BasicAckOptions::default()).await?;
        self.answered.set(self.answered.get() + 1);
        Ok(())
    }
}

/// How long the client waits for the answer, as the expiration of its request says: milliseconds,
/// as text. Not more than that, as the request has waited in the queue before.
fn patience(request: &Delivery) -> Duration {
    let expiration = request.properties.expiration().as_ref();
    let milliseconds = expiration.and_then(|text| text.as_str().parse().ok());
    milliseconds.map_or(Duration::MAX, Duration::from_millis)
}

struct Answer {
    reply_to: ShortString,
    body: String,
    properties: BasicProperties,
}

impl Answer {
    /// Publishes it, and waits until the broker has dealt with it. The broker drops an answer whose
    /// reply queue is gone, and that is right: nobody waits for it any more.
    async fn publish(&self, connection: &Connection, channel: &Channel) -> anyhow::Result<()> {
        let options = BasicPublishOptions::default(); // not mandatory
        let (queue, body) = (self.reply_to.clone(), self.body.as_bytes());
        let properties = self.properties.clone();
        let confirm = channel.basic_publish("".into(), queue, options, body, properties).await?;
        match confirmed(connection, confirm).await {
            Ok(Confirmation::Ack(_)) => return Ok(()),
            // A client may name any queue as its reply queue: one that is full, or down.
            Ok(_) => {}
            Err(error) if error.is::<Again>() => {} // no confirm for 20 seconds
            Err(error) => return Err(error),
        }
        note!(" [!] A reply queue does not take an answer");
        Ok(())
    }

    /// The same over a connection of its own, for a request that comes again: perhaps it was its
    /// answer that has ended our connection. RabbitMQ 3.10 does that at a `reply_to` such as
    /// `amq.rabbitmq.reply-to.aaaa.aaaa`. Such a request must not come back for ever, nor take
    /// others with it.
    async fn publish_apart(&self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let connection = loop {
            match connect("rpc-server: one answer").await {
                Ok(connection) => break connection,
                Err(error) if !backoff.has_waited() => note!(" [!] {error}. Trying again ..."),
                Err(_) => {}
            }
            backoff.wait().await; // the result is there: do not compute it again
        };
        let publish = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            self.publish(&connection, &channel).await
        };
        let result = match publish.await {
            Err(error) if is_internal(&error) => {
                let reply_to = printable(self.reply_to.as_str().as_bytes());
                note!(" [!] RabbitMQ cannot deal with the `reply_to` of a request: {reply_to}");
                Ok(())
            }
            result => result,
        };
        close(connection).await;
        result
    }
}

fn is_internal(error: &anyhow::Error) -> bool {
    match error.downcast_ref().map(lapin::Error::kind) {
        Some(ErrorKind::ProtocolError(reply)) => reply.get_id() == 541, // INTERNAL_ERROR
        _ => false,
    }
}
