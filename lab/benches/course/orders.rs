//! Lesson 5: what the queue takes, what the table takes, and how near the programs come.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_lite::StreamExt;
use lab::peers::python;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use crate::{Bench, ROUNDS, compare, median, program, raw, round};

/// How many orders a round publishes and stores, and how many where each has a commit of its own.
const ORDERS: u64 = 100_000;
const SINGLE: u64 = 10_000;

/// The batch of `receive-orders`.
const BATCH: usize = 500;

/// How many orders wait when the memory of the receiver is measured.
const WAITING: [u64; 3] = [10_000, 100_000, 1_000_000];

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

pub async fn orders(bench: &Bench) -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let packages = ["pika==1.3.2", "PyMySQL[rsa]==1.1.2"];
    let _ = python(folder, &packages, &bench.tasks)?;
    let mut table = Conn::from_url(bench.instance.mysql_url()).await?;
    bench.lesson("request-orders", &["1".to_owned()])?; // declares the queues
    drain(bench, &mut table, 1, &[]).await?; // creates the table

    let task = bench.tasks.start("Measuring orders");
    let [mut request, mut ready_made] = [Vec::new(), Vec::new()];
    let [mut receive, mut consume, mut store] = [Vec::new(), Vec::new(), Vec::new()];
    let [mut single, mut peer] = [Vec::new(), Vec::new()];
    for number in 0..ROUNDS {
        round(&task, number, "request-orders");
        let start = Instant::now();
        bench.lesson("request-orders", &[ORDERS.to_string()])?;
        request.push(rate(ORDERS, start.elapsed()));
        round(&task, number, "receive-orders");
        receive.push(drain(bench, &mut table, ORDERS, &[]).await?);

        round(&task, number, "publishing ready-made bytes");
        let took = raw::publish(bench.instance.ports.amqp, ORDERS)?;
        ready_made.push(rate(ORDERS, took));
        round(&task, number, "consuming without storing");
        consume.push(consume_only(&bench.instance.amqp_url()).await?);
        round(&task, number, "storing without consuming");
        store.push(store_only(&mut table).await?);

        round(&task, number, "one commit an order");
        bench.lesson("request-orders", &[SINGLE.to_string()])?;
        single.push(drain(bench, &mut table, SINGLE, &["--batch", "1"]).await?);
        round(&task, number, "pika and PyMySQL");
        bench.lesson("request-orders", &[SINGLE.to_string()])?;
        let mut command = python(folder, &packages, &bench.tasks)?;
        command
            .arg(lab::root().join("lab/peers/orders.py"))
            .arg("localhost")
            .arg(bench.instance.ports.mysql.to_string())
            .arg(SINGLE.to_string());
        let seconds: f64 = bench.finish(bench.start(command)?)?.trim().parse()?;
        peer.push(SINGLE as f64 / seconds);
        expect_rows(&mut table, SINGLE).await?;
    }
    let mut memory = Vec::new();
    for waiting in WAITING {
        task.say(&format!("memory with {waiting} orders waiting"));
        bench.lesson("request-orders", &[waiting.to_string()])?;
        memory.push(memory_to_drain(bench, &mut table, waiting).await?);
    }
    task.say("single orders");
    let alone = alone(bench, &mut table).await?;
    task.done("Measured orders");

    println!("\norders a second, medians of {ROUNDS} rounds, and the ratio");
    compare(
        "request-orders",
        &request,
        "ready-made bytes with confirms",
        &ready_made,
    );
    let limit: Vec<f64> = consume.iter().zip(&store).map(|(a, b)| a.min(*b)).collect();
    compare(
        "receive-orders",
        &receive,
        "pika and PyMySQL, a commit an order",
        &peer,
    );
    compare(
        "receive-orders",
        &receive,
        "consuming without storing",
        &consume,
    );
    compare(
        "receive-orders",
        &receive,
        "storing without consuming",
        &store,
    );
    compare("receive-orders", &receive, "the lower of these two", &limit);
    compare(
        "receive-orders",
        &receive,
        "receive-orders --batch 1",
        &single,
    );
    compare(
        "receive-orders --batch 1",
        &single,
        "pika and PyMySQL, a commit an order",
        &peer,
    );
    println!("\npeak memory of receive-orders, KiB, and the ratio");
    for (index, pair) in memory.windows(2).enumerate() {
        if let [Some(few), Some(many)] = pair {
            let waiting = |index: usize| format!("{} orders waiting", WAITING[index]);
            compare(&waiting(index + 1), &[*many], &waiting(index), &[*few]);
        }
    }
    println!(
        "\nan order sent alone is in the table {:.1} ms after its confirm (median)",
        alone * 1000.0
    );
    Ok(())
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn start(bench: &Bench, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(program("receive-orders"));
    command.args(arguments);
    bench.start(command)
}

