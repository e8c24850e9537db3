//! The exercises of lesson 9.

use std::{env, fs, process};

use anyhow::{Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use crate::trial::{Trial, list, numbered};

async fn declare(trial: &Trial) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let durable = QueueDeclareOptions::durable();
    trial.channel.queue_declare("events".into(), durable, arguments).await?;
    Ok(())
}

/// Who comes late reads what was there before.
pub async fn from(trial: &Trial) -> Result<String> {
    declare(trial).await?;
    let events = numbered("event", 10);
    for event in &events[..5] {
        // each alone, so that the stream has several chunks
        trial.publish("", "events", std::slice::from_ref(event)).await?;
    }
    let program = trial.start_ready(&[])?;
    trial.publish("", "events", &events[5..]).await?;
    let read = program.all("[x] Read ", events.len());
    let seen = format!("5 events before it, 5 after: read: {}", list(&read));
    ensure!(read == events, "{seen}");
    Ok(seen)
}

/// A reader that is killed goes on where it was.
pub async fn offset(trial: &Trial) -> Result<String> {
    declare(trial).await?;
    let events = numbered("event", 12);
    trial.publish("", "events", &events).await?;
    let file = env::temp_dir().join(format!("check-exercise-{}", process::id()));
    let _ = fs::remove_file(&file);
    let path = file.display().to_string();
    let first = trial.start_ready(&[&path])?;
    let mut done = Vec::new();
    for _ in 0..5 {
        done.push(first.says("[x] Done ")?);
    }
    let killed = first.says("[x] Received ")?;
    done.extend(first.kill("[x] Done ")?);
    let next = trial.start_ready(&[&path])?;
    done.extend(next.all("[x] Done ", events.len() - done.len()));
    next.kill("")?;
    let _ = fs::remove_file(&file);
    let lost: Vec<_> = events.iter().filter(|event| !done.contains(event)).collect();
    let twice = done.len() + lost.len() - events.len();
    let seen = format!(
        "12 events, killed in the middle of `{killed}`: never done: {}; done twice: {twice}",
        list(&lost)
    );
    ensure!(lost.is_empty(), "{seen}");
    ensure!(twice <= 3, "{seen}: it did not go on where it was");
    Ok(seen)
}
