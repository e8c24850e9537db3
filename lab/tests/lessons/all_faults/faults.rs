//! What is broken, and how it is made whole again.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use lab::servers::NODES;
use lab::servers::Service::{self, Mysql, Rabbitmq};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rustix::process::Signal;

use super::programs::{PYTHON, PYTHON_CONSUMER};
use super::world::World;

pub struct Fault {
    pub what: &'static str,
    /// How often it comes before all others have come as often as they should.
    times: usize,
    /// How long it takes at least and at most, in seconds.
    seconds: (f64, f64),
    how: How,
}

enum How {
    /// Of one of the programs whose names begin with one of these.
    Kill(&'static [&'static str]),
    /// Of one of the programs.
    Pause,
    Restart(Service, bool),
    /// So many nodes of the cluster, and whether they are killed.
    RestartNodes(usize, bool),
    PauseNode,
    PauseServer(Service),
    CloseConnections(Service),
    /// RabbitMQ's functions that tell and set a limit, and one that is exceeded.
    Alarm(&'static str, &'static str, &'static str),
    LockTables,
    ReadOnly,
    /// RabbitMQ waits for acknowledgements for a short time only, and MySQL keeps them waiting.
    TimeOut,
    DeleteUser,
}
use How::{
    Alarm, CloseConnections, DeleteUser, Kill, LockTables, Pause, PauseNode, PauseServer, ReadOnly,
    Restart, RestartNodes, TimeOut,
};

const fn fault(what: &'static str, times: usize, seconds: (f64, f64), how: How) -> Fault {
    Fault { what, times, seconds, how }
}

const AT_ONCE: (f64, f64) = (0.0, 0.0);
/// Longer than two heartbeats: then both ends of a connection give it up.
const LONG: (f64, f64) = (11.0, 13.0);
const MEMORY: How = Alarm(
    "vm_memory_monitor:get_vm_memory_high_watermark",
    "vm_memory_monitor:set_vm_memory_high_watermark",
    "0",
);
const DISK: How = Alarm(
    "rabbit_disk_monitor:get_disk_free_limit",
    "rabbit_disk_monitor:set_disk_free_limit",
    "1000000000000000",
);

#[rustfmt::skip] // a table
const FAULTS: [Fault; 24] = [
    fault("a worker: kill -9", 2, AT_ONCE, Kill(&["worker"])),
    fault("a receive-logs: kill -9", 2, AT_ONCE, Kill(&["receive-logs"])),
    fault("a receive-orders: kill -9", 4, AT_ONCE, Kill(&["receive-orders"])),
    fault("a run-jobs: kill -9", 4, AT_ONCE, Kill(&["run-jobs"])),
    fault("an rpc-server: kill -9", 4, AT_ONCE, Kill(&["rpc-server"])),
    fault("a reader of the stream: kill -9", 4, AT_ONCE, Kill(&["read-events", "stream-read"])),
    fault("mailer: kill -9", 2, AT_ONCE, Kill(&["mailer"])),
    fault("admin: kill -9", 2, AT_ONCE, Kill(&["admin"])),
    fault("main: kill -9", 2, AT_ONCE, Kill(&["main"])),
    fault("a program: paused", 3, (0.0, 3.0), Pause),
    fault("a program: paused for two heartbeats", 1, LONG, Pause),
    fault("RabbitMQ: kill -9, started again", 2, (7.0, 15.0), Restart(Rabbitmq, true)),
    fault("RabbitMQ: stopped, started again", 1, (10.0, 20.0), Restart(Rabbitmq, false)),
    fault("RabbitMQ: paused for two heartbeats", 1, LONG, PauseServer(Rabbitmq)),
    fault("RabbitMQ: all connections closed", 2, (1.0, 3.0), CloseConnections(Rabbitmq)),
    fault("RabbitMQ: alarm, memory", 1, (2.0, 8.0), MEMORY),
    fault("RabbitMQ: alarm, disk", 1, (2.0, 8.0), DISK),
    fault("RabbitMQ: consumers ended for time", 1, (4.0, 6.0), TimeOut),
    fault("RabbitMQ: user deleted and made again", 1, (2.0, 6.0), DeleteUser),
    fault("MySQL: kill -9, started again", 2, (1.0, 3.0), Restart(Mysql, true)),
    fault("MySQL: paused, swallows bytes", 1, (2.0, 8.0), PauseServer(Mysql)),
    fault("MySQL: read-only", 1, (2.0, 6.0), ReadOnly),
    fault("MySQL: tables locked", 1, (2.0, 8.0), LockTables),
    fault("MySQL: all connections closed", 2, AT_ONCE, CloseConnections(Mysql)),
];

