//! Which programs run, how they are fed, and what their lines mean.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::instance::Instance;
use lab::peers::python;
use lab::process::wait_until;
use lab::progress::Tasks;
use lab::root;

use crate::tally::{Orders, Tally};
use crate::world::{Heard, LIMIT, Program, World};

/// Connections are lost after a silence of ten seconds.
const HEARTBEAT: &str = "?heartbeat=5";

/// The virtual host and the database of the consumer in Python are called so.
pub const PYTHON: &str = "test_python";
pub const PYTHON_CONSUMER: &str = "consumer in Python";

/// How many orders are sent at a time, and at most how often. Debug programs are slower.
pub const ORDERS: u64 = if cfg!(debug_assertions) {
    2_000
} else {
    10_000
};
pub const PYTHON_ORDERS: u64 = if cfg!(debug_assertions) { 100 } else { 500 };
const EVERY: Duration = Duration::from_secs(2);

/// Lessons 3 and 4: who emits, with which arguments besides the line, and who receives, with which.
pub const LOGS: [(&str, &[&str], &str, &[&str]); 4] = [
    ("emit-log", &[], "receive-logs", &[]),
    (
        "emit-log-direct",
        &["error"],
        "receive-logs-direct",
        &["error"],
    ),
    (
        "emit-log-topic",
        &["kern.error"],
        "receive-logs-topic",
        &["kern.*"],
    ),
    (
        "emit-log-headers",
        &["level=error"],
        "receive-logs-headers",
        &["any", "level=error"],
    ),
];

/// All programs. That in Python is left out if its packages cannot be had.
pub fn programs(instance: &Instance, folder: &Path, tasks: &Tasks) -> Result<Vec<Program>> {
    let (amqp, mysql) = (instance.amqp_url() + HEARTBEAT, instance.mysql_url());
    let ports = instance.ports;
    let [admin, main] = [ports.admin, ports.main].map(|port| format!("127.0.0.1:{port}"));
    let lesson = |name: &'static str, arguments: &[&str]| {
        let program = name.split(' ').next().unwrap_or(name);
        let program = Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name(program);
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (amqp, mysql) = (amqp.clone(), mysql.clone());
        let (main, admin) = (main.clone(), admin.clone());
        Program::new(name, folder, move || {
            let mut command = Command::new(&program);
            command
                .args(&arguments)
                .env("AMQP_URL", &amqp)
                .env("MYSQL_URL", &mysql)
                .env("MAIN_LISTEN", &main)
                .env("ADMIN_LISTEN", &admin)
                .env("ADMIN_URL", format!("http://{admin}"));
            command
        })
    };
    let broken = ["--break-connection", "0.05"];
    let mut programs = vec![
        lesson("new-task", &[])?,
        lesson("worker 1", &[])?,
        lesson("worker 2", &[])?,
        lesson("request-orders", &[])?,
        lesson("receive-orders 1", &broken)?,
        lesson("receive-orders 2", &broken)?,
        lesson("admin", &["--users", "4000000000"])?,
        lesson("main", &[])?,
    ];
    for (emit, emitted, receive, received) in LOGS {
        programs.push(lesson(emit, emitted)?);
        programs.push(lesson(receive, received)?);
    }

    let packages = ["pika==1.3.2", "PyMySQL[rsa]==1.1.2"];
    let installed = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if let Err(error) = python(installed, &packages, tasks) {
        println!("There is no consumer in Python to compare with: {error:#}");
        return Ok(programs);
    }
    let amqp = instance.create_vhost(PYTHON)? + HEARTBEAT;
    let port = ports.mysql.to_string();
    let quiet = tasks.quietly();
    let feed = amqp.clone();
    let request = Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name("request-orders");
    programs.push(Program::new(
        "request-orders for Python",
        folder,
        move || {
            let mut command = Command::new(&request);
            command.env("AMQP_URL", &feed);
            command
        },
    )?);
    programs.push(Program::new(PYTHON_CONSUMER, folder, move || {
        let mut command = python(installed, &packages, &quiet).unwrap_or(Command::new("false"));
        command
            .arg(root().join("lab/peers/seed_orders.py"))
            .args(["localhost", &port, PYTHON, "0.001"])
            .env("AMQP_URL", &amqp);
        command
    })?);
    Ok(programs)
}

