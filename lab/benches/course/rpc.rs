//! Calls: `rpc-client` and `rpc-server`, compared with clients and servers in other languages.

use std::process::Command;

use anyhow::{Context, Result};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::clients::Peer;
use crate::report::{Section, Table, median, number};
use crate::{Bench, Lines, ROUNDS, program, round};

/// A small number: messaging is measured, not computing.
const NUMBER: &str = "5";

/// How many calls wait for their answers at once, and how many are made.
const LOADS: [(u32, u32); 2] = [(1, 3000), (50, 20_000)];

/// How many requests a server may hold.
const PREFETCH: &str = "50";

pub async fn rpc(bench: &Bench) -> Result<Section> {
    let task = bench.tasks.start("Measuring calls");
    let sides = [None]
        .into_iter()
        .chain(bench.peers.iter().copied().filter(|peer| peer.is_script()).map(Some));
    let sides: Vec<(Option<Peer>, String)> = sides
        .map(|peer| (peer, peer.map_or("`rpc-client`, `rpc-server`".to_owned(), |p| p.to_string())))
        .collect();
    // for each load, for each side: calls a second, median, 99th percentile
    let mut figures = LOADS.map(|_| vec![[Vec::new(), Vec::new(), Vec::new()]; sides.len()]);
    for number in 0..ROUNDS {
        for ((at_once, calls), figures) in LOADS.into_iter().zip(&mut figures) {
            for ((peer, name), figures) in sides.iter().zip(figures) {
                round(&task, number, &format!("{at_once} at once: {name}"));
                let measured = measure(bench, *peer, calls, at_once).await?;
                for (figures, figure) in figures.iter_mut().zip(measured) {
                    figures.push(figure);
                }
            }
        }
    }
    task.done("Measured calls");

    let mut rates = Table::comparing("calls/s");
    let mut latencies =
        Table::new(&["client and server", "at once", "median, ms", "99th percentile, ms"]);
    for ((at_once, _), figures) in LOADS.into_iter().zip(&figures) {
        for ((_, name), [rate, median_ms, p99]) in sides.iter().zip(figures) {
            let cells = [median(median_ms), median(p99)].map(number);
            let [median_ms, p99] = cells;
            latencies.row(vec![name.clone(), at_once.to_string(), median_ms, p99]);
            if name != &sides[0].1 {
                rates.rates(&format!("{at_once} at once"), &figures[0][0], name, rate);
            }
        }
    }
    Ok(Section {
        title: "Calls",
        text: format!(
            "Round trips of `fib({NUMBER})` over `rpc_queue`, with direct reply-to, from one client to\n\
             one server and back; 1 and 50 calls on their way at any time. All servers may hold\n\
             {PREFETCH} requests. `rpc-client` and `rpc-server` wait for confirms; the others do\n\
             as the official tutorials do, and do without. Latency: from a question to its answer."
        ),
        tables: vec![rates, latencies],
        chart: None,
    })
}

/// Calls a second, and the median and the 99th percentile of the latency in ms.
async fn measure(bench: &Bench, peer: Option<Peer>, calls: u32, at_once: u32) -> Result<[f64; 3]> {
    let [calls, at_once] = [calls, at_once].map(|number| number.to_string());
    let (mut server, mut client) = match peer {
        None => (Command::new(program("rpc-server")), Command::new(program("rpc-client"))),
        Some(peer) => (peer.script(bench, "rpc")?, peer.script(bench, "rpc")?),
    };
    match peer {
        None => {
            server.args(["--at-once", PREFETCH]);
            client.args([NUMBER, "--calls", &calls, "--at-once", &at_once]);
        }
        Some(_) => {
            server.args(["server", PREFETCH]);
            client.args(["client", NUMBER, &calls, &at_once]);
        }
    }
    // Each side begins with a new queue.
    let connection = bench.connect().await?;
    let channel = connection.create_channel().await?;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_delete("rpc_queue".into(), QueueDeleteOptions::default()).await?;
    channel.queue_declare("rpc_queue".into(), QueueDeclareOptions::durable(), quorum).await?;
    connection.close(200, "Goodbye".into()).await?;

    let mut server = bench.start(server)?;
    Lines::default().count(server.stdout.take()); // a program whose pipe is full waits
    bench.wait_for_consumers("rpc_queue", 1).await?;
    let said = bench.finish(bench.start(client)?)?;
    bench.stop(server)?;
    let figures: Vec<f64> = said
        .split_whitespace()
        .filter_map(|word| word.trim_end_matches(',').parse().ok())
        .collect();
    let last = figures.len().checked_sub(3).context("no figures")?;
    Ok([figures[last], figures[last + 1], figures[last + 2]])
}
