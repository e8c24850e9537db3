//! What must not cost more when there is more of it: each figure with little, with more, and with
//! much.

use std::io::Read;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::report::{Chart, Section, Table, median, number};
use crate::services::Services;
use crate::{Bench, Lines, ROUNDS, orders, program, rate, raw, raw_stream, round};

/// A measured line: what grows, how far, and the figures of each size.
struct Curve {
    what: &'static str,
    unit: &'static str,
    /// For the chart: whether less is better.
    time: bool,
    points: Vec<(String, Vec<f64>)>,
}

impl Curve {
    fn new(
        what: &'static str,
        unit: &'static str,
        sizes: impl IntoIterator<Item = String>,
    ) -> Self {
        let points = sizes.into_iter().map(|size| (size, Vec::new())).collect();
        Self { what, unit, time: unit == "ms", points }
    }

    /// The speed of each size as a share of that of the first.
    fn shares(&self) -> Vec<f64> {
        let medians: Vec<f64> = self.points.iter().map(|(_, figures)| median(figures)).collect();
        let share = |it: &f64| if self.time { medians[0] / it } else { it / medians[0] };
        medians.iter().map(share).collect()
    }
}

pub async fn growth(bench: &Bench) -> Result<Section> {
    let [pages, products] = likes(bench)?;
    let curves = [
        pages,
        products,
        rows(bench).await?,
        jobs(bench).await?,
        middle(bench)?,
        queues(bench).await?,
    ];
    let mut table = Table::new(&["what", "with", "figure", "unit", "speed, by the first"]);
    for curve in &curves {
        for ((size, figures), share) in curve.points.iter().zip(curve.shares()) {
            table.row(vec![
                curve.what.to_owned(),
                size.clone(),
                number(median(figures)),
                curve.unit.to_owned(),
                format!("{share:.2}"),
            ]);
        }
    }
    Ok(Section {
        title: "Growth",
        text: TEXT.to_owned(),
        tables: vec![table],
        chart: Some(Chart {
            name: "growth",
            title: "Speed with more, as a share of the speed with little",
            x: Some("how much of it there is: see the table"),
            groups: ["little", "more", "much"].map(str::to_owned).to_vec(),
            series: curves
                .iter()
                .map(|curve| (curve.what.replace('`', ""), curve.shares()))
                .collect(),
        }),
    })
}

const TEXT: &str = "\
What is measured is the same each time; what grows is what is there beside it. The last column is
the speed with so much of it, divided by the speed with the least. Where it bends:

- *Open pages*: each page is told of the product that has changed, and of each step of its event,
  over a connection of its own. The programs that read these pages run on the same cores.
- *Products*: a like changes one row, and the pages are told of one product. But while a page is
  open, each service reads all products every few seconds.
- *Rows*: the id of an order begins with the time, so a new row goes to the end of the index, which
  is in MySQL's memory; the rest of the index need not be.
- *Jobs waiting*: nobody looks at a job in a retry queue until its time has come: no bend.
- *Events*: from the start of `read-events` to its first line, 20 times. RabbitMQ looks the offset
  up in the index of one file of the stream: no bend.
- *Queues*: `cargo lab status` starts `rabbitmqctl`, which takes most of the time; then RabbitMQ
  counts each queue. (These are classic queues.)";

const PRODUCTS: [usize; 3] = [3, 300, 3000];
const PAGES: [usize; 3] = [0, 10, 100];
const LIKES: u64 = 1500;

/// Likes a second with many open pages; and then with many products, and one of these pages.
fn likes(bench: &Bench) -> Result<[Curve; 2]> {
    let task = bench.tasks.start("Measuring likes with much beside them");
    let services = Services::start(bench)?;
    let sizes = PAGES.map(|count| format!("{count} open pages"));
    let mut curve = Curve::new("likes", "likes/s", sizes);
    let mut pages = Vec::new();
    for (count, (_, figures)) in PAGES.into_iter().zip(&mut curve.points) {
        while pages.len() < count {
            pages.push(open(bench)?);
        }
        for index in 0..ROUNDS {
            round(&task, index, &format!("{count} open pages"));
            figures.push(services.likes(LIKES)?);
        }
    }
    let sizes = PRODUCTS.map(|count| format!("{} products", number(count as f64)));
    let mut products = Curve::new("likes, 100 open pages", "likes/s", sizes);
    for (count, (_, figures)) in PRODUCTS.into_iter().zip(&mut products.points) {
        services.have(count)?;
        for index in 0..ROUNDS {
            round(&task, index, &format!("{count} products"));
            figures.push(services.likes(LIKES)?);
        }
    }
    services.stop(bench)?;
    task.done("Measured likes with much beside them");
    Ok([curve, products])
}

/// Opens the news of a page, and reads them in a thread of its own until they end. Only the news:
/// a page also reads the list of products when it is opened.
fn open(bench: &Bench) -> Result<thread::JoinHandle<()>> {
    let url = format!("http://127.0.0.1:{}/api/events", bench.instance.ports.main);
    let mut news = ureq::get(url).call()?.into_body().into_reader();
    Ok(thread::spawn(move || {
        let mut buffer = [0; 1 << 14];
        while news.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }))
}

const ROWS: [u64; 3] = [0, 1_000_000, 10_000_000];

