//! The exercises of lesson 7.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::sleep;

use crate::trial::{LIMIT, Trial, list, numbered};

/// A job is tried three times, and parked.
pub async fn attempts(trial: &Trial) -> Result<String> {
    let program = trial.start_ready(&[])?;
    let jobs = numbered("job", 2);
    trial.publish("", "jobs", &jobs).await?;
    // After the first attempts, another worker goes on.
    let mut received = vec![program.says("[x] Received ")?, program.says("[x] Received ")?];
    program.interrupt()?;
    received.extend(program.ends()?.said("[x] Received ").into_iter().map(str::to_owned));
    let program = trial.start_ready(&[])?;
    received.extend(program.all("[x] Received ", 8 - received.len().min(8))); // six, or too many
    program.kill("")?;
    let mut parked = trial.take_all("jobs.parked").await?;
    parked.sort();
    let times = |job: &String| received.iter().filter(|received| *received == job).count();
    let (first, second) = (times(&jobs[0]), times(&jobs[1]));
    let seen = format!(
        "2 jobs that fail always, a new worker after the first attempts: received {first} and \
         {second} times; parked: {}",
        list(&parked)
    );
    ensure!((first, second) == (3, 3) && parked == jobs, "{seen}");
    Ok(seen)
}

/// A job is in one of the two queues.
pub async fn safe(trial: &Trial) -> Result<String> {
    trial.declare("jobs").await?;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let durable = QueueDeclareOptions::durable();
    trial.channel.queue_declare("jobs.retry".into(), durable, full).await?;
    let jobs = numbered("job", 3);
    trial.publish("", "jobs", &jobs).await?;
    let mut program = trial.start_ready(&[])?;
    let start = Instant::now();
    while start.elapsed() < LIMIT && trial.state("jobs.retry").await?.message_count() == 0 {
        sleep(Duration::from_millis(20)).await;
    }
    // It is full now. The next job shows what the program does.
    program.let_it_try().await;
    program.kill("")?;
    let (jobs_left, retry) = (trial.take_all("jobs").await?, trial.take_all("jobs.retry").await?);
    let lost = jobs.iter().filter(|job| !jobs_left.contains(job) && !retry.contains(job)).count();
    let seen = format!(
        "3 jobs that fail, `jobs.retry` takes 1: in `jobs`: {}; in `jobs.retry`: {}; lost: {lost}",
        list(&jobs_left),
        list(&retry)
    );
    ensure!(lost == 0, "{seen}");
    ensure!(!retry.is_empty(), "{seen}: no job was put there");
    Ok(seen)
}

/// A short pause does not wait for a long one.
pub async fn pause(trial: &Trial) -> Result<String> {
    let ran = trial.run(&["60000", "slow"])?;
    ensure!(ran.status.success(), "with a pause of 60000 ms, it ended with {}", ran.status);
    let start = Instant::now();
    let ran = trial.run(&["700", "fast"])?;
    ensure!(ran.status.success(), "with a pause of 700 ms, it ended with {}", ran.status);
    let limit = Duration::from_secs(4);
    let job = loop {
        if let Some(job) = trial.take("jobs").await? {
            break Some(job);
        }
        if start.elapsed() > limit {
            break None;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let took = start.elapsed().as_millis();
    let seen = match &job {
        Some(job) => {
            format!("a pause of 60000 ms, and then one of 700 ms: `{job}` came after {took} ms")
        }
        None => {
            format!("a pause of 60000 ms, and then one of 700 ms: after {took} ms no job is there")
        }
    };
    ensure!(job.as_deref() == Some("fast") && took >= 650, "{seen}");
    Ok(seen)
}