impl World {
    /// Starts the receivers, and waits until they all wait for messages: all queues are there then.
    pub fn receive<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        let mut started = Vec::new();
        for (index, (.., receive, _)) in LOGS.iter().enumerate() {
            let program = self.program(receive)?;
            started.push(program);
            scope.spawn(move || {
                program.supervise(self, true, |tally, heard| logs(tally, index, heard));
            });
        }
        for name in ["worker 1", "worker 2"] {
            let program = self.program(name)?;
            started.push(program);
            scope.spawn(move || {
                let mut task = None;
                program.supervise(self, true, |tally, heard| work(tally, &mut task, heard));
            });
        }
        for name in ["receive-orders 1", "receive-orders 2"] {
            let program = self.program(name)?;
            started.push(program);
            scope.spawn(move || program.supervise(self, true, store));
        }
        for name in ["admin", "main"] {
            let program = self.program(name)?;
            started.push(program);
            scope.spawn(move || program.supervise(self, true, |_, _| ()));
        }
        if let Ok(program) = self.program(PYTHON_CONSUMER) {
            // The first orders declare the queue.
            let (sent, line) = self
                .program("request-orders for Python")?
                .send(self, &[&PYTHON_ORDERS.to_string()]);
            anyhow::ensure!(sent, "{line}");
            count(&mut self.tally().python, PYTHON_ORDERS);
            scope.spawn(move || program.supervise(self, false, |_, _| ()));
        }
        let waits = |program: &&Program| program.waits.load(Ordering::Relaxed);
        wait_until(LIMIT, || started.iter().all(waits))
    }

    /// Starts those who send, until there is nothing more to be sent.
    pub fn send<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        let new_task = self.program("new-task")?;
        scope.spawn(move || self.send_tasks(new_task));
        let mut emitters = Vec::new();
        for (emit, ..) in LOGS {
            emitters.push(self.program(emit)?);
        }
        scope.spawn(move || self.send_logs(&emitters));
        let request = self.program("request-orders")?;
        scope.spawn(move || self.send_orders(request, ORDERS, |tally| &mut tally.orders));
        if let Ok(request) = self.program("request-orders for Python") {
            scope.spawn(move || {
                self.send_orders(request, PYTHON_ORDERS, |tally| &mut tally.python);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| self.send_likes());
        }
        Ok(())
    }

    /// A task that may not have arrived is sent again, under a new number.
    fn send_tasks(&self, new_task: &Program) {
        for number in 0.. {
            if !self.sending() {
                return;
            }
            let mut task = number.to_string();
            if number % 40 == 0 {
                task += " ."; // a second of work
            }
            let sent = new_task.send(self, &[&task]).0;
            if sent {
                self.tally().tasks.sent.insert(number);
            }
            pause(sent);
        }
    }

    fn send_logs(&self, emitters: &[&Program]) {
        for number in 0.. {
            for (index, emit) in emitters.iter().enumerate() {
                if !self.sending() {
                    return;
                }
                let sent = emit.send(self, &[&number.to_string()]).0;
                if sent {
                    self.tally().logs[index].sent.insert(number);
                }
                pause(sent);
            }
        }
    }

    fn send_orders(&self, request: &Program, users: u64, orders: fn(&mut Tally) -> &mut Orders) {
        while self.sending() {
            let begin = Instant::now();
            // Whoever is slow gets no more than he can take.
            let queue = format!("queues/{PYTHON}/orders");
            let waiting = match users {
                PYTHON_ORDERS => self.instance.management(&queue),
                _ => Ok(serde_json::Value::Null),
            };
            let waiting = waiting.ok().map(|queue| queue["messages"].as_u64());
            if waiting.is_none_or(|messages| messages.unwrap_or(0) > 4 * users) {
                thread::sleep(EVERY);
                continue;
            }
            let (sent, line) = request.send(self, &[&users.to_string()]);
            if sent {
                count(orders(&mut self.tally()), users);
            } else if !line.starts_with("Error: cannot connect") {
                // Nobody knows then which of the orders have arrived.
                let wrong = format!("{} gave up: {line}", request.name);
                self.tally().wrong.push(wrong);
            }
            pause(sent);
            thread::sleep(EVERY.saturating_sub(begin.elapsed()));
        }
    }

    fn send_likes(&self) {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)));
        let agent = ureq::Agent::new_with_config(agent.build());
        let port = self.instance.ports.main;
        while self.sending() {
            let product = fastrand::u32(1..=3);
            let url = format!("http://127.0.0.1:{port}/api/products/{product}/like");
            let answer = agent.post(url).send_empty().and_then(|mut answer| {
                let text = answer.body_mut().read_to_string()?;
                Ok((answer.status().as_u16(), text))
            });
            let mut tally = self.tally();
            let mut answered = false;
            match answer {
                Ok((200, _)) => {
                    tally.likes.answered += 1;
                    answered = true;
                }
                // Its transaction may have been committed, and only the answer of MySQL be lost.
                Ok((503, text)) if text.contains("the database") => tally.likes.unsure += 1,
                // admin is away; this user likes it already; main has not heard of the product yet
                Ok((503 | 400 | 404, _)) => {}
                Ok(other) => tally.wrong.push(format!("a like was answered {other:?}")),
                Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(_) => tally.likes.unsure += 1,
            }
            drop(tally);
            pause(answered);
        }
    }
}

