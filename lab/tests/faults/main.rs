//! Lessons 2 to 6 all at once, while everything they use is broken at random: nothing may be lost, and
//! nothing doubled. `cargo lab faults` does it for ten minutes, `cargo lab test` for less than one.
//!
//! The servers are its own, so that they can be broken beside other tests.

mod faults;
mod programs;
mod tally;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use lab::guard::Guard;
use lab::instance::{Backend, Instance, Service};
use lab::process::wait_until;
use lab::progress::{Task, Tasks};
use nix::sys::signal::Signal;

use crate::faults::Bag;
use crate::programs::{LOGS, ORDERS, PYTHON, PYTHON_CONSUMER, PYTHON_ORDERS, programs};
use crate::tally::{Row, table};
use crate::world::{LIMIT, World};

/// How long things are broken, if nobody says how long.
const SHORT: Duration = Duration::from_secs(45);

/// At most so many of the lost and the doubled are shown.
const SHOWN: usize = 20;

struct Args {
    length: Duration,
    seed: u64,
}

impl Args {
    /// cargo gives each test the same arguments: the name of a test, and flags of a harness that we do
    /// not have. `None` if another test is meant.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut args = Self {
            length: SHORT,
            seed: fastrand::u64(..),
        };
        let (mut names, mut list) = (Vec::new(), false);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context("a value is missing");
            match argument.as_str() {
                "--minutes" => {
                    args.length = Duration::from_secs_f64(60.0 * value()?.parse::<f64>()?)
                }
                "--seed" => args.seed = value()?.parse()?,
                "--list" => list = true,
                "--ignored" => return Ok(None),
                "--skip" if "faults".contains(&value()?) => return Ok(None),
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => drop(value()?),
                flag if flag.starts_with('-') => {}
                _ => names.push(argument),
            }
        }
        if !names.is_empty() && !names.iter().any(|name| "faults".contains(name.as_str())) {
            return Ok(None);
        }
        if list {
            println!("faults: test");
            return Ok(None);
        }
        Ok(Some(args))
    }
}

fn main() -> Result<ExitCode> {
    let Some(Args { length, seed }) = Args::parse(std::env::args().skip(1))? else {
        return Ok(ExitCode::SUCCESS);
    };
    ensure!(
        Service::all_installed(),
        "RabbitMQ and MySQL are not installed: run `cargo lab faults`, which installs them"
    );
    let tasks = Tasks::default();
    lab::compile_lessons(&tasks)?;
    let instance = Instance::temporary(Backend::Local)?;
    let guard = Guard::over(Path::new(env!("CARGO_BIN_EXE_lab")), &instance.folder)?;
    instance.start(&Service::ALL, &tasks)?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let programs = programs(&instance, &folder, &tasks)?;
    let world = World::new(instance, guard, tasks, folder, programs)?;
    if world.program(PYTHON_CONSUMER).is_ok() {
        world.query::<u64>(&format!("CREATE DATABASE {PYTHON}"))?;
    }

    println!("Seed: {seed}");
    let task = world.tasks.start("Breaking things");
    let done = thread::scope(|scope| {
        let run = || -> Result<_> {
            world.receive(scope)?;
            // RabbitMQ forgets a quorum queue that is younger than half a second, if it is killed.
            thread::sleep(Duration::from_secs(1));
            world.send(scope)?;
            let times = break_things(&world, &task, Rng::with_seed(seed), length)?;
            task.say("all is whole again: waiting until what was sent has arrived");
            finish(&world)?;
            Ok(times)
        };
        let done = run();
        // The threads end when their programs do.
        world.sending.store(false, Ordering::Relaxed);
        world.running.store(false, Ordering::Relaxed);
        if done.is_err() {
            world.signal_all(Signal::SIGKILL);
        }
        done
    });
    task.done("Broke things");
    for service in Service::ALL {
        world.keep_log(service)?;
    }
    let faults = done.with_context(|| said(&world, seed))?;
    let (ours, others) = rows(&world)?;
    print!("{}", table(&faults, &ours, &others));
    println!("\nSeed: {seed}");
    let tally = world.tally();
    let which = ours.iter().flat_map(|row| &row.which).chain(&tally.wrong);
    let which: Vec<_> = which.collect();
    if which.is_empty() {
        fs::remove_dir_all(&world.folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    for what in which.iter().take(SHOWN) {
        println!("Wrong: {what}");
    }
    println!("{} in all. {}", which.len(), said(&world, seed));
    Ok(ExitCode::FAILURE)
}

/// Where to look when something is wrong.
fn said(world: &World, seed: u64) -> String {
    let folder = world.folder.display();
    format!("What the servers and the programs have said is in {folder}; the seed is {seed}")
}

/// How often what was broken.
fn break_things(
    world: &World,
    task: &Task,
    mut random: Rng,
    length: Duration,
) -> Result<BTreeMap<&'static str, u64>> {
    let start = Instant::now();
    let mut bag = Bag::default();
    let mut times = BTreeMap::new();
    loop {
        let pause = Duration::from_millis(random.u64(1000..6000));
        thread::sleep(pause.min(length.saturating_sub(start.elapsed())));
        world.tally().show(task);
        let left = length.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(times);
        }
        let Some(fault) = bag.draw(&mut random, left) else {
            continue;
        };
        let at = start.elapsed().as_secs_f64();
        let to = (fault.inject)(world, &mut random).context(fault.what)?;
        *times.entry(fault.what).or_default() += 1;
        let took = start.elapsed().as_secs_f64() - at;
        let what = fault.what;
        task.note(&format!("{at:6.1} s  {what} ({took:.1} s) {to}"));
    }
}

