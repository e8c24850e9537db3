//! The exercises of lesson 3.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::proxy::{Line, Proxy};
use crate::trial::{Trial, numbered};

/// Each receiver gets each line.
pub async fn own_queue(trial: &Trial) -> Result<String> {
    let (first, second) = (trial.start_ready(&[])?, trial.start_ready(&[])?);
    trial.publish("logs", "", &numbered("line", 10)).await?;
    let received = [first, second].map(|program| program.all("[x] Received ", 10).len());
    let [first, second] = received;
    let seen = format!("2 receivers, 10 lines: one received {first}, the other {second}");
    ensure!(received == [10, 10], "{seen}");
    Ok(seen)
}

/// Who is ready gets what comes next.
pub async fn ready(trial: &Trial) -> Result<String> {
    let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions::default());
    trial.channel.exchange_declare("logs".into(), kind, options, FieldTable::default()).await?;
    // What the program sends takes its time: what it has not waited for is not done yet.
    let url = env::var("AMQP_URL").context("AMQP_URL is not set")?;
    let slow = Proxy::start(&url, Line::Slow(Duration::from_millis(50)))?;
    let program = trial.start_with(&[], &[("AMQP_URL", &slow.url)])?;
    program.says("[*] Waiting")?;
    let lines = numbered("line", 200);
    trial.publish("logs", "", &lines).await?;
    let received = program.all("[x] Received ", lines.len());
    let seen = format!(
        "200 lines, published as soon as `Waiting` was said: {} came, the first one was {}",
        received.len(),
        received.first().map_or("none", String::as_str)
    );
    ensure!(received == lines, "{seen}");
    Ok(seen)
}
