//! What is broken, and how it is made whole again.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use lab::instance::Service;
use lab::process::wait_until;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use nix::sys::signal::Signal;

use crate::programs::{PYTHON, PYTHON_CONSUMER};
use crate::world::{LIMIT, World};

pub struct Fault {
    pub what: &'static str,
    /// How often it comes before all others have come as often as they should.
    times: usize,
    /// About how long it takes.
    seconds: u64,
    /// Breaks it and makes it whole again; says to whom or for how long.
    pub inject: fn(&World, &mut Rng) -> Result<String>,
}

const fn fault(
    what: &'static str,
    times: usize,
    seconds: u64,
    inject: fn(&World, &mut Rng) -> Result<String>,
) -> Fault {
    Fault {
        what,
        times,
        seconds,
        inject,
    }
}

const FAULTS: [Fault; 17] = [
    fault("worker: kill -9", 1, 0, |world, random| {
        kill(world, random, "worker")
    }),
    fault("receive-logs: kill -9", 1, 0, |world, random| {
        kill(world, random, "receive-logs")
    }),
    fault("receive-orders: kill -9", 2, 0, |world, random| {
        kill(world, random, "receive-orders")
    }),
    fault("admin: kill -9", 1, 0, |world, random| {
        kill(world, random, "admin")
    }),
    fault("main: kill -9", 1, 0, |world, random| {
        kill(world, random, "main")
    }),
    fault("a program is paused", 3, 3, |world, random| {
        let seconds = random.f64() * 3.0;
        pause(world, random, seconds)
    }),
    fault(
        "a program is paused for longer than two heartbeats",
        1,
        12,
        |world, random| pause(world, random, 12.0),
    ),
    fault("RabbitMQ: kill -9, and a start", 1, 15, |world, _| {
        restart(world, Service::Rabbitmq, true)
    }),
    fault("RabbitMQ: a clean restart", 1, 20, |world, _| {
        restart(world, Service::Rabbitmq, false)
    }),
    fault(
        "RabbitMQ is paused for longer than two heartbeats",
        1,
        12,
        |world, _| pause_server(world, Service::Rabbitmq, 12.0),
    ),
    fault("RabbitMQ closes all connections", 2, 3, |world, _| {
        world.rabbitmqctl(&["close_all_connections", "--global", "a fault"])?;
        Ok(String::new())
    }),
    fault("RabbitMQ: no more memory", 1, 12, |world, random| {
        let limit = &world.limits[0];
        let command = "set_vm_memory_high_watermark";
        alarm(
            world,
            random,
            &[command, "0"],
            &[command, "absolute", limit],
        )
    }),
    fault("RabbitMQ: no more disk", 1, 12, |world, random| {
        let command = "set_disk_free_limit";
        let all = "1000000000000000";
        alarm(world, random, &[command, all], &[command, &world.limits[1]])
    }),
    fault("MySQL: kill -9, and a start", 2, 3, |world, _| {
        restart(world, Service::Mysql, true)
    }),
    fault("MySQL is paused", 1, 6, |world, random| {
        let seconds = 2.0 + random.f64() * 6.0;
        pause_server(world, Service::Mysql, seconds)
    }),
    fault("MySQL is slow: its tables are locked", 1, 6, lock),
    fault("MySQL closes all connections", 2, 0, |world, _| {
        close_all_in_mysql(world)
    }),
];

/// Faults in random order: none comes more often than it should before the others have come.
#[derive(Default)]
pub struct Bag(Vec<&'static Fault>);

impl Bag {
    /// The next one that does not take longer than that.
    pub fn draw(&mut self, random: &mut Rng, left: Duration) -> Option<&'static Fault> {
        if self.0.is_empty() {
            let all = FAULTS.iter();
            self.0 = all.flat_map(|fault| vec![fault; fault.times]).collect();
            random.shuffle(&mut self.0);
        }
        let fits = |fault: &&Fault| Duration::from_secs(fault.seconds) <= left;
        let index = self.0.iter().position(fits)?;
        Some(self.0.remove(index))
    }
}

