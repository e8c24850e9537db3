//! Publishes from a web handler: takes feedback over HTTP, and puts it into the queue `feedback`.
//!
//!     cargo run -p microservices --bin feedback

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use common::{CancellationToken, note, supervise};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Queue};
use microservices::web::{self, Refusal};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use uuid::Uuid;

/// How long RabbitMQ may take to confirm. Nobody waits longer for a page.
const DEADLINE: Duration = Duration::from_secs(2);

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
    channel: watch::Receiver<Option<Channel>>,
    /// Something is wrong with the channel or the queue.
    wrong: Arc<Notify>,
}

async fn run(args: Args) -> anyhow::Result<()> {
    let (now, channel) = watch::channel(None);
    let wrong = Arc::new(Notify::new());
    let broker = Broker { channel, wrong: Arc::clone(&wrong) };
    let router = Router::new().route("/feedback", post(take)).with_state(broker);
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
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let _gone = Gone(&now);
        let mut said = false;
        while !stop.is_cancelled() {
            // Again, if somebody has deleted the queue. If the channel is closed, this is an error,
            // and `supervise` connects again.
            declare(&channel).await?;
            now.send_replace(Some(channel.clone()));
            if !mem::replace(&mut said, true) {
                note!(" [*] Taking feedback. To exit press CTRL+C");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = wrong.notified() => {}
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

async fn declare(channel: &Channel) -> lapin::Result<Queue> {
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("feedback".into(), QueueDeclareOptions::durable(), quorum).await
}

/// When a connection is lost, `supervise` drops what works with it. Then the handlers have no
/// channel until there is a new one.
struct Gone<'a>(&'a watch::Sender<Option<Channel>>);

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
    // Who asks again with the same key means the same feedback: a consumer can deduplicate by it.
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let key = key.filter(|key| (1..=100).contains(&key.len())).map(str::to_owned);
    let id = key.unwrap_or_else(|| Uuid::now_v7().to_string());

    let away = || Refusal::unavailable("RabbitMQ");
    let channel = broker.channel.borrow().clone();
    let channel = channel.filter(|channel| channel.status().connected()).ok_or_else(away)?;
    match timeout(DEADLINE, publish(&channel, &id, &body)).await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(StatusCode::ACCEPTED),
        Ok(Ok(Confirmation::Nack(_))) => Err(Refusal::unavailable("the queue `feedback`")),
        Ok(Ok(_)) => {
            note!(" [!] The queue `feedback` is gone. Declaring it again ...");
            broker.wrong.notify_one();
            Err(Refusal::unavailable("the queue `feedback`"))
        }
        Ok(Err(error)) => {
            note!(" [!] RabbitMQ: {error}");
            broker.wrong.notify_one();
            Err(away())
        }
        Err(_) => Err(Refusal(
            StatusCode::GATEWAY_TIMEOUT,
            "RabbitMQ has not answered in time: it has the feedback, or not".to_owned(),
        )),
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