/// Waits until that many orders are in the table. Each row has a higher `id` than those before it: only
/// the new ones need to be counted.
async fn wait_for_rows(table: &mut Conn, count: u64) -> Result<()> {
    let begin = Instant::now();
    let (mut rows, mut last) = (0, 0);
    while rows < count {
        let new = "SELECT COUNT(*), COALESCE(MAX(id), ?) FROM tb_order WHERE id > ?";
        // the table may not be there yet
        if let Ok(Some((new, highest))) = table.exec_first(new, (last, last)).await {
            let new: u64 = new;
            (rows, last) = (rows + new, highest);
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "only {rows} of {count} orders are in the table"
        );
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The table must hold that many orders; then it is emptied.
async fn expect_rows(table: &mut Conn, count: u64) -> Result<()> {
    let rows: Option<u64> = table.query_first("SELECT COUNT(*) FROM tb_order").await?;
    ensure!(rows == Some(count), "{rows:?} rows instead of {count}");
    Ok(table.query_drop("TRUNCATE TABLE tb_order").await?)
}

/// Lets `receive-orders` store what waits: orders a second, from the start of the program on.
async fn drain(bench: &Bench, table: &mut Conn, count: u64, arguments: &[&str]) -> Result<f64> {
    let begin = Instant::now();
    let receiver = start(bench, arguments)?;
    wait_for_rows(table, count).await?;
    let took = begin.elapsed();
    stop(bench, receiver)?;
    expect_rows(table, count).await?;
    Ok(rate(count, took))
}

fn stop(bench: &Bench, receiver: Child) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(receiver.id())?), Signal::SIGINT)?;
    bench.finish(receiver)?;
    Ok(())
}

/// The peak memory of a receiver that has stored what waits, in KiB; none where /proc does not say.
async fn memory_to_drain(bench: &Bench, table: &mut Conn, count: u64) -> Result<Option<f64>> {
    let receiver = start(bench, &[])?;
    wait_for_rows(table, count).await?;
    let status = fs::read_to_string(format!("/proc/{}/status", receiver.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
    stop(bench, receiver)?;
    expect_rows(table, count).await?;
    Ok(peak)
}

/// Orders a second that can be consumed, if they are not stored.
async fn consume_only(url: &str) -> Result<f64> {
    let begin = Instant::now();
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(4 * BATCH as u16, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume("orders".into(), "".into(), options, FieldTable::default())
        .await?;
    for number in 1..=ORDERS {
        let delivery = timeout(LIMIT, consumer.next())
            .await?
            .context("the consumer has ended")??;
        if number % BATCH as u64 == 0 {
            delivery.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    let rate = rate(ORDERS, begin.elapsed());
    connection.close(200, "Goodbye".into()).await?;
    Ok(rate)
}

/// Orders a second that can be stored, if they do not come from a queue.
async fn store_only(table: &mut Conn) -> Result<f64> {
    let ids: Vec<String> = (0..ORDERS)
        .map(|_| uuid::Uuid::now_v7().to_string())
        .collect();
    let users: Vec<String> = (0..ORDERS).map(|number| format!("{number:032x}")).collect();
    let values = vec!["(?, ?)"; BATCH].join(", ");
    let statement = format!("INSERT INTO tb_order (user_id, message_id) VALUES {values}");
    let rows: Vec<&String> = users
        .iter()
        .zip(&ids)
        .flat_map(|(user, id)| [user, id])
        .collect();
    let begin = Instant::now();
    for batch in rows.chunks(2 * BATCH) {
        table.exec_drop(&statement, batch.to_vec()).await?;
    }
    let rate = rate(ORDERS, begin.elapsed());
    expect_rows(table, ORDERS).await?;
    Ok(rate)
}

/// The seconds from the confirm of an order that comes alone until it is in the table: the median of
/// a hundred.
async fn alone(bench: &Bench, table: &mut Conn) -> Result<f64> {
    const COUNT: u64 = 100;
    let receiver = start(bench, &[])?;
    let url = bench.instance.amqp_url();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut times = Vec::new();
    for number in 1..=COUNT {
        let properties = BasicProperties::default().with_message_id(number.to_string().into());
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish("".into(), "orders".into(), options, b"x", properties)
            .await?;
        ensure!(confirm.await?.is_ack(), "the broker did not take an order");
        let begin = Instant::now();
        let row = "SELECT id FROM tb_order WHERE message_id = ?";
        while table
            .exec_first::<u64, _, _>(row, (number.to_string(),))
            .await?
            .is_none()
        {
            ensure!(begin.elapsed() < LIMIT, "an order is not in the table");
        }
        times.push(begin.elapsed().as_secs_f64());
    }
    connection.close(200, "Goodbye".into()).await?;
    stop(bench, receiver)?;
    expect_rows(table, COUNT).await?;
    Ok(median(&times))
}