/// Signals one of the programs whose names begin so. What happens to a `receive-orders` happens to the
/// consumer in Python, too.
fn signal(world: &World, name: &str, signal: Signal) -> Result<()> {
    world.program(name)?.signal(signal);
    if name.starts_with("receive-orders")
        && let Ok(python) = world.program(PYTHON_CONSUMER)
    {
        python.signal(signal);
    }
    Ok(())
}

fn choose(world: &World, random: &mut Rng, names: &[&str]) -> Result<&'static str> {
    let programs = world.programs.iter();
    let running = programs.filter(|program| {
        names.iter().any(|name| program.name.starts_with(name)) && program.is_running()
    });
    let running: Vec<_> = running.map(|program| program.name).collect();
    let name = random.choice(running);
    name.with_context(|| format!("no {names:?} runs"))
}

fn kill(world: &World, random: &mut Rng, name: &str) -> Result<String> {
    let name = choose(world, random, &[name])?;
    signal(world, name, Signal::SIGKILL)?;
    Ok(name.to_owned())
}

fn pause(world: &World, random: &mut Rng, seconds: f64) -> Result<String> {
    let names = ["worker", "receive-", "request-orders", "admin", "main"];
    let name = choose(world, random, &names)?;
    signal(world, name, Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs_f64(seconds));
    signal(world, name, Signal::SIGCONT)?;
    Ok(format!("{name}, {seconds:.1} s"))
}

fn pause_server(world: &World, service: Service, seconds: f64) -> Result<String> {
    world.instance.signal(service, Signal::SIGSTOP);
    thread::sleep(Duration::from_secs_f64(seconds));
    world.instance.signal(service, Signal::SIGCONT);
    Ok(format!("{seconds:.1} s"))
}

fn restart(world: &World, service: Service, kill: bool) -> Result<String> {
    world.instance.stop(service, kill)?;
    world.keep_log(service)?;
    world.instance.start(&[service], &world.tasks.quietly())?;
    Ok(String::new())
}

/// RabbitMQ takes nothing from those who publish until it has enough again.
fn alarm(world: &World, random: &mut Rng, set: &[&str], reset: &[&str]) -> Result<String> {
    let seconds = 2.0 + random.f64() * 6.0;
    let healthy = || world.instance.management("health/checks/alarms").is_ok();
    world.rabbitmqctl(set)?;
    wait_until(LIMIT, || !healthy()).context("there is no alarm")?;
    thread::sleep(Duration::from_secs_f64(seconds));
    world.rabbitmqctl(reset)?;
    wait_until(LIMIT, healthy).context("the alarm does not end")?;
    Ok(format!("{seconds:.1} s"))
}

fn lock(world: &World, random: &mut Rng) -> Result<String> {
    let seconds = 2.0 + random.f64() * 6.0;
    let tables = format!(
        "SELECT CONCAT(table_schema, '.', table_name, ' WRITE') FROM information_schema.tables
         WHERE table_schema IN ('test', 'test_admin', 'test_main', '{PYTHON}')"
    );
    let tables: Vec<String> = world.query(&tables)?;
    world.runtime.block_on(async {
        let mut connection = Conn::from_url(world.instance.mysql_url()).await?;
        let lock = format!("LOCK TABLES {}", tables.join(", "));
        connection.query_drop(lock).await?;
        thread::sleep(Duration::from_secs_f64(seconds));
        connection.query_drop("UNLOCK TABLES").await?;
        connection.disconnect().await
    })?;
    Ok(format!("{seconds:.1} s"))
}

fn close_all_in_mysql(world: &World) -> Result<String> {
    let others = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()";
    let others: Vec<u64> = world.query(others)?;
    let count = others.len();
    for id in others {
        let _ = world.query::<u64>(&format!("KILL {id}")); // it may be gone already
    }
    Ok(format!("{count}"))
}
