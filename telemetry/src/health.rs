//! Whether the program lives, and whether it is ready: what Kubernetes, Docker and load balancers
//! ask, over HTTP.

use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::{Router, http::StatusCode, routing::get};
use clap::Args;
use common::CancellationToken;
use lapin::{Connection, ConnectionStatus};
use tokio::net::TcpListener;

use crate::logs::Logs;
use crate::metrics::{self, METRICS};

/// What every service can be told.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    logs: Logs,

    /// Where to serve /health/live, /health/ready and /metrics, such as 0.0.0.0:9000
    #[arg(long, env, value_name = "ADDRESS:PORT")]
    health_listen: Option<String>,
}

impl Options {
    /// Begins to write logs, and to answer over HTTP if that is wanted. To be called once, before
    /// anything is said.
    ///
    /// # Errors
    ///
    /// `RUST_LOG` cannot be read, or somebody else listens at that address.
    pub async fn start(&self, program: &'static str) -> anyhow::Result<()> {
        self.logs.start(program)?;
        let Some(address) = &self.health_listen else { return Ok(()) };
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen at {address}, for health and metrics"))?;
        let router = Router::new()
            .route("/health/live", get("alive\n"))
            .route("/health/ready", get(ready))
            .route("/metrics", get(metrics));
        // It answers until the program ends, which the program decides.
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(())
    }
}

/// Over which connection the program consumes, and what tells it to stop.
static CONSUMER: Mutex<Option<(ConnectionStatus, CancellationToken)>> = Mutex::new(None);

/// The program consumes, as long as this lives.
pub struct Consuming(());

/// To be called when RabbitMQ has accepted a consumer. The program is ready as long as what this
/// returns lives, the connection is there, and nobody has told it to stop.
pub fn consuming(connection: &Connection, stop: &CancellationToken) -> Consuming {
    let consumer = (connection.status().clone(), stop.clone());
    *CONSUMER.lock().unwrap_or_else(PoisonError::into_inner) = Some(consumer);
    Consuming(())
}

impl Drop for Consuming {
    fn drop(&mut self) {
        *CONSUMER.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether there is a connection, and why the program takes no messages, if it does not.
fn state() -> (bool, Option<&'static str>) {
    match &*CONSUMER.lock().unwrap_or_else(PoisonError::into_inner) {
        Some((connection, stop)) if connection.connected() => {
            (true, stop.is_cancelled().then_some("stopping"))
        }
        _ => (false, Some("not consuming")),
    }
}

/// A program that is not ready lives: to start it again would not bring RabbitMQ back.
async fn ready() -> (StatusCode, String) {
    match state().1 {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics() -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let (connected, not_ready) = state();
    METRICS.connected.set(connected.into());
    METRICS.ready.set(not_ready.is_none().into());
    let text = metrics::text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, metrics::TYPE)], text))
}
