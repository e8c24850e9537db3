//! Lesson 5: the throughput of the queue, of the table, and of the programs between them.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use crate::clients::{Acks, BATCH, MESSAGES as ORDERS, Peer, consume_here};
use crate::report::{Chart, Section, Table, median, number, quantile};
use crate::{Bench, LIMIT, ROUNDS, program, rate, raw, round};

/// How many orders a round stores with a commit each.
const SINGLE: u64 = 10_000;

/// How many orders wait when the time and the memory of the receiver are measured.
const WAITING: [u64; 4] = [1000, 10_000, 100_000, 1_000_000];

pub async fn orders(bench: &Bench) -> Result<Section> {
    let mut table = Conn::from_url(bench.instance.mysql_url()).await?;
    bench.lesson("request-orders", &["1".to_owned()])?; // declares the queues
    drain(bench, &mut table, 1, &[]).await?; // creates the table

    let task = bench.tasks.start("Measuring orders");
    let [mut request, mut ready_made] = [Vec::new(), Vec::new()];
    let [mut receive, mut consume, mut store] = [Vec::new(), Vec::new(), Vec::new()];
    let [mut single, mut peer] = [Vec::new(), Vec::new()];
    // for each number of orders: seconds, and KiB
    let mut scale = WAITING.map(|_| (Vec::new(), Vec::new()));
    for number in 0..ROUNDS {
        round(&task, number, "request-orders");
        let start = Instant::now();
        bench.lesson("request-orders", &[ORDERS.to_string()])?;
        request.push(rate(ORDERS, start.elapsed()));
        round(&task, number, "receive-orders");
        let (took, _) = drain(bench, &mut table, ORDERS, &[]).await?;
        receive.push(rate(ORDERS, took));

        round(&task, number, "publishing ready-made bytes");
        let port = bench.instance.ports.amqp;
        let took = raw::publish(port, ("", "orders"), ORDERS, false)?;
        ready_made.push(rate(ORDERS, took));
        round(&task, number, "consuming without storing");
        consume.push(consume_here(bench, ORDERS, Acks::Batches).await?);
        round(&task, number, "storing without consuming");
        store.push(store_only(&mut table).await?);

        round(&task, number, "one commit an order");
        bench.lesson("request-orders", &[SINGLE.to_string()])?;
        let (took, _) = drain(bench, &mut table, SINGLE, &["--batch", "1"]).await?;
        single.push(rate(SINGLE, took));
        if bench.peers.contains(&Peer::Pika) {
            round(&task, number, "pika and PyMySQL");
            bench.lesson("request-orders", &[SINGLE.to_string()])?;
            let mut command = Peer::Pika.command(bench)?;
            command
                .arg(lab::root().join("lab/peers/orders.py"))
                .arg("localhost")
                .arg(bench.instance.ports.mysql.to_string())
                .arg(SINGLE.to_string());
            let seconds: f64 = bench.finish(bench.start(command)?)?.trim().parse()?;
            peer.push(SINGLE as f64 / seconds);
            expect_rows(&mut table, SINGLE).await?;
        }
    }
    // Not in the rounds above: the servers are busy for a while after a million orders.
    for number in 0..ROUNDS {
        for (waiting, (seconds, memory)) in WAITING.into_iter().zip(&mut scale) {
            round(&task, number, &format!("{waiting} orders waiting"));
            bench.lesson("request-orders", &[waiting.to_string()])?;
            let (took, peak) = drain(bench, &mut table, waiting, &[]).await?;
            seconds.push(took.as_secs_f64());
            memory.extend(peak);
        }
    }
    task.say("single orders");
    let alone = alone(bench, &mut table).await?;
    task.done("Measured orders");

    let mut speed = Table::comparing("orders/s");
    speed.rates("`request-orders`", &request, "bare socket, with confirms", &ready_made);
    if !peer.is_empty() {
        let other = "pika and PyMySQL, order by order";
        speed.rates("`receive-orders`", &receive, other, &peer);
        speed.rates("`receive-orders --batch 1`", &single, other, &peer);
    }
    speed.rates("`receive-orders`", &receive, "itself with `--batch 1`", &single);
    speed.rates("`receive-orders`", &receive, "consuming without storing", &consume);
    speed.rates("`receive-orders`", &receive, "storing without consuming", &store);
    let mut scaling = Table::new(&["orders waiting", "s", "s for 1000 orders", "peak memory, MiB"]);
    for (waiting, (seconds, memory)) in WAITING.into_iter().zip(&scale) {
        scaling.row(vec![
            number(waiting as f64),
            number(median(seconds)),
            format!("{:.4}", median(seconds) / waiting as f64 * 1000.0),
            match memory.is_empty() {
                true => "not known here".to_owned(),
                false => format!("{:.1}", median(memory) / 1024.0),
            },
        ]);
    }
    let memory = scale.iter().filter(|(_, memory)| !memory.is_empty());
    Ok(Section {
        title: "Orders",
        text: format!(
            "{ORDERS} orders a round, or {SINGLE} where each order has its own commit. The clock\n\
             starts with the program, and stops when the last row is in the table.\n\n\
             The upper limit of `request-orders` is the bare socket. `receive-orders` has two\n\
             limits: to consume without MySQL, and to insert the same rows, 500 a statement,\n\
             without RabbitMQ. The consumer in Python (pika and PyMySQL) inserts, commits and\n\
             acknowledges each order separately.\n\n\
             Latency of a single order, from its confirm until its row is in the table: {:.1} ms\n\
             (median of {ALONE}; 99th percentile: {:.1} ms).",
            median(&alone) * 1000.0,
            quantile(&alone, 0.99) * 1000.0,
        ),
        tables: vec![speed, scaling],
        chart: Some(Chart {
            name: "memory",
            title: "Peak memory of receive-orders, MiB",
            x: Some("orders waiting"),
            groups: WAITING.map(|waiting| number(waiting as f64)).to_vec(),
            series: vec![(
                "receive-orders".to_owned(),
                memory.map(|(_, memory)| median(memory) / 1024.0).collect(),
            )],
        }),
    })
}

