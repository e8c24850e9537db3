//! Publishes from a web handler: takes feedback over HTTP, and puts it into the queue `feedback`.
//!
//!     cargo run -p microservices --bin feedback

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use common::{CancellationToken, note, supervise};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionStatus};
use microservices::web::{self, Refusal};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// How long RabbitMQ may take to confirm. Nobody waits longer for a page.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long to use a channel at least. A queue that is full refuses everything.
const PAUSE: Duration = Duration::from_millis(100);

/// Take feedback over HTTP until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where to listen for HTTP
    #[arg(long, env = "FEEDBACK_LISTEN", default_value = "127.0.0.1:8002")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// What each handler has.
#[derive(Clone)]
struct Broker {
    /// The channel of the connection that there is now, if there is one. Many tasks can use a
    /// channel at once; each clone is the same channel.
    channel: watch::Receiver<Option<(Channel, ConnectionStatus)>>,
    /// Something is wrong with the channel or the queue.
    wrong: Arc<Notify>,
}

async fn run(args: Args) -> anyhow::Result<()> {
    let (now, channel) = watch::channel(None);
    let wrong = Arc::new(Notify::new());
    let broker = Broker { channel, wrong: Arc::clone(&wrong) };
    let router = Router::new().route("/feedback", post(take)).with_state(broker);
    let router = router.layer(from_fn(web::limited));
    let (ending, ended) = (CancellationToken::new(), CancellationToken::new());
    let serving = web::serve(web::listen(args.listen).await?, router, ending.clone());
    let server = tokio::spawn({
        let ended = ended.clone();
        async move {
            serving.await;
            ended.cancel();
        }
    });
    let result = supervise(env!("CARGO_BIN_NAME"), async |connection, stop| {
        let mut channel = open(connection).await?;
        let _gone = Gone(&now);
        note!(" [*] Taking feedback. To exit press CTRL+C");
        loop {
            now.send_replace(Some((channel.clone(), connection.status().clone())));
            tokio::select! {
                () = stop.cancelled() => break,
                () = wrong.notified() => {}
            }
            sleep(PAUSE).await;
            // The queue is gone, or refuses. After an election in a cluster, RabbitMQ 3.10 may
            // refuse for ever what comes over the old channel.
            match open(connection).await {
                Ok(new) => channel = new,
                // Not now: the queue is down, for instance. Until then the handlers answer 503.
                Err(error) if connection.status().connected() => {
                    note!(" [!] RabbitMQ: {error}");
                    sleep(10 * PAUSE).await;
                    wrong.notify_one();
                }
                Err(error) => return Err(error.into()),
            }
        }
        ending.cancel(); // take no new request, and let those under way finish
        ended.cancelled().await;
        channel.close(200, "Goodbye".into()).await?;
        Ok(())
    })
    .await;
    ending.cancel();
    server.await?;
    result
}

/// A channel to publish over, to a queue that is there.
async fn open(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("feedback".into(), QueueDeclareOptions::durable(), quorum).await?;
    Ok(channel)
}

/// When a connection is lost, `supervise` drops what works with it. Then the handlers have no
/// channel until there is a new one.
struct Gone<'a>(&'a watch::Sender<Option<(Channel, ConnectionStatus)>>);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

#[derive(Serialize, Deserialize)]
struct Feedback {
    text: String,
}

/// 202: RabbitMQ has it. 503: it has not, try again. 504: nobody knows.
async fn take(
    State(broker): State<Broker>,
    headers: HeaderMap,
    feedback: Result<Json<Feedback>, JsonRejection>,
) -> Result<StatusCode, Refusal> {
    let Json(feedback) = feedback?;
    let body = serde_json::to_vec(&feedback)
        .map_err(|error| Refusal(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    // A client that asks again with the same key means the same feedback: a consumer can
    // deduplicate by it.
    let id = match headers.get("idempotency-key").map(|key| key.to_str()) {
        None | Some(Ok("")) => Uuid::now_v7().to_string(),
        Some(Ok(key)) if (1..=100).contains(&key.len()) => key.to_owned(),
        Some(_) => {
            let why = "idempotency-key: 1 to 100 characters of ASCII".to_owned();
            return Err(Refusal(StatusCode::BAD_REQUEST, why));
        }
    };

    let away = || Refusal::unavailable("RabbitMQ");
    let unknown = || {
        let why = "RabbitMQ has not confirmed it: it has the feedback, or not".to_owned();
        Refusal(StatusCode::GATEWAY_TIMEOUT, why)
    };
    let (channel, connection) = broker.channel.borrow().clone().ok_or_else(away)?;
    // Blocked: RabbitMQ has said that it takes nothing for now. It would wait in our memory.
    if !channel.status().connected() || connection.blocked() {
        return Err(away());
    }
    match timeout(DEADLINE, publish(&channel, &id, &body)).await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(StatusCode::ACCEPTED),
        Ok(Ok(Confirmation::Nack(_))) => {
            broker.wrong.notify_one();
            Err(Refusal::unavailable("the queue `feedback`"))
        }
        Ok(Ok(_)) => {
            note!(" [!] The queue `feedback` is gone. Declaring it again ...");
            broker.wrong.notify_one();
            Err(Refusal::unavailable("the queue `feedback`"))
        }
        Ok(Err(error)) => {
            note!(" [!] RabbitMQ: {error}");
            broker.wrong.notify_one();
            Err(unknown())
        }
        Err(_) => Err(unknown()),
    }
}

async fn publish(channel: &Channel, id: &str, body: &[u8]) -> lapin::Result<Confirmation> {
    let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let confirm =
        channel.basic_publish("".into(), "feedback".into(), mandatory, body, properties).await?;
    confirm.await
}