/// Before the next one: a moment, or longer if something is broken.
fn pause(sent: bool) {
    thread::sleep(Duration::from_millis(if sent { 20 } else { 200 }));
}

fn count(orders: &mut Orders, sent: u64) {
    orders.sent += sent;
    orders.rounds += 1;
}

/// The last word of ` [x] Received ...`, a number.
fn received(line: &str) -> Option<u64> {
    let text = line.strip_prefix(" [x] Received ")?;
    text.rsplit(' ').next()?.parse().ok()
}

fn logs(tally: &mut Tally, index: usize, heard: Heard) {
    let logs = &mut tally.logs[index];
    match heard {
        Heard::Line(line) if line.starts_with(" [*] Waiting") => logs.epochs.push(Vec::new()),
        Heard::Line(line) => {
            if let (Some(number), Some(epoch)) = (received(line), logs.epochs.last_mut()) {
                epoch.push(number);
            }
        }
        Heard::Ended => {}
    }
}

/// `task` is what the worker has in hand.
fn work(tally: &mut Tally, task: &mut Option<u64>, heard: Heard) {
    let received = &mut tally.tasks.received;
    if let Heard::Line(line) = heard
        && let Some(text) = line.strip_prefix(" [x] Received ")
    {
        let Some(number) = text.split(' ').next().and_then(|text| text.parse().ok()) else {
            tally.wrong.push(format!("a worker says {line}"));
            return;
        };
        let entry = received.entry(number).or_default();
        match text.ends_with("(redelivered)") {
            true => entry.again += 1,
            false => entry.new += 1,
        }
        *task = Some(number);
        return;
    }
    let over = match heard {
        Heard::Line(line) => line == " [x] Done" || line.starts_with(" [!] Lost"),
        Heard::Ended => true,
    };
    if over && let Some(number) = task.take() {
        received.entry(number).or_default().done = true;
    }
}

fn store(tally: &mut Tally, heard: Heard) {
    let Heard::Line(line) = heard else {
        return;
    };
    if line.starts_with(" [x] Known already: ") {
        tally.orders.known += 1;
    } else if let Some((_, known)) = line.split_once("; known already: ") {
        tally.orders.known += known.parse::<u64>().unwrap_or_default();
    }
}
