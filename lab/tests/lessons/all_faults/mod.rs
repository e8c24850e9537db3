//! Lessons 2 to 9 and 11 all at once, while everything they use is broken at random: nothing may be
//! lost, and nothing doubled. `cargo lab faults` does it for ten minutes, `cargo lab test` until
//! each fault has come once.
//!
//! With `LAB_NODES=3` it is lessons 2, 5, 7 and 9 to 11 on a cluster of three nodes.
//!
//! The servers are its own, so that they can be broken beside other tests.

mod faults;
mod programs;
mod tally;
mod world;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use lab::guard::Guard;
use lab::play::INSTANCE;
use lab::process::wait_until;
use lab::progress::{Task, Tasks};
use lab::servers::{Backend, Instance, Service};
use rustix::process::Signal;

use self::faults::Bag;
use self::programs::{ORDERS, PYTHON, PYTHON_FEED, PYTHON_ORDERS, READERS, Role, programs};
use self::tally::{Row, bad, table};
use self::world::{LIMIT, Program, World};

/// How long things are broken, if nobody says how long: until each fault has come once.
const SHORT: Duration = Duration::ZERO;

/// At most so many of the lost and the doubled are shown.
const SHOWN: usize = 20;

/// `LAB_MINUTES` says for how long things are broken, and `LAB_SEED` repeats the faults of a run.
fn variable<T: FromStr>(name: &str) -> Option<T> {
    env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Says something at once, and also when the test goes well: the harness keeps what `println!`
/// prints.
fn say(line: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

#[test]
fn nothing_is_lost_and_nothing_is_doubled() -> Result<()> {
    let seed = variable("LAB_SEED").unwrap_or_else(|| fastrand::u64(..));
    let minutes = variable("LAB_MINUTES").map(|minutes: f64| 60.0 * minutes);
    let length = minutes.map_or(SHORT, Duration::from_secs_f64);
    let world = world(seed)?;
    say(format!("Seed: {seed}"))?;
    let task = world.tasks.start("Breaking things");
    let done = thread::scope(|scope| {
        let done = run(&world, scope, &task, Rng::with_seed(seed), length);
        // The threads end when their programs do.
        world.sending.store(false, Relaxed);
        world.running.store(false, Relaxed);
        if done.is_err() {
            let programs = world.programs.iter();
            programs.for_each(|program| program.signal(Signal::KILL));
        }
        done
    });
    for service in Service::ALL {
        world.keep_log(service)?;
    }
    task.done("Broke things");
    let folder = world.folder.display();
    let said = format!("What servers and programs have said is in {folder}; the seed is {seed}");
    let faults = done.with_context(|| said.clone())?;
    let (ours, others) = rows(&world)?;
    say(format!("{}\nSeed: {seed}", table(&faults, &ours, &others)))?;
    let tally = world.tally();
    let which = ours.iter().flat_map(|row| &row.which);
    let wrong: Vec<_> = tally.wrong.iter().chain(which).collect();
    let shown = &wrong[..wrong.len().min(SHOWN)];
    ensure!(wrong.is_empty(), "{} are wrong: {shown:#?}\n{said}", wrong.len());
    fs::remove_dir_all(&world.folder)?;
    Ok(())
}

/// Servers of our own, and what is to run with them.
fn world(seed: u64) -> Result<World> {
    let tasks = Tasks::default();
    crate::shared::compile_lessons(&tasks)?;
    let folder = Instance::temporary_folder();
    let guard = Guard::over(Path::new(env!("CARGO_BIN_EXE_lab")), &folder)?;
    let backend = match env::var_os(INSTANCE).and_then(|folder| Instance::load(Path::new(&folder)))
    {
        Some(instance) => instance.backend,
        None => Backend::choose(&tasks)?,
    };
    ensure!(
        backend == Backend::Docker || Service::all_installed(),
        "RabbitMQ and MySQL are not installed: run `cargo lab faults`, which installs them"
    );
    let instance = match variable("LAB_NODES").unwrap_or(1) {
        1 => Instance::temporary(folder, backend)?,
        _ => Instance::temporary(folder, backend)?.with_nodes()?,
    };
    instance.start(&Service::ALL, &tasks)?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{seed}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let world = World {
        programs: programs(&instance, &folder, &tasks)?,
        instance,
        guard,
        tasks,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        folder,
        start: Instant::now(),
        tally: Mutex::default(),
        sending: AtomicBool::new(true),
        running: AtomicBool::new(true),
    };
    world.query::<u64>(&format!("CREATE DATABASE {PYTHON}"))?;
    Ok(world)
}

/// Lets everything run, breaks it for so long, and waits until what was sent has arrived: how often
/// what was broken.
fn run<'scope>(
    world: &'scope World,
    scope: &'scope Scope<'scope, '_>,
    task: &Task,
    mut random: Rng,
    length: Duration,
) -> Result<BTreeMap<&'static str, u64>> {
    let receivers = || {
        let programs = world.programs.iter();
        programs.filter(|program| !program.role.sends())
    };
    // One after the other: RabbitMQ 3.10 may answer INTERNAL_ERROR to one of two programs that
    // declare the same quorum queue at the same time.
    if let Ok(feed) = world.program(PYTHON_FEED) {
        world.send_some_orders(feed, PYTHON_ORDERS);
    }
    for program in receivers() {
        scope.spawn(|| program.supervise(world));
        let waits = wait_until(LIMIT, || program.waits.load(Relaxed));
        waits.with_context(|| format!("{} does not wait for messages", program.name))?;
    }
    world.send(scope)?;
    // RabbitMQ forgets a quorum queue that is younger than half a second, if it is killed.
    thread::sleep(Duration::from_secs(1));

    let end = world.start.elapsed() + length;
    let left = || end.saturating_sub(world.start.elapsed());
    let mut bag = Bag::new(&mut random, world.instance.is_cluster());
    let mut times = BTreeMap::new();
    while bag.is_first_round() || !left().is_zero() {
        world.tally().show(task);
        let pause = if bag.is_first_round() { 500..2000 } else { 1000..6000 };
        thread::sleep(Duration::from_millis(random.u64(pause)));
        let Some(fault) = bag.draw(&mut random, left()) else {
            continue;
        };
        let at = world.start.elapsed().as_secs_f64();
        let whom = fault.inject(world, &mut random).context(fault.what)?;
        *times.entry(fault.what).or_default() += 1;
        let took = world.start.elapsed().as_secs_f64() - at;
        task.note(&format!("{at:6.1} s: {} {whom} ({took:.1} s)", fault.what));
    }

    // Does each of them still work, now that nothing is broken any more?
    task.say("waiting until all that was sent has arrived");
    receivers().for_each(|program| program.worked.store(false, Relaxed));
    let silent = || {
        let ours = receivers().filter(|program| program.role != Role::Other);
        let silent = ours.filter(|program| !program.worked.load(Relaxed));
        silent.map(|program| program.name).collect::<Vec<_>>()
    };
    if wait_until(LIMIT / 4, || silent().is_empty()).is_err() && world.instance.mend_queues()? {
        task.note("RabbitMQ had lost a queue, and was started again");
    }
    wait_until(LIMIT, || silent().is_empty())
        .with_context(|| format!("nothing more comes from {:?}", silent()))?;
    world.sending.store(false, Relaxed);
    let running = |program: &Program| program.is_running();
    if let Ok(publish) = world.program("publish-steadily") {
        publish.signal(Signal::INT);
    }
    let senders = world.programs.iter().filter(|program| program.role.sends());
    wait_until(LIMIT, || !senders.clone().any(running))?;
    let mut left = String::new();
    let arrived = wait_until(3 * LIMIT, || {
        left = waiting(world).unwrap_or_else(|error| error.to_string());
        left.is_empty()
    });
    if arrived.is_err() {
        world.tally().wrong.push(format!("still there: {left}"));
    }

    world.running.store(false, Relaxed);
    for program in receivers() {
        // Started in the background, one in Python ignores Ctrl-C.
        program.signal(match program.role {
            Role::Other => Signal::KILL,
            _ => Signal::INT,
        });
    }
    let ended = wait_until(LIMIT, || !receivers().any(running));
    ended.context("Ctrl-C does not end all programs")?;
    Ok(times)
}