fn start(bench: &Bench, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(program("receive-orders"));
    command.args(arguments);
    bench.start(command)
}

/// Waits until that many orders are in the table, behind the row `last`. Each row has a higher `id`
/// than those before it: only the new ones need to be counted.
async fn wait_for_rows(table: &mut Conn, mut last: u64, count: u64) -> Result<()> {
    let begin = Instant::now();
    let mut rows = 0;
    while rows < count {
        let new = "SELECT COUNT(*), COALESCE(MAX(id), ?) FROM tb_order WHERE id > ?";
        // the table may not be there yet
        if let Ok(Some((new, highest))) = table.exec_first(new, (last, last)).await {
            let new: u64 = new;
            (rows, last) = (rows + new, highest);
        }
        ensure!(begin.elapsed() < LIMIT, "only {rows} of {count} orders are in the table");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Checks that the table holds that many orders, and empties it.
async fn expect_rows(table: &mut Conn, count: u64) -> Result<()> {
    let rows: Option<u64> = table.query_first("SELECT COUNT(*) FROM tb_order").await?;
    ensure!(rows == Some(count), "{rows:?} rows instead of {count}");
    Ok(table.query_drop("TRUNCATE TABLE tb_order").await?)
}

/// Runs `receive-orders` until all orders are stored: how long that takes, the start of the program
/// included, and its peak memory in KiB, where /proc tells.
pub async fn drain(
    bench: &Bench,
    table: &mut Conn,
    count: u64,
    arguments: &[&str],
) -> Result<(Duration, Option<f64>)> {
    let begin = Instant::now();
    let receiver = start(bench, arguments)?;
    wait_for_rows(table, 0, count).await?;
    let took = begin.elapsed();
    let status = fs::read_to_string(format!("/proc/{}/status", receiver.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
    bench.stop(receiver)?;
    expect_rows(table, count).await?;
    Ok((took, peak))
}

/// How many orders a second MySQL stores when they do not come from a queue.
async fn store_only(table: &mut Conn) -> Result<f64> {
    let took = fill(table, ORDERS).await?;
    expect_rows(table, ORDERS).await?;
    Ok(rate(ORDERS, took))
}

/// Inserts that many rows: how long that takes.
async fn fill(table: &mut Conn, count: u64) -> Result<Duration> {
    let ids: Vec<String> = (0..count).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let users: Vec<String> = (0..count).map(|number| format!("{number:032x}")).collect();
    let values = vec!["(?, ?)"; BATCH as usize].join(", ");
    let statement = format!("INSERT INTO tb_order (user_id, message_id) VALUES {values}");
    let rows: Vec<&String> = users.iter().zip(&ids).flat_map(|(user, id)| [user, id]).collect();
    let begin = Instant::now();
    for batch in rows.chunks(2 * BATCH as usize) {
        table.exec_drop(&statement, batch.to_vec()).await?;
    }
    Ok(begin.elapsed())
}

/// Inserts rows until there are that many; `count` is a multiple of [`ORDERS`].
pub async fn fill_up(table: &mut Conn, there: &mut u64, count: u64) -> Result<()> {
    while *there < count {
        fill(table, ORDERS).await?;
        *there += ORDERS;
    }
    Ok(())
}

/// Sends that many orders, and has them stored beside the rows that are there: how long the storing
/// takes, the start of the program included.
pub async fn store(bench: &Bench, table: &mut Conn) -> Result<f64> {
    bench.lesson("request-orders", &[ORDERS.to_string()])?;
    let last: Option<u64> = table.query_first("SELECT COALESCE(MAX(id), 0) FROM tb_order").await?;
    let begin = Instant::now();
    let receiver = start(bench, &[])?;
    wait_for_rows(table, last.unwrap_or(0), ORDERS).await?;
    let rate = rate(ORDERS, begin.elapsed());
    bench.stop(receiver)?;
    Ok(rate)
}

/// How many orders are sent one at a time.
const ALONE: u64 = 200;

/// The latency of an order that comes alone: the seconds from its confirm to its row.
async fn alone(bench: &Bench, table: &mut Conn) -> Result<Vec<f64>> {
    let receiver = start(bench, &[])?;
    let connection = bench.connect().await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut times = Vec::new();
    for number in 1..=ALONE {
        let properties = BasicProperties::default().with_message_id(number.to_string().into());
        let options = BasicPublishOptions::default();
        let confirm =
            channel.basic_publish("".into(), "orders".into(), options, b"x", properties).await?;
        ensure!(confirm.await?.is_ack(), "the broker did not take an order");
        let begin = Instant::now();
        let row = "SELECT id FROM tb_order WHERE message_id = ?";
        while table.exec_first::<u64, _, _>(row, (number.to_string(),)).await?.is_none() {
            ensure!(begin.elapsed() < LIMIT, "an order is not in the table");
        }
        times.push(begin.elapsed().as_secs_f64());
    }
    connection.close(200, "Goodbye".into()).await?;
    bench.stop(receiver)?;
    expect_rows(table, ALONE).await?;
    Ok(times)
}
