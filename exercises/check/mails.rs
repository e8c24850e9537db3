//! The exercises of lesson 11.

use std::time::{Duration, Instant};
use std::{env, fs, process};

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::sleep;

use crate::trial::{LIMIT, Trial, WHILE, numbered};

/// What cannot be sent now is sent later.
pub async fn not_now(trial: &Trial) -> Result<String> {
    let folder = env::temp_dir().join(format!("check-exercise-{}", process::id()));
    fs::write(&folder, "no folder")?;
    let result = folder_is_made(trial, &folder.to_string_lossy()).await;
    let _ = fs::remove_file(&folder);
    let _ = fs::remove_dir_all(&folder);
    result
}

async fn folder_is_made(trial: &Trial, folder: &str) -> Result<String> {
    trial.declare("mails").await?;
    let mails = numbered("mail", 3);
    trial.publish("", "mails", &mails).await?;
    let mut program = trial.start_ready(&[folder])?;
    program.let_it_try().await;
    let ended = program.has_ended();
    program.kill("")?;
    // What it had in hand is there again.
    let start = Instant::now();
    let mut left = 0;
    while left < 3 && start.elapsed() < WHILE {
        sleep(Duration::from_millis(20)).await;
        left = trial.state("mails").await?.message_count();
    }
    let seen = format!("3 mails, and no folder: {left} in the queue, {} gone", 3 - left);
    ensure!(left == 3, "{seen}");
    ensure!(!ended, "{seen}; but the program has ended");

    let mut program = trial.start_ready(&[folder])?;
    program.let_it_try().await;
    fs::remove_file(folder)?;
    let is_sent = |mail: &&String| fs::exists(format!("{folder}/{mail}.eml")).is_ok_and(|is| is);
    let sent = || mails.iter().filter(is_sent).count();
    let start = Instant::now();
    while sent() < 3 && start.elapsed() < LIMIT {
        sleep(Duration::from_millis(20)).await;
    }
    program.kill("")?;
    let seen = format!("3 mails, no folder, and then there is one: {} sent", sent());
    ensure!(sent() == 3, "{seen}");
    Ok(seen)
}

/// The trace of an order is that of its mail.
pub async fn trace(trial: &Trial) -> Result<String> {
    let program = trial.start_ready(&[])?;
    let orders = numbered("order", 3);
    let trace =
        |number: usize| format!("00-0af7651916cd43dd8448eb211c8031{number:02}-b7ad6b7169203331-01");
    for (number, order) in orders.iter().enumerate() {
        let mut headers = FieldTable::default();
        headers.insert("shop".into(), AMQPValue::LongString("ours".into()));
        if number != 1 {
            headers.insert("traceparent".into(), AMQPValue::LongString(trace(number).into()));
        }
        let properties = BasicProperties::default().with_headers(headers);
        trial.publish_with("", "orders", order, properties).await?;
    }
    program.all("[x] Mail for ", 3);
    program.kill("")?;
    let mut mails = Vec::new();
    let no_ack = BasicGetOptions { no_ack: true };
    while let Some(mail) = trial.channel.basic_get("mails".into(), no_ack).await? {
        let headers = mail.properties.headers().as_ref();
        mails.push(match headers.and_then(|headers| headers.inner().get("traceparent")) {
            Some(AMQPValue::LongString(trace)) => trace.to_string(),
            _ => String::new(),
        });
    }
    ensure!(mails.len() == 3, "3 orders, and {} mails", mails.len());
    let same = [0, 2].into_iter().filter(|&number| mails[number] == trace(number)).count();
    let seen = format!("of 2 orders with a trace, {same} mails have it");
    ensure!(same == 2, "{seen}");
    ensure!(mails[1].is_empty(), "{seen}; but an order without a trace has a mail with one");
    Ok(seen)
}
