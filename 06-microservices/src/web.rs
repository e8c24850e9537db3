//! HTTP: answers, errors, the page and its news.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::to_bytes;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::{CancellationToken, note};
use futures_lite::future::or;
use futures_lite::stream::{self, Stream, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::database::Failure;
use crate::service::{Product, Service};

/// How long requests may take to finish when the service ends.
const GRACE: Duration = Duration::from_secs(2);

/// How long the head of a request may take, and its body.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many connections there may be at a time; others wait. Each open page is one.
const CONNECTIONS: u32 = 200;

/// The largest body of a request, in bytes.
const BODY_MAX: usize = 16 * 1024;

/// What a page may load: what comes from us, and pictures.
const CONTENT: &str = "default-src 'self'; img-src 'self' http: https:; frame-ancestors 'none'";

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
        let body = Json(json!({ "message": self.1 }));
        (self.0, body).into_response()
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(away) => {
                note!(" [!] MySQL: {}", away.cause);
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

/// The routes of a service, with those that both have: the changes for the page, the page, the
/// pictures.
pub fn router(
    page: &'static str,
    script: &'static str,
    routes: Router<Arc<Service>>,
    service: &Arc<Service>,
) -> Router {
    let file = |kind: &'static str, file: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind)], file))
    };
    let svg = |picture| file("image/svg+xml", picture);
    let js = |script| file("text/javascript", script);
    routes
        .route("/", get(async move || Html(page)))
        .route("/page.js", js(script))
        .route("/products.js", js(include_str!("../static/products.js")))
        .route("/events.js", js(include_str!("../static/events.js")))
        .route("/api/events", get(news))
        .route("/style.css", file("text/css", include_str!("../static/style.css")))
        .route("/images/lighthouse.svg", svg(include_str!("../static/lighthouse.svg")))
        .route("/images/mountain.svg", svg(include_str!("../static/mountain.svg")))
        .route("/images/sailboat.svg", svg(include_str!("../static/sailboat.svg")))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "there is nothing here".to_owned()))
        .method_not_allowed_fallback(async || {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "this cannot be done here".to_owned())
        })
        .layer(from_fn_with_state(Arc::clone(service), from_our_pages))
        .with_state(Arc::clone(service))
}

/// Answers only what our own pages ask. A page from somewhere else may send requests to this
/// machine, too, with the browser of someone who sits at it.
async fn from_our_pages(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match is_ours(request.headers(), &service.hosts) {
        true => limited(request, next).await,
        false => {
            let message = "this is for pages from here only; --host names another host".to_owned();
            Refusal(StatusCode::FORBIDDEN, message).into_response()
        }
    };
    let content = HeaderValue::from_static(CONTENT);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, content);
    response
}

/// Answers a request whose body is here.
pub async fn limited(request: Request, next: Next) -> Response {
    match whole(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The request with its body, which must not be large, nor take long.
async fn whole(request: Request) -> Result<Request, Refusal> {
    let (head, body) = request.into_parts();
    match timeout(PATIENCE, to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body.into())),
        Ok(Err(_)) => Err(Refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is broken, or has more than {BODY_MAX} bytes"),
        )),
        Err(_) => Err(Refusal(
            StatusCode::REQUEST_TIMEOUT,
            "the rest of the request did not come".to_owned(),
        )),
    }
}

/// The host is this machine, an address, or one of these names: any other name can be made to point
/// to us by whoever owns it. The origin, if there is one, is the same host.
fn is_ours(headers: &HeaderMap, hosts: &[String]) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return false };
    let name = format!("http://{host}").parse::<Uri>().ok();
    let name = name.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    let origin = text(header::ORIGIN).is_none_or(|origin| {
        ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host))
    });
    origin && (name == "localhost" || address.is_ok() || hosts.iter().any(|host| host == name))
}

pub async fn list(State(service): State<Arc<Service>>) -> Json<Vec<Product>> {
    Json(service.products(None).await)
}

/// Server-sent events: the latest events, and all news from now on. A page then reads the list.
/// <https://developer.mozilla.org/en-US/docs/Web/API/Server-sent_events>
async fn news(
    State(service): State<Arc<Service>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (latest, news) = service.feed.subscribe();
    let news = stream::unfold(news, move |mut news| {
        let service = Arc::clone(&service);
        async move {
            // It ends for a page that has missed something, too: the browser asks again.
            let next = tokio::select! {
                next = news.recv() => next.ok()?,
                () = service.ending.cancelled() => return None,
            };
            Some((next, news))
        }
    });
    let event = |(name, data)| Ok(Event::default().event(name).data(data));
    Sse::new(stream::iter(latest).chain(news).map(event)).keep_alive(KeepAlive::default())
}

/// Answers requests at this address until `work` ends.
pub async fn serve_while(
    address: SocketAddr,
    router: Router,
    service: &Service,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let server = tokio::spawn(serve(listen(address).await?, router, service.ending.clone()));
    let result = or(work, service.follow()).await;
    service.ending.cancel();
    server.await?;
    result
}

/// Takes requests at this address from now on, and says so.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address}; --listen names another address"))?;
    note!(" [*] http://localhost:{}", listener.local_addr()?.port());
    Ok(listener)
}

/// Answers requests until the service ends. Then it takes no more, and finishes those that are
/// under way. `axum::serve` does that, too, but has no limits: a client that opens connections
/// and says nothing could keep all others out.
pub async fn serve(listener: TcpListener, router: Router, ending: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = ending.cancelled() => break,
        };
        let Ok((socket, _)) = accepted else {
            sleep(Duration::from_millis(100)).await; // the machine has no more of them for now
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(socket), service);
        let ending = ending.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let mut connection = pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = ending.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await; // whoever asked is gone, or has the answer
        });
    }
    drop(listener);
    // All of them are back when no connection is left. Not for ever: somebody may not read.
    let _ = timeout(GRACE, connections.acquire_many(CONNECTIONS)).await;
}
