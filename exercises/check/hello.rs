//! The exercises of lesson 1.

use std::time::Duration;

use anyhow::{Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use tokio::time::sleep;

use crate::trial::{Trial, list, numbered};

/// `Sent` is said when the broker has the message, and not when it has refused it.
pub async fn confirm(trial: &Trial) -> Result<String> {
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(2));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    trial.channel.queue_declare("hello".into(), QueueDeclareOptions::durable(), full).await?;
    let ran = trial.run(&["one", "two", "three", "four", "five"])?;
    let (said, there) = (ran.said("[x] Sent "), trial.take_all("hello").await?);
    let (said_of, there_are) = (said.len(), there.len());
    let seen = format!(
        "5 messages for a queue that takes 2: `Sent` was said of {said_of}, {there_are} are there"
    );
    ensure!(said.iter().all(|said| there.iter().any(|there| said == there)), "{seen}");
    ensure!(said_of == 2, "{seen}: {}", list(&there));
    ensure!(!ran.status.success(), "{seen}, and yet the program ended with exit code 0");

    let ran = trial.run(&["six", "seven"])?;
    let (said, there) = (ran.said("[x] Sent "), trial.take_all("hello").await?);
    ensure!(
        said == ["six", "seven"] && there == said && ran.status.success(),
        "2 messages for a queue that takes 2: `Sent` was said of {}, {} are there, {}",
        said.len(),
        there.len(),
        ran.status
    );
    Ok(seen)
}

/// A message that no queue takes is an error.
pub async fn mandatory(trial: &Trial) -> Result<String> {
    let ran = trial.run(&["nowhere", "lost"])?;
    let said = ran.said("[x] Sent ");
    ensure!(
        said.is_empty(),
        "a message for the queue `nowhere`, which is not there: `Sent` was said, and it is lost"
    );
    ensure!(
        !ran.status.success(),
        "a message for the queue `nowhere`, which is not there: the program ended with exit code 0"
    );
    trial.declare("somewhere").await?;
    let ran = trial.run(&["somewhere", "kept"])?;
    let there = trial.take_all("somewhere").await?;
    ensure!(
        ran.said("[x] Sent ") == ["kept"] && there == ["kept"] && ran.status.success(),
        "a message for a queue that is there: `Sent` was said {} times, {} are there, {}",
        ran.said("[x] Sent ").len(),
        there.len(),
        ran.status
    );
    Ok("no queue of that name: an error; a queue of that name: sent, and there".to_owned())
}

/// A receiver that dies takes nothing with it, and leaves nothing that is done.
pub async fn acknowledge(trial: &Trial) -> Result<String> {
    trial.declare("hello").await?;
    let messages = numbered("message", 10);
    trial.publish("", "hello", &messages).await?;
    let program = trial.start_ready(&[])?;
    let mut done = Vec::new();
    for _ in 0..3 {
        done.push(program.says("[x] Done ")?);
    }
    sleep(Duration::from_millis(50)).await; // in the middle of the fourth
    done.extend(program.kill("[x] Done ")?);
    let program = trial.start_ready(&[])?;
    done.extend(program.all("[x] Done ", messages.len() - done.len()));
    program.kill("")?;
    let left = trial.take_all("hello").await?;
    let lost: Vec<_> = messages.iter().filter(|message| !done.contains(message)).collect();
    let seen = format!(
        "10 messages, killed after 3: {} done, {} lost, {} still in the queue",
        messages.len() - lost.len(),
        lost.iter().filter(|lost| !left.contains(lost)).count(),
        left.len()
    );
    ensure!(lost.is_empty() && left.is_empty(), "{seen}");
    Ok(seen)
}
