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
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen at {address} for health and metrics (such as 0.0.0.0:9000)")
        })?;
        let router = Router::new()
            .route("/health/live", get("alive\n"))
            .route("/health/ready", get(readiness))
            .route("/metrics", get(metrics));
        // It answers until the program ends, which the program decides.
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(())
    }
}

/// The connection that the program works over, and what tells it to stop.
static WORK: Mutex<Option<(ConnectionStatus, CancellationToken)>> = Mutex::new(None);

/// The program is ready, as long as this lives.
pub struct Ready(());

/// To be called when the program can do its work: when RabbitMQ has accepted a consumer, for
/// instance. It is ready as long as what this returns lives, the connection is there, and nobody
/// has told it to stop.
pub fn ready(connection: &Connection, stop: &CancellationToken) -> Ready {
    let work = (connection.status().clone(), stop.clone());
    *WORK.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    Ready(())
}

impl Drop for Ready {
    fn drop(&mut self) {
        *WORK.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether there is a connection, and why the program is not ready, if it is not.
fn state() -> (bool, Option<&'static str>) {
    match &*WORK.lock().unwrap_or_else(PoisonError::into_inner) {
        Some((connection, stop)) if connection.connected() => {
            (true, stop.is_cancelled().then_some("stopping"))
        }
        _ => (false, Some("not ready")),
    }
}

/// A program that is not ready lives: to start it again would not bring RabbitMQ back.
async fn readiness() -> (StatusCode, String) {
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
