//! The two services of lesson 6: likes over HTTP.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::process::wait_until;
use serde_json::{Value, json};
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
    let services = Services::start(bench)?;
    let (mut rates, mut times) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        round(&task, number, "likes");
        rates.push(services.likes(LIKES)?);
        round(&task, number, "a like until admin counts it");
        let before = services.counted()?;
        for number in 1..=SINGLE {
            let start = Instant::now();
            services.main.like()?;
            while services.counted()? < before + number {
                ensure!(start.elapsed() < LIMIT, "a like is not counted");
            }
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
    }
    services.stop(bench)?;
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

/// Both, with their first three products.
pub struct Services {
    admin: Service,
    main: Service,
}

impl Services {
    pub fn start(bench: &Bench) -> Result<Self> {
        let ports = bench.instance.ports;
        let admin = Service::start(bench, "admin", ports.admin)?;
        let main = Service::start(bench, "main", ports.main)?;
        let services = Self { admin, main };
        services.have(3)?;
        Ok(services)
    }

    /// Creates products until there are that many, and waits until `main` has them.
    pub fn have(&self, count: usize) -> Result<()> {
        let there = |service: &Service| -> Result<usize> {
            Ok(service.get("/api/products")?.as_array().map_or(0, Vec::len))
        };
        let before = there(&self.admin)?;
        for number in before..count {
            let product =
                json!({ "title": format!("Product {number}"), "image": "/images/sailboat.svg" });
            let url = format!("{}/api/products", self.admin.address);
            let answer = self
                .admin
                .agent
                .post(url)
                .content_type("application/json")
                .send(product.to_string())?;
            ensure!(answer.status() == 201, "POST: {}", answer.status());
        }
        wait_until(LIMIT, || there(&self.main).is_ok_and(|there| there == count.max(before)))
    }

    /// That many likes, from [`CLIENTS`] clients: how many a second are answered. Returns when
    /// `admin` has counted them.
    pub fn likes(&self, count: u64) -> Result<f64> {
        let before = self.counted()?;
        let left = AtomicU64::new(count);
        let one_less =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let client = || -> Result<()> {
            while one_less().is_ok() {
                self.main.like()?;
            }
            Ok(())
        };
        let start = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client panicked"))
        })?;
        let rate = rate(count, start.elapsed());
        wait_until(LIMIT, || self.counted().is_ok_and(|likes| likes == before + count))?;
        Ok(rate)
    }

    /// The likes of the first product that `admin` has counted.
    fn counted(&self) -> Result<u64> {
        self.admin.get("/api/products/1")?["likes"].as_u64().context("no likes")
    }

    pub fn stop(self, bench: &Bench) -> Result<()> {
        for service in [self.main, self.admin] {
            bench.stop(service.child)?;
        }
        Ok(())
    }
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