/// Waits until each program has shown that it still works, and what was sent has arrived; then ends
/// the programs.
fn finish(world: &World) -> Result<()> {
    let receivers = ["worker", "receive-", "admin"];
    let worked = || {
        let programs = world.programs.iter();
        let ours = programs.filter(|program| {
            let name = program.name;
            receivers.iter().any(|receiver| name.starts_with(receiver))
        });
        ours.map(|program| (program.name, program.worked.load(Ordering::Relaxed)))
    };
    let before: BTreeMap<_, _> = worked().collect();
    let answered = world.tally().likes.answered;
    let idle = || {
        let idle = worked().filter(|(name, count)| before.get(name) == Some(count));
        idle.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let all_work = || idle().is_empty() && world.tally().likes.answered > answered;
    if wait_until(LIMIT, all_work).is_err() {
        let wrong = format!("nothing was heard any more from {:?} (or main)", idle());
        world.tally().wrong.push(wrong);
    }

    world.sending.store(false, Ordering::Relaxed);
    let senders = ["new-task", "emit-", "request-"];
    let sending = |name: &str| senders.iter().any(|sender| name.starts_with(sender));
    let mut programs = world.programs.iter();
    let _ = wait_until(LIMIT, || {
        !programs
            .clone()
            .any(|program| sending(program.name) && program.is_running())
    });
    let begin = Instant::now();
    while let Some(left) = left(world)? {
        if begin.elapsed() > LIMIT {
            world.tally().wrong.push(format!("still there: {left}"));
            break;
        }
    }

    world.running.store(false, Ordering::Relaxed);
    world.signal_all(Signal::SIGINT);
    let ended = wait_until(LIMIT, || !programs.any(|program| program.is_running()));
    if ended.is_err() {
        let running = world.programs.iter().filter(|program| program.is_running());
        let running: Vec<_> = running.map(|program| program.name).collect();
        let wrong = format!("not ended by Ctrl-C: {running:?}");
        world.tally().wrong.push(wrong);
        world.signal_all(Signal::SIGKILL);
    }
    Ok(())
}

/// What has not arrived yet.
fn left(world: &World) -> Result<Option<String>> {
    let outbox = "SELECT COUNT(*) FROM test_main.outbox";
    let outbox = world.query::<u64>(outbox)?.into_iter().sum::<u64>();
    if outbox > 0 {
        return Ok(Some(format!("{outbox} events in the outbox of main")));
    }
    for vhost in ["/", PYTHON] {
        let arguments = ["list_queues", "--vhost", vhost, "--no-table-headers"];
        let columns = ["messages", "name"];
        if vhost == PYTHON && world.program(PYTHON_CONSUMER).is_err() {
            continue;
        }
        let queues = world.rabbitmqctl(&[&arguments[..], &columns].concat())?;
        if let Some(queue) = queues.lines().find(|line| !line.starts_with("0\t")) {
            return Ok(Some(format!("in {vhost} {queue}")));
        }
    }
    Ok(None)
}

/// The result: ours, and others to compare with.
fn rows(world: &World) -> Result<(Vec<Row>, Vec<Row>)> {
    let users = "tb_order GROUP BY user_id";
    let orders = world.query(&format!("SELECT user_id, COUNT(*) FROM test.{users}"))?;
    let likes = "SELECT
        (SELECT COUNT(*) FROM test_main.likes WHERE product_id = main.id), main.likes, admin.likes
        FROM test_main.products AS main JOIN test_admin.products AS admin ON admin.id = main.id";
    let likes = world.query(likes)?;
    let tally = world.tally();
    let mut ours = vec![tally.tasks.row()];
    let names = [
        "03 logs",
        "04 logs, direct",
        "04 logs, topic",
        "04 logs, headers",
    ];
    for ((logs, name), _) in tally.logs.iter().zip(names).zip(LOGS) {
        ours.push(logs.row(name));
    }
    ours.push(tally.orders.row("05 orders", ORDERS, &orders));
    ours.push(tally.likes.row(&likes));
    let mut others = Vec::new();
    if tally.python.sent > 0 {
        let orders = world.query(&format!("SELECT user_id, COUNT(*) FROM {PYTHON}.{users}"))?;
        let what = "orders, a consumer in Python as in the document";
        others.push(tally.python.row(what, PYTHON_ORDERS, &orders));
    }
    Ok((ours, others))
}
