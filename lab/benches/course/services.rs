//! The two services of lesson 6: likes over HTTP.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::process::wait_until;
use serde_json::Value;
use ureq::Agent;

use crate::report::{Section, Table, median, number, quantile};
use crate::{Bench, LIMIT, Lines, ROUNDS, program, rate, round};

const LIKES: u64 = 4000;
const CLIENTS: usize = 8;
const SINGLE: u64 = 200;

/// So many that a user is seldom drawn twice: each likes a product once.
const USERS: u64 = 10_000_000;

pub fn services(bench: &Bench) -> Result<Section> {
    let task = bench.tasks.start("Measuring the services");
    let ports = bench.instance.ports;
    let admin = Service::start(bench, "admin", ports.admin)?;
    let main = Service::start(bench, "main", ports.main)?;
    wait_until(Duration::from_secs(60), || {
        main.get("/api/products").is_ok_and(|products| products.as_array().map(Vec::len) == Some(3))
    })?;
    let (mut rates, mut times) = (Vec::new(), Vec::new());
    let likes = || -> Result<u64> {
        let product = admin.get("/api/products/1")?;
        product["likes"].as_u64().context("no likes")
    };
    for number in 0..ROUNDS {
        round(&task, number, "likes");
        let before = likes()?;
        let left = AtomicU64::new(LIKES);
        let start = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        while left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                                left.checked_sub(1)
                            })
                            .is_ok()
                        {
                            main.like()?;
                        }
                        Ok(())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client panicked"))
                as Result<()>
        })?;
        rates.push(rate(LIKES, start.elapsed()));
        wait_until(LIMIT, || likes().is_ok_and(|likes| likes == before + LIKES))?;

        round(&task, number, "a like until admin counts it");
        for number in 1..=SINGLE {
            let start = Instant::now();
            main.like()?;
            while likes()? < before + LIKES + number {
                ensure!(start.elapsed() < LIMIT, "a like is not counted");
            }
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
    }
    for service in [main, admin] {
        bench.stop(service.child)?;
    }
    task.done("Measured the services");
    let mut table = Table::new(&["lesson 6", "figure"]);
    let mut row = |what: &str, figure| table.row(vec![what.to_owned(), number(figure)]);
    row("throughput: likes answered per second", median(&rates));
    row("latency from the like until `admin` counts it, ms: median", median(&times));
    row("the same, 99th percentile", quantile(&times, 0.99));
    Ok(Section {
        title: "Services",
        text: format!(
            "Throughput: {LIKES} likes a round, from {CLIENTS} clients over HTTP. For each like,\n\
             `main` asks `admin` for a user, and commits the like and its event in one\n\
             transaction.\n\n\
             Latency: {SINGLE} likes, one after the other, each until `admin` answers with its\n\
             new count. By then the event has passed the outbox, RabbitMQ and the inbox."
        ),
        tables: vec![table],
        chart: None,
    })
}

struct Service {
    child: Child,
    agent: Agent,
    address: String,
}

impl Service {
    fn start(bench: &Bench, name: &str, port: u16) -> Result<Self> {
        let mut command = Command::new(program(name));
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .env("ADMIN_URL", format!("http://127.0.0.1:{}", bench.instance.ports.admin));
        if name == "admin" {
            command.args(["--users", &USERS.to_string()]);
        }
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT));
        let mut child = bench.start(command)?;
        Lines::default().count(child.stdout.take()); // a program whose pipe is full waits
        let service = Self {
            child,
            agent: Agent::new_with_config(config.build()),
            address: format!("http://127.0.0.1:{port}"),
        };
        wait_until(Duration::from_secs(60), || service.get("/api/products").is_ok())?;
        Ok(service)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut answer = self.agent.get(format!("{}{path}", self.address)).call()?;
        ensure!(answer.status() == 200, "GET {path}: {}", answer.status());
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }

    /// One like more for the first product.
    fn like(&self) -> Result<()> {
        loop {
            let url = format!("{}/api/products/1/like", self.address);
            let mut answer = self.agent.post(url).send_empty()?;
            let text = answer.body_mut().read_to_string()?;
            match answer.status().as_u16() {
                200 => return Ok(()),
                400 => {} // the user likes it already: another one
                other => ensure!(other == 200, "{other}: {text}"),
            }
        }
    }
}