/// What has not arrived yet; nothing, if all has.
fn waiting(world: &World) -> Result<String> {
    for reader in readers(world) {
        let unread = world.tally().events.unread(reader).count();
        if unread > 0 {
            return Ok(format!("{unread} events for {}", READERS[reader].0));
        }
    }
    if world.instance.is_cluster() {
        return in_queues(world, &["/"]);
    }
    let events = "SELECT COUNT(*) FROM test_main.outbox HAVING COUNT(*) > 0";
    if let [events] = world.query::<u64>(events)?[..] {
        return Ok(format!("{events} events in the outbox of main"));
    }
    in_queues(world, &["/", PYTHON])
}

/// Which of [`READERS`] run here.
fn readers(world: &World) -> impl Iterator<Item = usize> {
    (0..READERS.len()).filter(|&reader| world.program(READERS[reader].0).is_ok())
}

/// The queues of these virtual hosts that are not empty, and should be.
fn in_queues(world: &World, vhosts: &[&str]) -> Result<String> {
    let mut waiting = String::new();
    for vhost in vhosts {
        let list = ["list_queues", "--vhost", vhost, "--no-table-headers"];
        let queues = world.rabbitmqctl(&[&list[..], &["messages", "name"]].concat())?;
        let kept = ["\torders.dead", "\tjobs.parked", "\thello-rust-stream"];
        let there =
            |line: &&str| !line.starts_with("0\t") && !kept.iter().any(|kept| line.ends_with(kept));
        for queue in queues.lines().filter(there) {
            waiting += &format!("{queue} in {vhost}; ");
        }
    }
    Ok(waiting)
}

