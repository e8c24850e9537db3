//! HTTP: answers, errors, the page and its live updates.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::{CancellationToken, note};
use futures_lite::stream::{self, Stream};
use mysql_async::prelude::Queryable;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::timeout;

use crate::database::{Database, Failure, within};

/// How long requests may take to finish when the service ends.
const GRACE: Duration = Duration::from_secs(2);

/// The largest body of a request, in bytes.
const BODY_MAX: usize = 16 * 1024;

/// A product as both services show it.
#[derive(Clone, PartialEq, Serialize)]
pub struct Product {
    pub id: u32,
    pub title: String,
    pub image: String,
    pub likes: u32,
}

/// What the routes of a service work with.
pub struct Service {
    pub database: Database,
    /// An event has been written into the outbox.
    pub written: Notify,
    /// The service ends: pages that wait for news are let go.
    pub ending: CancellationToken,
    products: watch::Sender<Vec<Product>>,
    reading: Mutex<()>,
}

impl Service {
    pub fn new(database: Database) -> Self {
        Self {
            database,
            written: Notify::new(),
            ending: CancellationToken::new(),
            products: watch::Sender::default(),
            reading: Mutex::new(()),
        }
    }

    /// To be called after each change: tells the pages, and the relay.
    pub async fn changed(&self) {
        self.written.notify_one();
        // One after the other: what was read earlier must not replace what was read later.
        let _reading = self.reading.lock().await;
        if let Ok(products) = within(self.read()).await {
            self.products.send_if_modified(|known| {
                let modified = *known != products;
                *known = products;
                modified
            });
        }
    }

    /// All products. If MySQL is away, as they were the last time.
    pub async fn products(&self) -> Vec<Product> {
        let products = within(self.read()).await;
        products.unwrap_or_else(|_| self.products.borrow().clone())
    }

    async fn read(&self) -> Result<Vec<Product>, Failure> {
        let mut transaction = self.database.begin().await?;
        let select = "SELECT id, title, image, likes FROM products ORDER BY id";
        let product = |(id, title, image, likes)| Product { id, title, image, likes };
        Ok(transaction.query_map(select, product).await?)
    }
}

/// What is answered when something is wrong: a status, and `{"message": ...}`.
pub struct Refusal(pub StatusCode, pub String);

impl Refusal {
    pub fn not_found() -> Self {
        Self(StatusCode::NOT_FOUND, "there is no such product".to_owned())
    }

    pub fn unavailable(what: &str) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("{what} is away; try again in a moment"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "message": self.1 }));
        (self.0, body).into_response()
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(cause) => {
                note!(" [!] MySQL: {cause}");
                Self::unavailable("the database")
            }
            Failure::Refused(reason) => {
                note!(" [!] MySQL: {reason}");
                Self(StatusCode::INTERNAL_SERVER_ERROR, "the database refused it".to_owned())
            }
        }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Refusal {
    fn from(_: PathRejection) -> Self {
        Self::not_found()
    }
}

/// The routes of a service, with those that both have: the events of the page, the page, the
/// pictures.
pub fn router(page: &'static str, routes: Router<Arc<Service>>, service: &Arc<Service>) -> Router {
    let file = |kind: &'static str, file: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind)], file))
    };
    let svg = |picture| file("image/svg+xml", picture);
    routes
        .route("/", get(async move || Html(page)))
        .route("/api/events", get(events))
        .route("/style.css", file("text/css", include_str!("../static/style.css")))
        .route("/images/lighthouse.svg", svg(include_str!("../static/lighthouse.svg")))
        .route("/images/mountain.svg", svg(include_str!("../static/mountain.svg")))
        .route("/images/sailboat.svg", svg(include_str!("../static/sailboat.svg")))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "there is nothing here".to_owned()))
        .method_not_allowed_fallback(async || {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here".to_owned())
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Arc::clone(service))
}

pub async fn list(State(service): State<Arc<Service>>) -> Json<Vec<Product>> {
    Json(service.products().await)
}

/// Server-sent events: the whole list now, and again whenever it has changed.
/// <https://developer.mozilla.org/en-US/docs/Web/API/Server-sent_events>
async fn events(
    State(service): State<Arc<Service>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    service.changed().await;
    let mut products = service.products.subscribe();
    products.mark_changed();
    let events = stream::unfold(products, move |mut products| {
        let service = Arc::clone(&service);
        async move {
            tokio::select! {
                changed = products.changed() => changed.ok()?,
                () = service.ending.cancelled() => return None,
            }
            let data = serde_json::to_string(&*products.borrow_and_update()).ok()?;
            Some((Ok(Event::default().data(data)), products))
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Answers requests at this address until `work` ends. Then it takes no more, and finishes those
/// that are under way.
pub async fn serve_while(
    address: SocketAddr,
    router: Router,
    ending: CancellationToken,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address}; --listen names another address"))?;
    note!(" [*] http://localhost:{}", listener.local_addr()?.port());
    let server =
        axum::serve(listener, router).with_graceful_shutdown(ending.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    let result = work.await;
    ending.cancel();
    // Not for ever: somebody may have begun a request and never ended it.
    if let Ok(served) = timeout(GRACE, server).await {
        served??;
    }
    result
}
