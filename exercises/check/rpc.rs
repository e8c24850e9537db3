//! The exercises of lesson 8. The check is the server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::printable;
use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::options::BasicGetOptions;
use tokio::time::sleep;

use crate::trial::{LIMIT, Trial};

/// The next request.
async fn request(trial: &Trial) -> Result<BasicGetMessage> {
    let start = Instant::now();
    loop {
        let no_ack = BasicGetOptions { no_ack: true };
        if let Some(request) = trial.channel.basic_get("rpc_queue".into(), no_ack).await? {
            return Ok(request);
        }
        ensure!(start.elapsed() < LIMIT, "the program has not sent all its requests");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Answers. Who has ended gets nothing, which is no fault of the check.
async fn answer(trial: &Trial, request: &BasicGetMessage, id: &str, text: &str) -> Result<()> {
    let reply_to = request.properties.reply_to().as_ref();
    let reply_to = reply_to.context("a request says not where the answer is to go: reply_to")?;
    let properties = BasicProperties::default().with_correlation_id(id.into());
    trial.offer("", reply_to.as_str(), text, properties).await?;
    Ok(())
}

fn id(request: &BasicGetMessage) -> &str {
    request.properties.correlation_id().as_ref().map_or("", |id| id.as_str())
}

/// Each answer stands beside its question.
pub async fn correlate(trial: &Trial) -> Result<String> {
    trial.declare("rpc_queue").await?;
    let program = trial.start(&["10", "20", "30"])?;
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(request(trial).await?);
    }
    answer(trial, &requests[0], "unknown", "nobody asked").await?;
    for request in requests.iter().rev() {
        let text = format!("the answer to {}", printable(&request.data));
        answer(trial, request, id(request), &text).await?;
    }
    let ran = program.ends()?;
    let mut said = ran.said("[.] ");
    said.sort();
    let expected =
        ["10", "20", "30"].map(|number| format!("fib({number}) = the answer to {number}"));
    let seen = format!("3 requests, answered in reverse order: {}", said.join("; "));
    ensure!(said == expected, "{seen}");
    ensure!(ran.status.success(), "{seen}; the program ended with {}", ran.status);
    Ok(seen)
}

/// Who gets no answer gives up.
pub async fn deadline(trial: &Trial) -> Result<String> {
    trial.declare("rpc_queue").await?;
    let start = Instant::now();
    let ran = trial.start(&["10"])?.ends_within(Duration::from_secs(6));
    let ran = ran.context("nobody answers")?;
    let took = start.elapsed().as_secs_f64();
    let seen = format!("nobody answers: the program ended after {took:.1} s");
    ensure!(!ran.status.success(), "{seen}, with exit code 0");
    ensure!(took > 2.0, "{seen}: too early, an answer may take three");
    trial.take_all("rpc_queue").await?;
    let program = trial.start(&["20"])?;
    let request = request(trial).await?;
    sleep(Duration::from_millis(500)).await; // the work of the server
    answer(trial, &request, id(&request), "6765").await?;
    let ran = program.ends()?;
    let seen = format!("{seen}; a server that needs 0.5 s: {}", ran.said("[.] ").join("; "));
    ensure!(ran.said("[.] ") == ["fib(20) = 6765"] && ran.status.success(), "{seen}");
    Ok(seen)
}