/// Orders a second into a table that has many rows.
async fn rows(bench: &Bench) -> Result<Curve> {
    let task = bench.tasks.start("Measuring orders in a large table");
    let mut table = Conn::from_url(bench.instance.mysql_url()).await?;
    bench.lesson("request-orders", &["1".to_owned()])?; // declares the queues
    orders::drain(bench, &mut table, 1, &[]).await?; // creates the table
    let sizes = ROWS.map(|rows| format!("{} rows", number(rows as f64)));
    let mut curve = Curve::new("`receive-orders`", "orders/s", sizes);
    let mut there = 0;
    for (rows, (_, figures)) in ROWS.into_iter().zip(&mut curve.points) {
        task.say(&format!("filling the table: {rows} rows"));
        orders::fill_up(&mut table, &mut there, rows).await?;
        for index in 0..ROUNDS {
            round(&task, index, &format!("{rows} rows"));
            figures.push(orders::store(bench, &mut table).await?);
        }
    }
    table.query_drop("TRUNCATE TABLE tb_order").await?;
    task.done("Measured orders in a large table");
    Ok(curve)
}

const WAITING: [u64; 3] = [0, 10_000, 100_000];
const JOBS: u64 = 2000;

/// Jobs a second while many others wait for their next attempt.
async fn jobs(bench: &Bench) -> Result<Curve> {
    let task = bench.tasks.start("Measuring jobs while others wait");
    let names: Vec<String> = (1..=JOBS).map(|number| format!("job {number}")).collect();
    bench.lesson("submit-job", &names)?; // declares the queues
    bench.purge("jobs").await?;
    let sizes = WAITING.map(|count| format!("{} jobs waiting", number(count as f64)));
    let mut curve = Curve::new("`run-jobs --at-once 50`", "jobs/s", sizes);
    for index in 0..ROUNDS {
        for (count, (_, figures)) in WAITING.into_iter().zip(&mut curve.points) {
            round(&task, index, &format!("{count} jobs waiting"));
            bench.lesson("submit-job", &names)?;
            // They wait for 25 seconds: longer than the jobs take.
            let waiting = "jobs.retry.25s";
            if count > 0 {
                raw::publish(bench.instance.ports.amqp, ("", waiting), count, false)?;
            }
            let start = Instant::now();
            let mut command = Command::new(program("run-jobs"));
            command.args(["--at-once", "50"]);
            let mut worker = bench.start(command)?;
            let lines = Lines::default();
            lines.count(worker.stdout.take());
            lines.wait_for(JOBS)?;
            figures.push(rate(JOBS, start.elapsed()));
            bench.stop(worker)?;
            let left = bench.purge(waiting).await?;
            ensure!(left == count, "{left} of {count} jobs still waited");
        }
    }
    task.done("Measured jobs while others wait");
    Ok(curve)
}

const EVENTS: [u64; 3] = [10_000, 1_000_000, 10_000_000];

/// The time until an event in the middle of a stream is read.
fn middle(bench: &Bench) -> Result<Curve> {
    let task = bench.tasks.start("Measuring a long stream");
    let sizes = EVENTS.map(|count| format!("{} events", number(count as f64)));
    let mut curve = Curve::new("`read-events`, one event in the middle", "ms", sizes);
    let stream = ["--stream", "growth"].map(str::to_owned);
    let mut there = 1;
    bench.lesson("append-events", &[&stream[..], &["first".to_owned()]].concat())?;
    for (count, (_, figures)) in EVENTS.into_iter().zip(&mut curve.points) {
        while there < count {
            task.say(&format!("appending: {there} of {count}"));
            let more = (count - there).min(1_000_000);
            raw_stream::append(bench.instance.ports.stream, "growth", more)?;
            there += more;
        }
        for index in 0..4 * ROUNDS {
            task.say(&format!("{} of {}: {count} events", index + 1, 4 * ROUNDS));
            let from = (count / 2).to_string();
            let read = ["--count", "1", "--from", &from].map(str::to_owned);
            let mut command = Command::new(program("read-events"));
            command.args(stream.iter().chain(&read));
            let start = Instant::now();
            let mut reader = bench.start(command)?;
            let lines = Lines::default();
            lines.count(reader.stdout.take());
            lines.wait_for(1)?;
            figures.push(start.elapsed().as_secs_f64() * 1000.0);
            bench.finish(reader)?;
        }
    }
    bench.instance.management().delete("queues/%2f/growth")?;
    task.done("Measured a long stream");
    Ok(curve)
}

const QUEUES: [u64; 3] = [10, 1000, 10_000];

/// The time of `cargo lab status` with many queues.
async fn queues(bench: &Bench) -> Result<Curve> {
    let task = bench.tasks.start("Measuring many queues");
    let sizes = QUEUES.map(|count| format!("{} queues", number(count as f64)));
    let mut curve = Curve::new("`cargo lab status`", "ms", sizes);
    let management = bench.instance.management();
    management.put("vhosts/growth")?;
    let url = bench.instance.amqp_url().replace("%2f", "growth");
    let connection = lapin::Connection::connect(&url, Default::default()).await?;
    let channel = connection.create_channel().await?;
    let mut there = 0;
    for (count, (_, figures)) in QUEUES.into_iter().zip(&mut curve.points) {
        while there < count {
            task.say(&format!("declaring: {there} of {count}"));
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
            let name = format!("queue-{there}");
            let durable = QueueDeclareOptions::durable();
            channel.queue_declare(name.into(), durable, arguments).await?;
            there += 1;
        }
        for index in 0..ROUNDS {
            round(&task, index, &format!("{count} queues"));
            let start = Instant::now();
            let mut status = Command::new(env!("CARGO_BIN_EXE_lab"));
            let output = status.arg("status").env("AMQP_URL", &url).output()?;
            figures.push(start.elapsed().as_secs_f64() * 1000.0);
            let listed = String::from_utf8(output.stdout)?.matches("\nqueue-").count();
            ensure!(listed as u64 == count, "{listed} of {count} queues are listed");
        }
    }
    connection.close(200, "Goodbye".into()).await?;
    management.delete("vhosts/growth")?;
    task.done("Measured many queues");
    Ok(curve)
}
