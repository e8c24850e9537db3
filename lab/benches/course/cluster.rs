//! A cluster of three nodes: what a confirm costs, and how long nothing is confirmed when the
//! leader of the queue dies.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lab::guard::Guard;
use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::{Backend, Instance, NODES, Service};

use crate::clients::{MESSAGES, Peer, expect_purged, publish_one_by_one};
use crate::report::{Section, Table, number, quantile};
use crate::{Bench, LIMIT, ROUNDS, program, rate, round};

/// How often the leader is killed under each program.
const KILLS: usize = 10;

pub async fn cluster(bench: &Bench) -> Result<Section> {
    let task = bench.tasks.start("Starting three nodes");
    let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
    let folder = Instance::temporary_folder();
    let _ends = Guard::over(lab, &folder)?;
    let cluster = Instance::temporary(folder, Backend::Local)?.with_nodes()?;
    cluster.start(&[Service::Rabbitmq], &Tasks::quiet())?;
    task.done("Started three nodes");

    let costs = costs(bench, &cluster).await?;
    let gaps = gaps(bench, &cluster)?;
    Ok(Section {
        title: "Cluster",
        text: format!(
            "Three nodes on one machine, as `cargo lab up --nodes 3` starts them. They share its\n\
             cores and its disk, which nodes on machines of their own do not.\n\n\
             What a confirm costs: persistent messages to a quorum queue on one node, and to one with\n\
             a replica on each of three. {MESSAGES} messages a round, or 2000 one at a time.\n\n\
             The gap: messages are published at 100 a second by a program that knows all three\n\
             addresses. The node where the queue has its leader is killed (-9). The gap is the longest\n\
             time between two confirms. Each program goes through that {KILLS} times, in turn."
        ),
        tables: vec![costs, gaps],
        chart: None,
    })
}

async fn costs(bench: &Bench, cluster: &Instance) -> Result<Table> {
    // The queue is declared over the first node, and has its leader there.
    let three = &bench.with(cluster.node(1)?);
    let task = bench.tasks.start("Measuring confirms");
    let mut figures = [(); 4].map(|()| Vec::new());
    for number in 0..ROUNDS {
        for (side, (bench, what)) in
            [(three, "three nodes"), (bench, "one node")].iter().enumerate()
        {
            round(&task, number, what);
            let start = Instant::now();
            bench.lesson("request-orders", &[MESSAGES.to_string()])?;
            figures[side].push(rate(MESSAGES, start.elapsed()));
            expect_purged(bench, MESSAGES).await?;
            figures[2 + side].push(publish_one_by_one(bench).await?);
            bench.purge("orders").await?;
        }
    }
    task.done("Measured confirms");
    let mut table = Table::comparing("messages/s");
    let [three_many, one_many, three_single, one_single] = &figures;
    table.rates("three nodes, up to 1000 unconfirmed", three_many, "one node", one_many);
    table.rates("three nodes, one at a time", three_single, "one node", one_single);
    Ok(table)
}

fn gaps(bench: &Bench, cluster: &Instance) -> Result<Table> {
    let task = bench.tasks.start("Measuring gaps");
    let pika = bench.peers.contains(&Peer::Pika).then_some(Peer::Pika);
    let sides = [(None, "`publish-steadily`")]
        .into_iter()
        .chain(pika.map(|pika| (Some(pika), "pika (Python)")));
    let mut sides: Vec<_> = sides.map(|(peer, name)| (peer, name, Vec::new())).collect();
    let everywhere = bench.with(cluster.clone());
    for kill in 1..=KILLS {
        for (peer, name, gaps) in &mut sides {
            task.say(&format!("{kill} of {KILLS}: {name}"));
            let command = match peer {
                None => Command::new(program("publish-steadily")),
                Some(peer) => peer.script(bench, "steadily")?,
            };
            gaps.push(gap(&everywhere, command)?);
        }
    }
    task.done("Measured gaps");
    let mut table =
        Table::new(&["the leader is killed", "median gap, s", &format!("longest of {KILLS}, s")]);
    for (_, name, gaps) in sides {
        let cells = [quantile(&gaps, 0.5), quantile(&gaps, 1.0)].map(number);
        table.row([vec![name.to_owned()], cells.to_vec()].concat());
    }
    Ok(table)
}

/// The longest gap that a program sees, in seconds. All nodes are there before and after.
fn gap(bench: &Bench, command: Command) -> Result<f64> {
    let cluster = &bench.instance;
    let mut steady = Steady::start(bench, command)?;
    steady.goes_on()?;
    let mut leader = 0;
    wait_until(LIMIT, || {
        let queue = cluster.management().get("queues/%2f/steady").unwrap_or_default();
        leader = queue["leader"].as_str().and_then(number_of).unwrap_or_default();
        leader > 0 && queue["online"].as_array().is_some_and(|online| online.len() == NODES)
    })?;
    let node = cluster.node(leader)?;
    node.stop(Service::Rabbitmq, true)?;
    wait_until(LIMIT, || {
        let queue = cluster.management().get("queues/%2f/steady").unwrap_or_default();
        queue["leader"].as_str().and_then(number_of).is_some_and(|number| number != leader)
    })?;
    steady.goes_on()?;
    let gap = steady.stop(bench)?;
    node.start(&[Service::Rabbitmq], &Tasks::quiet())?;
    Ok(gap)
}

/// A program that publishes, and says each second how many are confirmed.
struct Steady {
    child: Child,
    confirmed: Arc<AtomicU64>,
    last: JoinHandle<String>,
}

impl Steady {
    fn start(bench: &Bench, command: Command) -> Result<Self> {
        let mut child = bench.start(command)?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?);
        let confirmed = Arc::new(AtomicU64::new(0));
        let heard = confirmed.clone();
        let last = thread::spawn(move || {
            let mut last = String::new();
            for line in output.lines().map_while(Result::ok) {
                let all =
                    line.split_once(" in all)").and_then(|(start, _)| start.rsplit('(').next());
                if let Some(Ok(all)) = all.map(str::parse) {
                    heard.store(all, Ordering::Relaxed);
                }
                last = line;
            }
            last
        });
        Ok(Self { child, confirmed, last })
    }

    /// Waits until it has confirms of two seconds more.
    fn goes_on(&mut self) -> Result<()> {
        let confirmed = || self.confirmed.load(Ordering::Relaxed);
        let before = confirmed();
        wait_until(LIMIT, || confirmed() >= before + 200)
    }

    /// Ctrl-C: the longest gap, in seconds.
    fn stop(self, bench: &Bench) -> Result<f64> {
        bench.stop(self.child)?;
        let Ok(last) = self.last.join() else { bail!("the reading thread has panicked") };
        let gap =
            last.split("longest gap: ").nth(1).and_then(|gap| gap.strip_suffix(" s")?.parse().ok());
        gap.with_context(|| format!("no gap: {last}"))
    }
}

/// The number in `rabbit2@localhost`.
fn number_of(node: &str) -> Option<usize> {
    node.strip_prefix("rabbit")?.split('@').next()?.parse().ok()
}
