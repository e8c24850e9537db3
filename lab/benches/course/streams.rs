//! The programs of lesson 9, over AMQP and over the stream protocol, compared with rstream and with
//! a bare socket.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::report::{Section, Table};
use crate::{Bench, ROUNDS, program, rate, raw_stream, round, shared};

const EVENTS: u64 = 200_000;

/// Each of these has its column; the first that can be had is compared with the others.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Stream,
    Amqp,
    Rstream,
    BareSocket,
}

impl Side {
    fn name(self, stream: &str, amqp: &str) -> String {
        match self {
            Self::Stream => format!("`{stream}`"),
            Self::Amqp => format!("`{amqp}`, over AMQP"),
            Self::Rstream => "rstream (Python)".to_owned(),
            Self::BareSocket => "bare socket".to_owned(),
        }
    }

    /// Appends events to a stream: how many a second.
    fn append(self, bench: &Bench, stream: &str) -> Result<f64> {
        match self {
            Self::Stream => run(bench, "stream-append", &["--stream", stream]),
            Self::Amqp => run(bench, "append-events", &["--stream", stream]),
            Self::Rstream => rstream(bench, "append", stream),
            Self::BareSocket => {
                bench.lesson(
                    "append-events",
                    &["--stream", stream, "--count", "1"].map(str::to_owned),
                )?;
                Ok(rate(EVENTS, raw_stream::append(bench.instance.ports.stream, stream, EVENTS)?))
            }
        }
    }

    /// Reads a stream from its start: how many events a second.
    fn read(self, bench: &Bench, stream: &str) -> Result<f64> {
        match self {
            Self::Stream => run(bench, "stream-read", &["--stream", stream]),
            Self::Amqp => run(bench, "read-events", &["--stream", stream, "--prefetch", "2000"]),
            Self::Rstream => rstream(bench, "read", stream),
            Self::BareSocket => {
                Ok(rate(EVENTS, raw_stream::read(bench.instance.ports.stream, stream, EVENTS)?))
            }
        }
    }
}

/// A program of the lesson.
fn run(bench: &Bench, name: &str, arguments: &[&str]) -> Result<f64> {
    let mut command = Command::new(program(name));
    command.args(arguments).args(["--count", &EVENTS.to_string()]);
    let start = Instant::now();
    bench.finish(bench.start(command)?)?;
    Ok(rate(EVENTS, start.elapsed()))
}

/// A program in Python, which says how many seconds it took, without the start of the interpreter.
fn rstream(bench: &Bench, what: &str, stream: &str) -> Result<f64> {
    let mut command = python(bench)?;
    command.arg(lab::root().join("lab/peers/streams.py"));
    command.args([
        &bench.instance.ports.stream.to_string(),
        "/",
        what,
        &EVENTS.to_string(),
        stream,
    ]);
    let seconds: f64 = bench.finish(bench.start(command)?)?.trim().parse()?;
    Ok(EVENTS as f64 / seconds)
}

fn python(bench: &Bench) -> Result<Command> {
    shared::python(Path::new(env!("CARGO_TARGET_TMPDIR")), &["rstream==1.1.1"], &bench.tasks)
}

pub fn streams(bench: &Bench) -> Result<Section> {
    let mut sides = vec![Side::Amqp, Side::BareSocket];
    // The clients in Rust and in Python ask RabbitMQ what only RabbitMQ 3.11 and later know.
    if bench.instance.management().version()? >= (3, 11) {
        sides.insert(0, Side::Stream);
        if python(bench).is_ok() {
            sides.insert(2, Side::Rstream);
        }
    }
    let task = bench.tasks.start("Measuring streams");
    let mut figures = [(); 2].map(|()| vec![Vec::new(); sides.len()]);
    for number in 0..ROUNDS {
        let stream = |side| format!("bench-{number}-{side}");
        for (index, side) in sides.iter().enumerate() {
            round(&task, number, &side.name("stream-append", "append-events"));
            figures[0][index].push(side.append(bench, &stream(index))?);
        }
        for (index, side) in sides.iter().enumerate() {
            round(&task, number, &side.name("stream-read", "read-events"));
            figures[1][index].push(side.read(bench, &stream(0))?); // all read the same
        }
    }
    task.done("Measured streams");
    let mut table = Table::comparing("events/s");
    let programs = [("stream-append", "append-events"), ("stream-read", "read-events")];
    for ((stream, amqp), figures) in programs.into_iter().zip(&figures) {
        let names: Vec<_> = sides.iter().map(|side| side.name(stream, amqp)).collect();
        for (name, other) in names.iter().zip(figures).skip(1) {
            table.rates(&names[0], &figures[0], name, other);
        }
    }
    Ok(Section {
        title: "Streams",
        text: format!(
            "{EVENTS} events of a few bytes, appended to a new stream until the last confirm, up to\n\
             1000 unconfirmed; then read from the first. The programs of lesson 9 print each event\n\
             that they read; rstream and the bare socket count it. All read the same stream, which\n\
             the first of them has appended. `read-events` has `--prefetch 2000`.\n\n\
             The *bare socket* is the upper limit. It speaks the stream protocol: it appends frames\n\
             that were built before the clock starts, and does not look into the chunks it reads."
        ),
        tables: vec![table],
        chart: None,
    })
}
