//! The exercises of lesson 2.

use std::env;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::trial::{Trial, numbered};

const QUEUE: &str = "task_queue";

/// The task of a worker that dies is done by the next one.
pub async fn after_work(trial: &Trial) -> Result<String> {
    trial.declare(QUEUE).await?;
    let tasks = numbered("task", 5);
    trial.publish("", QUEUE, &tasks).await?;
    let first = trial.start_ready(&[])?;
    let mut done = vec![first.says("[x] Done ")?];
    let killed = first.says("[x] Received ");
    let killed = killed.context("no second task: has the worker acknowledged the first one?")?;
    done.extend(first.kill("[x] Done ")?);
    let next = trial.start_ready(&[])?;
    done.extend(next.all("[x] Done ", tasks.len() - done.len()));
    next.kill("")?;
    let left = trial.take_all(QUEUE).await?;
    let lost: Vec<_> = tasks.iter().filter(|task| !done.contains(task)).collect();
    let seen = format!(
        "5 tasks, killed in the middle of `{killed}`: {} done, {} lost, {} still in the queue",
        tasks.len() - lost.len(),
        lost.iter().filter(|lost| !left.contains(lost)).count(),
        left.len()
    );
    ensure!(lost.is_empty() && left.is_empty(), "{seen}");
    Ok(seen)
}

/// A worker that comes late gets its share.
pub async fn prefetch(trial: &Trial) -> Result<String> {
    trial.declare(QUEUE).await?;
    trial.publish("", QUEUE, &numbered("task", 10)).await?;
    let first = trial.start_ready(&[])?;
    first.says("[x] Received ")?;
    let second = trial.start_ready(&[])?;
    // Together ten. What the second one has said meanwhile is not lost.
    let firsts = first.all("[x] Done ", 10).len();
    let seconds = second.all("[x] Done ", 10 - firsts.min(10)).len();
    let seen = format!(
        "10 tasks: the worker that was there did {firsts}, the one that came later {seconds}"
    );
    ensure!(firsts + seconds >= 10, "{seen}; the others were not done");
    ensure!(seconds >= 3, "{seen}");
    Ok(seen)
}

/// Ctrl-C ends a worker, and not its task.
pub async fn put_back(trial: &Trial) -> Result<String> {
    trial.declare(QUEUE).await?;
    let tasks = numbered("task", 3);
    trial.publish("", QUEUE, &tasks).await?;
    let worker = trial.start_ready(&[])?;
    let first = worker.says("[x] Done ")?;
    let second = worker.says("[x] Received ")?;
    worker.interrupt()?;
    let start = Instant::now();
    let ran = worker.ends()?;
    let took = start.elapsed();
    let mut done = vec![first];
    done.extend(ran.said("[x] Done ").iter().map(|done| (*done).to_owned()));
    let left = trial.take_all(QUEUE).await?;
    let lost: Vec<_> =
        tasks.iter().filter(|task| !done.contains(task) && !left.contains(task)).collect();
    let seen = format!(
        "3 tasks, Ctrl-C in the middle of `{second}`: {} done, {} in the queue, {} lost",
        done.len(),
        left.len(),
        lost.len()
    );
    ensure!(lost.is_empty(), "{seen}");
    let twice = tasks.iter().any(|task| done.contains(task) && left.contains(task));
    ensure!(!twice, "{seen}: a task that is done is in the queue, and will be done again");
    ensure!(ran.status.success(), "{seen}, and the program ended with {}", ran.status);
    ensure!(
        took < Duration::from_secs(2),
        "{seen}, and the program needed {:.1} s to end",
        took.as_secs_f64()
    );
    Ok(seen)
}

/// Tasks outlive a restart of the broker.
pub async fn restart(trial: Trial) -> Result<String> {
    let ran = trial.run(&["one", "two", "three", "four", "five"])?;
    let said = ran.said("[x] Sent ").len();
    ensure!(
        said == 5 && ran.status.success(),
        "`Sent` was said of {said} of 5 tasks, and the program ended with {}",
        ran.status
    );
    let durable = QueueDeclareOptions::durable();
    let declared = trial.channel.queue_declare("tasks".into(), durable, FieldTable::default());
    let is_classic = declared.await.is_ok();
    ensure!(is_classic, "the queue `tasks` is no durable classic queue any more");
    let lab = env::var_os("LAB").context("LAB is not set")?;
    let mut restart = Command::new(lab);
    restart.args(["restart", "rabbitmq"]).stdout(Stdio::null());
    ensure!(restart.status()?.success(), "the broker does not restart");
    let trial = trial.again().await?;
    let there = trial.take_all("tasks").await?;
    let seen = format!("5 tasks, and the broker is restarted: {} are there", there.len());
    ensure!(there.len() == 5, "{seen}");
    Ok(seen)
}