/// For lessons 2, 5, 7 and 9 to 11 on a cluster.
#[rustfmt::skip] // a table
const OF_CLUSTER: [Fault; 17] = [
    fault("a worker: kill -9", 2, AT_ONCE, Kill(&["worker"])),
    fault("a receive-orders: kill -9", 3, AT_ONCE, Kill(&["receive-orders"])),
    fault("a run-jobs: kill -9", 3, AT_ONCE, Kill(&["run-jobs"])),
    fault("a program: paused", 2, (0.0, 3.0), Pause),
    fault("a program: paused for two heartbeats", 1, LONG, Pause),
    fault("a reader of the stream: kill -9", 2, AT_ONCE, Kill(&["read-events"])),
    fault("mailer: kill -9", 2, AT_ONCE, Kill(&["mailer"])),
    fault("a node: kill -9, started again", 4, (7.0, 20.0), RestartNodes(1, true)),
    fault("a node: stopped, started again", 2, (7.0, 20.0), RestartNodes(1, false)),
    // the others miss it after ten seconds; when it goes on, it finds that it was alone
    fault("a node: paused, missed by the others", 2, (16.0, 18.0), PauseNode),
    fault("two nodes: kill -9, started again", 2, (10.0, 30.0), RestartNodes(2, true)),
    fault("two nodes: stopped, started again", 1, (10.0, 30.0), RestartNodes(2, false)),
    fault("all nodes: kill -9, started again", 1, (10.0, 30.0), RestartNodes(NODES, true)),
    fault("RabbitMQ: all connections closed", 2, (1.0, 3.0), CloseConnections(Rabbitmq)),
    fault("MySQL: kill -9, started again", 1, (1.0, 3.0), Restart(Mysql, true)),
    fault("MySQL: tables locked", 1, (2.0, 8.0), LockTables),
    fault("MySQL: all connections closed", 1, AT_ONCE, CloseConnections(Mysql)),
];

/// Faults in random order: first each of them once, then each as often as it should come before the
/// others come again.
pub struct Bag {
    all: &'static [Fault],
    faults: Vec<&'static Fault>,
    first: bool,
}

impl Bag {
    pub fn new(random: &mut Rng, is_cluster: bool) -> Self {
        let all: &[Fault] = if is_cluster { &OF_CLUSTER } else { &FAULTS };
        let mut faults: Vec<_> = all.iter().collect();
        random.shuffle(&mut faults);
        Self { all, faults, first: true }
    }

    /// Whether some have not come yet.
    pub fn is_first_round(&self) -> bool {
        self.first && !self.faults.is_empty()
    }

    /// The next one. After the first round it does not take longer than what is left of the time.
    pub fn draw(&mut self, random: &mut Rng, left: Duration) -> Option<&'static Fault> {
        if self.faults.is_empty() {
            let all = self.all.iter();
            self.faults = all.flat_map(|fault| vec![fault; fault.times]).collect();
            random.shuffle(&mut self.faults);
            self.first = false;
        }
        let fits = |fault: &&Fault| self.first || fault.seconds.1 <= left.as_secs_f64();
        let index = self.faults.iter().position(fits)?;
        Some(self.faults.remove(index))
    }
}

