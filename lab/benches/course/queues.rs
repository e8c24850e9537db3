//! Several consumers: the workers of lesson 2, and the receivers of lesson 3.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::process::wait_until;

use crate::report::{Chart, Section, Table, median, number};
use crate::{Bench, Lines, ROUNDS, program, rate, raw, round};

const TASKS: u64 = 2000;
const WORKERS: [usize; 3] = [1, 2, 4];
const PREFETCH: [u16; 2] = [1, 50];

const DELIVERIES: u64 = 64_000;
const RECEIVERS: [usize; 6] = [1, 2, 4, 8, 16, 32];

pub async fn work_queue(bench: &Bench) -> Result<Section> {
    bench.lesson("new-task", &[])?; // declares the queue
    bench.purge("task_queue").await?;
    let task = bench.tasks.start("Measuring a work queue");
    // for each number of workers, for each prefetch
    let mut figures = WORKERS.map(|_| PREFETCH.map(|_| Vec::new()));
    for number in 0..ROUNDS {
        for (workers, figures) in WORKERS.into_iter().zip(&mut figures) {
            for (prefetch, figures) in PREFETCH.into_iter().zip(figures) {
                round(&task, number, &format!("{workers} workers, prefetch {prefetch}"));
                figures.push(work(bench, workers, prefetch).await?);
            }
        }
    }
    task.done("Measured a work queue");
    let mut table =
        Table::new(&["workers", "prefetch 1: tasks/s", "prefetch 50: tasks/s", "speedup"]);
    for (workers, [one, fifty]) in WORKERS.into_iter().zip(&figures) {
        let ratios: Vec<f64> = fifty.iter().zip(one).map(|(a, b)| a / b).collect();
        table.row(vec![
            workers.to_string(),
            number(median(one)),
            number(median(fifty)),
            format!("{:.2}", median(&ratios)),
        ]);
    }
    let line = |index: usize| figures.iter().map(|figures| median(&figures[index])).collect();
    Ok(Section {
        title: "Work queue",
        text: format!(
            "{TASKS} tasks that take no time, for 1, 2 and 4 `worker`s. With `--prefetch 1`, the\n\
             default, a worker gets its next task only after it has acknowledged the previous\n\
             one. The table shows how much faster `--prefetch 50` is. With tasks of seconds,\n\
             `--prefetch 1` costs almost nothing, and each task goes to a worker that is free."
        ),
        tables: vec![table],
        chart: Some(Chart {
            name: "work-queue",
            title: "Tasks per second, without work in them",
            x: Some("workers"),
            groups: WORKERS.map(|workers| workers.to_string()).to_vec(),
            series: vec![("prefetch 1".to_owned(), line(0)), ("prefetch 50".to_owned(), line(1))],
        }),
    })
}

/// Tasks a second, from the first that is published to the last that is done.
async fn work(bench: &Bench, workers: usize, prefetch: u16) -> Result<f64> {
    let lines = Lines::default();
    let mut programs = Vec::new();
    for _ in 0..workers {
        let mut command = Command::new(program("worker"));
        command.args(["--prefetch", &prefetch.to_string()]);
        let mut worker = bench.start(command)?;
        lines.count(worker.stdout.take());
        programs.push(worker);
    }
    bench.wait_for_consumers("task_queue", workers).await?;
    let start = Instant::now();
    raw::publish(bench.instance.ports.amqp, ("", "task_queue"), TASKS, false)?;
    lines.wait_for(2 * TASKS)?; // received, and done
    let rate = rate(TASKS, start.elapsed());
    for worker in programs {
        bench.stop(worker)?;
    }
    Ok(rate)
}

pub fn fan_out(bench: &Bench) -> Result<Section> {
    bench.lesson("emit-log", &[])?; // declares the exchange
    let task = bench.tasks.start("Measuring a fan-out");
    let mut figures = RECEIVERS.map(|_| Vec::new());
    for number in 0..ROUNDS {
        for (receivers, figures) in RECEIVERS.into_iter().zip(&mut figures) {
            round(&task, number, &format!("{receivers} receivers"));
            figures.push(receive_logs(bench, receivers)?);
        }
    }
    task.done("Measured a fan-out");
    let mut table = Table::new(&["receivers", "log lines", "deliveries/s"]);
    for (receivers, figures) in RECEIVERS.into_iter().zip(&figures) {
        table.row(vec![
            receivers.to_string(),
            number((DELIVERIES / receivers as u64) as f64),
            number(median(figures)),
        ]);
    }
    Ok(Section {
        title: "Fan-out",
        text: format!(
            "One publisher and 1 to 32 `receive-logs`, with {DELIVERIES} deliveries in all. The\n\
             clock starts with the first line that is published, and stops when every receiver\n\
             has printed its last line. The receivers share the cores of the machine with each\n\
             other and with the broker."
        ),
        tables: vec![table],
        chart: Some(Chart {
            name: "fan-out",
            title: "Deliveries per second, one publisher",
            x: Some("receivers"),
            groups: RECEIVERS.map(|receivers| receivers.to_string()).to_vec(),
            series: vec![(
                "deliveries".to_owned(),
                figures.iter().map(|figures| median(figures)).collect(),
            )],
        }),
    })
}

/// Deliveries a second, from the first line that is published to the last that is printed.
fn receive_logs(bench: &Bench, receivers: usize) -> Result<f64> {
    let lines = Lines::default();
    let mut programs = Vec::new();
    for _ in 0..receivers {
        let mut receiver = bench.start(Command::new(program("receive-logs")))?;
        lines.count(receiver.stdout.take());
        programs.push(receiver);
    }
    wait_until(Duration::from_secs(60), || {
        let bindings = bench.instance.management().get("exchanges/%2f/logs/bindings/source");
        bindings.is_ok_and(|bindings| bindings.as_array().map(Vec::len) == Some(receivers))
    })?;
    let start = Instant::now();
    let count = DELIVERIES / receivers as u64;
    raw::publish(bench.instance.ports.amqp, ("logs", ""), count, false)?;
    lines.wait_for(DELIVERIES)?;
    let rate = rate(DELIVERIES, start.elapsed());
    for receiver in programs {
        bench.stop(receiver)?;
    }
    Ok(rate)
}
