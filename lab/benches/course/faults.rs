//! What clients for Rust do when the connection breaks while they publish and consume.

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::Service;

use crate::clients::{Peer, rust};
use crate::report::{Section, Table, number, quantile};
use crate::{Bench, LIMIT};

/// How often each client meets each fault.
const TRIES: usize = 3;

/// How long a program may be silent after the fault is over: then it hangs.
const HANGS: Duration = Duration::from_secs(20);

/// The programs of `peers/rust`, and what they are.
const CLIENTS: [(&str, &str); 4] = [
    ("lapin-supervise", "lapin, as in the lessons"),
    ("lapin-recovery", "lapin, its own recovery"),
    ("amqp-client", "amqp-client, with recovery"),
    ("amqprs", "amqprs"),
];

#[derive(Clone, Copy)]
enum Fault {
    Restart,
    Kill,
    Close,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Restart, Self::Kill, Self::Close];

    /// Until it is over.
    fn happen(self, bench: &Bench) -> Result<()> {
        let instance = &bench.instance;
        match self {
            Self::Restart | Self::Kill => {
                instance.stop(Service::Rabbitmq, matches!(self, Self::Kill))?;
                instance.start(&[Service::Rabbitmq], &Tasks::quiet())
            }
            Self::Close => {
                let mut close = instance.rabbitmqctl()?;
                close.args(["-q", "close_all_connections", "maintenance"]);
                ensure!(close.status()?.success(), "rabbitmqctl cannot close the connections");
                Ok(())
            }
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "RabbitMQ restarts",
            Self::Kill => "RabbitMQ is killed (-9) and started",
            Self::Close => "an operator closes the connections",
        })
    }
}

/// What a program did.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// So many seconds after the fault was over.
    GoesOn(f64),
    Ends,
    Hangs,
}

/// `goes on` if it did so each time; otherwise how often it did what.
fn summary(ends: &[End]) -> String {
    let count = |is: fn(&End) -> bool| ends.iter().filter(|end| is(end)).count();
    let parts = [
        (count(|end| matches!(end, End::GoesOn(_))), "goes on"),
        (count(|end| *end == End::Ends), "ends with an error"),
        (count(|end| *end == End::Hangs), "hangs"),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(count, _)| *count > 0).collect();
    match &parts[..] {
        [(_, what)] => (*what).to_owned(),
        _ => {
            let parts = parts.iter().map(|(count, what)| format!("{what}: {count}"));
            parts.collect::<Vec<_>>().join(", ")
        }
    }
}

/// A program that prints a number for each message.
struct Flow {
    child: Child,
    heard: Arc<Mutex<(HashSet<u64>, Option<Instant>)>>,
    reader: JoinHandle<()>,
}

impl Flow {
    fn start(bench: &Bench, mut command: Command, what: &str) -> Result<Self> {
        command.arg(what);
        let mut child = bench.start(command)?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?);
        let heard = Arc::new(Mutex::new((HashSet::new(), None)));
        let hears = heard.clone();
        let reader = thread::spawn(move || {
            for number in output.lines().map_while(Result::ok).filter_map(|line| line.parse().ok())
            {
                let Ok(mut heard) = hears.lock() else { return };
                heard.0.insert(number);
                heard.1 = Some(Instant::now());
            }
        });
        Ok(Self { child, heard, reader })
    }

    /// When it has printed a line the last time.
    fn last(&self) -> Option<Instant> {
        self.heard.lock().ok()?.1
    }

    /// Waits for what it does after a fault that is over since then. A line that was under way may
    /// come a little later.
    fn after(&mut self, over: Instant) -> Result<End> {
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(End::Ends);
            }
            let goes_on = self.last().filter(|last| *last > over + Duration::from_millis(200));
            if let Some(last) = goes_on {
                return Ok(End::GoesOn((last - over).as_secs_f64()));
            }
            if over.elapsed() > HANGS {
                return Ok(End::Hangs);
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Kills it: the numbers it has printed.
    fn kill(mut self, bench: &Bench) -> Result<HashSet<u64>> {
        self.child.kill()?;
        self.child.wait()?;
        bench.guard.release(self.child.id());
        let Ok(()) = self.reader.join() else { bail!("the reading thread has panicked") };
        let heard = self.heard.lock().map(|mut heard| std::mem::take(&mut heard.0));
        heard.ok().context("the reading thread has panicked")
    }
}

/// What sender and receiver did, and how many messages are lost that were confirmed.
fn try_once(bench: &Bench, client: &str, fault: Fault) -> Result<(End, End, usize)> {
    let mut receiver = Flow::start(bench, rust(bench, client)?, "receive")?;
    let mut sender = Flow::start(bench, rust(bench, client)?, "send")?;
    wait_until(LIMIT, || receiver.last().is_some() && sender.last().is_some())?;
    sleep(Duration::from_secs(2)); // in full flow, longer than a new queue needs to be on disk
    fault.happen(bench)?;
    let over = Instant::now();
    let ends = (sender.after(over)?, receiver.after(over)?);
    let confirmed = sender.kill(bench)?;
    // Whoever is the receiver: the lessons' one takes what is left.
    let mut received = receiver.kill(bench)?;
    let rest = Flow::start(bench, rust(bench, "lapin-supervise")?, "receive")?;
    let start = Instant::now();
    let idle = || rest.last().unwrap_or(start).elapsed() > Duration::from_secs(5);
    wait_until(LIMIT, idle)?;
    received.extend(rest.kill(bench)?);
    Ok((ends.0, ends.1, confirmed.difference(&received).count()))
}

pub fn faults(bench: &Bench) -> Result<Section> {
    ensure!(bench.peers.contains(&Peer::Amqprs), "the other clients cannot be compiled");
    let mut table =
        Table::new(&["what happens", "client", "sender", "receiver", "after, s", "lost"]);
    let task = bench.tasks.start("Breaking connections");
    for fault in Fault::ALL {
        for (client, name) in CLIENTS {
            let mut tries = Vec::new();
            for number in 1..=TRIES {
                task.say(&format!("{number} of {TRIES}: {fault}: {name}"));
                tries.push(try_once(bench, client, fault)?);
            }
            let senders: Vec<_> = tries.iter().map(|(sender, ..)| *sender).collect();
            let receivers: Vec<_> = tries.iter().map(|(_, receiver, _)| *receiver).collect();
            let both = senders.iter().chain(&receivers);
            let after: Vec<_> = both
                .filter_map(|end| match end {
                    End::GoesOn(after) => Some(*after),
                    _ => None,
                })
                .collect();
            let lost: usize = tries.iter().map(|(.., lost)| lost).sum();
            table.row(vec![
                fault.to_string(),
                name.to_owned(),
                summary(&senders),
                summary(&receivers),
                if after.is_empty() { String::new() } else { number(quantile(&after, 1.0)) },
                lost.to_string(),
            ]);
        }
    }
    task.done("Broke connections");
    Ok(Section {
        title: "Faults",
        text: format!(
            "Why lapin, and why without its own recovery? A sender and a receiver of each client for\n\
             Rust, at full speed, while their connections break; {TRIES} times for each line. The\n\
             programs are in `lab/peers/rust`: each does what its client's documentation says.\n\n\
             A program *goes on* if it prints messages again, and *hangs* if it is silent for {} s\n\
             after all is well again. *After*: the longest time until it went on. *Lost*: messages\n\
             that the sender saw confirmed, and that nobody has received, a second receiver\n\
             included.",
            HANGS.as_secs()
        ),
        tables: vec![table],
        chart: None,
    })
}
