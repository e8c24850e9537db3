//! What the open pages are told, live: each product that changes, what becomes of each event, and
//! how far the other service is behind.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{CancellationToken, printable};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, Queue};
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::time::sleep;

/// How many events a page shows.
pub const RECENT: usize = 20;

/// How many characters of a body are shown.
const BODY_MAX: usize = 200;

/// How much news a page may be behind. One that has missed some reads everything again.
const BEHIND: usize = 1000;

/// How often RabbitMQ is asked how much waits for the other service.
const ASK: Duration = Duration::from_secs(1);

/// News: the name of a server-sent event, and its data in JSON.
pub type News = (&'static str, String);

/// An event, and what has become of it.
#[derive(Clone, Serialize)]
pub struct Told {
    /// The message id of an event of ours. One that comes to us has a new id each time.
    id: String,
    /// `out` or `in`.
    way: &'static str,
    kind: String,
    body: String,
    step: String,
}

/// What an event of ours is while it is in the outbox.
const WAITS: &str = "in the outbox";

impl Told {
    pub fn outgoing(id: &str, kind: &str, body: &str) -> Self {
        Self::new("out", id, kind, body.as_bytes())
    }

    pub fn incoming(id: &str, kind: &str, body: &[u8]) -> Self {
        Self::new("in", id, kind, body)
    }

    fn new(way: &'static str, id: &str, kind: &str, body: &[u8]) -> Self {
        let shown = printable(body);
        let body = match shown.char_indices().nth(BODY_MAX) {
            Some((end, _)) => format!("{} ...", &shown[..end]),
            None => shown,
        };
        let kind = printable(kind.as_bytes());
        Self { id: id.to_owned(), way, kind, body, step: String::new() }
    }
}

/// What the pages are told, and the latest of it for one that is opened.
pub struct Feed {
    news: broadcast::Sender<News>,
    recent: Mutex<VecDeque<Told>>,
    /// The queue of the other service, if RabbitMQ is there.
    queue: Mutex<Option<Queue>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    pub fn new() -> Self {
        let news = broadcast::Sender::new(BEHIND);
        Self { news, recent: Mutex::default(), queue: Mutex::default() }
    }

    /// Whether a page is open.
    pub fn is_watched(&self) -> bool {
        self.news.receiver_count() > 0
    }

    /// The latest events, and all news from now on.
    pub fn subscribe(&self) -> (Vec<News>, broadcast::Receiver<News>) {
        let recent = locked(&self.recent);
        let told = recent.iter().map(|told| ("event", json!(told).to_string())).collect();
        (told, self.news.subscribe())
    }

    /// Tells the open pages. While there is none, it costs nothing.
    pub fn send(&self, name: &'static str, data: &impl Serialize) {
        if self.is_watched() {
            let _ = self.news.send((name, json!(data).to_string())); // an error: it is closed now
        }
    }

    /// What becomes of an event.
    pub fn tell(&self, told: &Told, step: &str) {
        self.update(&mut locked(&self.recent), Told { step: step.to_owned(), ..told.clone() });
    }

    fn update(&self, recent: &mut VecDeque<Told>, told: Told) {
        self.send("event", &told);
        match recent.iter_mut().find(|known| (known.way, &known.id) == (told.way, &told.id)) {
            Some(known) => *known = told,
            None => recent.push_back(told),
        }
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }

    /// How many events wait in the outbox, and the latest of them. None: MySQL does not say.
    pub fn outbox(&self, waiting: Option<(u64, Vec<Told>)>) {
        let count = waiting.as_ref().map(|(count, _)| *count);
        let queue = locked(&self.queue).as_ref().map(|queue| {
            json!({ "messages": queue.message_count(), "consumers": queue.consumer_count() })
        });
        self.send("behind", &json!({ "outbox": count, "queue": queue }));
        let Some((count, latest)) = waiting else { return };
        let mut recent = locked(&self.recent);
        // What was there and is gone has left, whoever has published it.
        let left: Vec<_> = recent
            .iter()
            .filter(|told| told.step == WAITS && count <= latest.len() as u64)
            .filter(|told| !latest.iter().any(|waits| waits.id == told.id))
            .cloned()
            .collect();
        for told in left {
            self.update(&mut recent, Told { step: "published".to_owned(), ..told });
        }
        for told in latest {
            // One that is known already may have left since we looked.
            if !recent.iter().any(|known| known.way == told.way && known.id == told.id) {
                self.update(&mut recent, Told { step: WAITS.to_owned(), ..told });
            }
        }
    }

    /// Asks how many messages wait in the queue of the other service, until Ctrl-C or until the
    /// connection is lost. A *passive* declaration creates nothing: it answers how many messages
    /// are ready, and how many consumers there are.
    /// <https://www.rabbitmq.com/docs/queues#passive-declaration>
    pub async fn watch(
        &self,
        connection: &Connection,
        stop: &CancellationToken,
        queue: &str,
    ) -> anyhow::Result<()> {
        let _forget = Forget(&self.queue);
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let ask = async || -> lapin::Result<()> {
            let channel = connection.create_channel().await?;
            loop {
                let answer = channel.queue_declare(queue.into(), passive, FieldTable::default());
                *locked(&self.queue) = Some(answer.await?);
                sleep(ASK).await;
            }
        };
        while !stop.is_cancelled() {
            // An error closes the channel. The next one may have an answer.
            let _ = stop.run_until_cancelled(ask()).await;
            *locked(&self.queue) = None;
            let _ = stop.run_until_cancelled(sleep(ASK)).await;
        }
        Ok(())
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

/// What we know of the queue is forgotten with the connection, however the work over it ends.
struct Forget<'a>(&'a Mutex<Option<Queue>>);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        *locked(self.0) = None;
    }
}