/// The result: ours, and others to compare with.
fn rows(world: &World) -> Result<(Vec<Row>, Vec<Row>)> {
    let is_cluster = world.instance.is_cluster();
    let orders = |database: &str| {
        let count = "SELECT user_id, COUNT(*) FROM";
        world.query(&format!("{count} {database}.tb_order GROUP BY user_id"))
    };
    let likes = "SELECT
        (SELECT COUNT(*) FROM test_main.likes WHERE product_id = main.id), main.likes, admin.likes
        FROM test_main.products AS main JOIN test_admin.products AS admin ON admin.id = main.id";
    let likes = if is_cluster { Vec::new() } else { world.query(likes)? };
    let [dead, parked] = [world.bodies("orders.dead")?, world.bodies("jobs.parked")?];
    let mails = world.mails()?;
    let tally = world.tally();
    let mut ours = vec![tally.tasks.row()];
    if !is_cluster {
        let names = ["03 logs", "04 logs, direct", "04 logs, topic", "04 logs, headers"];
        ours.extend(tally.logs.iter().zip(names).map(|(logs, name)| logs.row(name)));
    }
    ours.push(tally.orders.row("05 orders", ORDERS, &orders("test")?));
    ours.push(bad("05 orders that cannot be stored", &tally.bad, &dead));
    if !is_cluster {
        ours.push(tally.likes.row(&likes));
    }
    ours.push(tally.jobs.row());
    ours.push(bad("07 jobs that cannot be read", &tally.jobs.bad, &parked));
    if !is_cluster {
        ours.push(tally.calls.row());
    }
    ours.extend(readers(world).map(|reader| tally.events.row(reader)));
    if is_cluster {
        ours.push(tally.steady.row());
    }
    ours.push(tally.mails.row(mails));
    let mut others = Vec::new();
    if tally.python.sent > 0 {
        let what = "orders, a consumer in Python as in the document";
        others.push(tally.python.row(what, PYTHON_ORDERS, &orders(PYTHON)?));
    }
    Ok((ours, others))
}