impl Fault {
    /// Breaks it and makes it whole again; says which program it was, if there are several.
    pub fn inject(&self, world: &World, random: &mut Rng) -> Result<&'static str> {
        let (least, most) = self.seconds;
        let time = Duration::from_secs_f64(least + random.f64() * (most - least));
        match self.how {
            Kill(names) => {
                let name = choose(world, random, names)?;
                signal(world, name, Signal::KILL)?;
                return Ok(name);
            }
            Pause => {
                let names = [
                    "worker",
                    "receive-",
                    "request-orders",
                    "admin",
                    "main",
                    "run-jobs",
                    "rpc-",
                    "append-events",
                    "read-events",
                    "stream-read",
                    "mailer",
                    "publish-steadily",
                    "count-steadily",
                ];
                let name = choose(world, random, &names)?;
                signal(world, name, Signal::STOP)?;
                thread::sleep(time);
                signal(world, name, Signal::CONT)?;
                return Ok(name);
            }
            Restart(service, kill) => {
                world.instance.stop(service, kill)?;
                world.keep_log(service)?;
                world.instance.start(&[service], &world.tasks.quietly())?;
            }
            RestartNodes(count, kill) => {
                let mut nodes = world.instance.nodes();
                random.shuffle(&mut nodes);
                for node in &nodes[..count] {
                    node.stop(Rabbitmq, kill)?;
                    world.keep_log(Rabbitmq)?;
                }
                world.start_all_nodes()?;
            }
            PauseNode => {
                let node = world.instance.node(random.usize(1..=NODES))?;
                let version = node.management().version()?;
                node.pause(Rabbitmq)?;
                thread::sleep(time);
                node.resume(Rabbitmq)?;
                if version < (4, 0) {
                    // The others leave it out until it restarts: see lesson 10.
                    node.stop(Rabbitmq, false)?;
                    world.keep_log(Rabbitmq)?;
                }
                world.start_all_nodes()?; // waits until it is one of them again
            }
            PauseServer(service) => {
                world.instance.pause(service)?;
                thread::sleep(time);
                world.instance.resume(service)?;
            }
            CloseConnections(Rabbitmq) => {
                world.rabbitmqctl(&["close_all_connections", "--global", "a fault"])?;
            }
            CloseConnections(Mysql) => close_connections(world)?,
            // As its own command line tool does it, which takes seconds to start.
            Alarm(get, set, limit) => {
                let sleep = format!("timer:sleep({})", time.as_millis());
                let alarms = "Alarms = rabbit_alarm:get_alarms()";
                let all = format!(
                    "Usual = {get}(), {set}({limit}), {sleep}, {alarms}, {set}(Usual), Alarms."
                );
                let alarms = world.rabbitmqctl(&["eval", &all])?;
                ensure!(alarms.contains("resource_limit"), "no alarm: {alarms}");
            }
            LockTables => {
                let tables = format!(
                    "SELECT CONCAT(table_schema, '.', table_name, ' WRITE')
                     FROM information_schema.tables
                     WHERE table_schema IN ('test', 'test_admin', 'test_main', '{PYTHON}')"
                );
                let tables: Vec<String> = world.query(&tables)?;
                world.runtime.block_on(async {
                    let mut connection = Conn::from_url(world.instance.mysql_url()).await?;
                    let lock = format!("LOCK TABLES {}", tables.join(", "));
                    connection.query_drop(lock).await?;
                    thread::sleep(time);
                    connection.query_drop("UNLOCK TABLES").await?;
                    connection.disconnect().await
                })?;
            }
            ReadOnly => {
                // MariaDB before 11.1 has an older name for it
                let name = "SHOW GLOBAL VARIABLES WHERE variable_name IN
                    ('transaction_read_only', 'tx_read_only')";
                let names: Vec<(String, String)> = world.query_as("operator", name)?;
                let (name, _) = names.first().context("no variable for read-only")?;
                for value in [1, 0] {
                    let set = format!("SET GLOBAL {name} = {value}");
                    world.query_as::<u64>("operator", &set)?;
                    close_connections(world)?; // a session keeps what it has begun with
                    thread::sleep(time * value);
                }
            }
            // A channel keeps the time that it has begun with.
            TimeOut => {
                let set = |time: u32| {
                    let set = format!(
                        "application:set_env(rabbit, consumer_timeout, {time}), \
                         application:set_env(rabbit, channel_tick_interval, 500), {CLOSE}."
                    );
                    world.rabbitmqctl(&["eval", &set])
                };
                set(2500)?;
                thread::sleep(Duration::from_secs(2)); // they connect again
                world.instance.pause(Mysql)?;
                thread::sleep(time);
                world.instance.resume(Mysql)?;
                set(1_800_000)?; // the default
            }
            DeleteUser => {
                let [guest, all] = [r#"<<"guest">>"#, r#"<<".*">>"#];
                let permit = |vhost: &str| {
                    format!(
                        "rabbit_auth_backend_internal:set_permissions({guest}, <<\"{vhost}\">>, \
                         {all}, {all}, {all}, {guest})"
                    )
                };
                let eval = format!(
                    "rabbit_auth_backend_internal:delete_user({guest}, {guest}), {CLOSE}, \
                     timer:sleep({}), \
                     rabbit_auth_backend_internal:add_user({guest}, {guest}, {guest}), \
                     rabbit_auth_backend_internal:set_tags({guest}, [administrator], {guest}), \
                     {}, {}.",
                    time.as_millis(),
                    permit("/"),
                    permit(PYTHON)
                );
                world.rabbitmqctl(&["eval", &eval])?;
            }
        }
        Ok("")
    }
}

/// All connections to RabbitMQ. One may be gone already.
const CLOSE: &str = "[catch rabbit_networking:close_connection(Connection, \"a fault\") \
                     || Connection <- rabbit_networking:connections()]";

/// All connections to MySQL.
fn close_connections(world: &World) -> Result<()> {
    for id in world.query::<u64>("SELECT id FROM information_schema.processlist")? {
        let _ = world.query::<u64>(&format!("KILL {id}")); // it may be gone already
    }
    Ok(())
}

fn choose(world: &World, random: &mut Rng, names: &[&str]) -> Result<&'static str> {
    let named = |name: &str| names.iter().any(|start| name.starts_with(start));
    let programs = world.programs.iter().filter(|program| program.is_running());
    let programs = programs.map(|program| program.name).filter(|name| named(name));
    let name = random.choice(programs.collect::<Vec<_>>());
    name.with_context(|| format!("no {names:?} runs"))
}

/// What happens to a `receive-orders` happens to the consumer in Python, too.
fn signal(world: &World, name: &str, signal: Signal) -> Result<()> {
    world.program(name)?.signal(signal);
    if name.starts_with("receive-orders")
        && let Ok(python) = world.program(PYTHON_CONSUMER)
    {
        python.signal(signal);
    }
    Ok(())
}
