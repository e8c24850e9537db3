//! The exercises of lesson 10, on one node: to a program, a cluster without a leader is a broker
//! that says no, and a node that is gone is a port at which nobody listens.

use std::env;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::sleep;

use crate::trial::{LIMIT, Trial, list};

/// What is refused is published again.
pub async fn again(trial: &Trial) -> Result<String> {
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(2));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let durable = QueueDeclareOptions::durable();
    trial.channel.queue_declare("steady".into(), durable, full).await?;
    let messages = ["one", "two", "three", "four", "five", "six"];
    let mut program = trial.start(&messages)?;
    let (mut got, start) = (Vec::new(), Instant::now());
    // It takes a message each 0.3 s: the queue is full for most of the time.
    while start.elapsed() < LIMIT && !program.has_ended() {
        sleep(Duration::from_millis(300)).await;
        got.extend(trial.take("steady").await?);
    }
    let ran = program.ends()?;
    got.extend(trial.take_all("steady").await?);
    let lost: Vec<_> =
        messages.iter().filter(|message| !got.iter().any(|got| got == *message)).collect();
    let confirmed = ran.said("[x] Confirmed ").len();
    let seen = format!(
        "6 messages for a queue that takes 2 at a time: `Confirmed` was said of {confirmed}, {} \
         were in the queue",
        list(&got)
    );
    ensure!(lost.is_empty() && confirmed == 6, "{seen}");
    ensure!(ran.status.success(), "{seen}; the program ended with {}", ran.status);
    Ok(seen)
}

/// Any node will do.
pub async fn addresses(trial: &Trial) -> Result<String> {
    trial.declare("steady").await?;
    let there = env::var("AMQP_URL").context("AMQP_URL is not set")?;
    // a port of this machine at which nobody listens any more
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let away = format!("amqp://guest:guest@localhost:{port}/%2f");
    let mut seen = Vec::new();
    for (what, urls, expected) in [
        ("the second node is away", format!("{there},{away}"), true),
        ("the first node is away", format!("{away},{there}"), true),
        ("both are away", format!("{away},{away}"), false),
    ] {
        let ran = trial.start_with(&["hello"], &[("AMQP_URL", &urls)])?.ends()?;
        let sent = trial.take_all("steady").await?.len();
        seen.push(format!("{what}: {sent} sent, {}", ran.status));
        let right = (sent == usize::from(expected)) && ran.status.success() == expected;
        ensure!(right, "{}", seen.join("; "));
    }
    Ok(seen.join("; "))
}
