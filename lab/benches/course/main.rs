//! Throughput and latency of the lessons, of other clients and of a bare socket: `cargo lab bench`.
//!
//! Each round measures both sides of a ratio, one after the other. The report shows the medians.

mod build;
mod clients;
mod cluster;
mod faults;
mod growth;
mod orders;
mod queues;
mod raw;
mod raw_stream;
mod report;
mod rpc;
mod services;
#[path = "../../tests/shared/mod.rs"]
mod shared;
mod streams;

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use lab::bench::Benchmark;
use lab::guard::Guard;
use lab::play::INSTANCE;
use lab::progress::{Task, Tasks};
use lab::servers::Instance;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clients::Peer;

/// How often each figure is measured.
pub const ROUNDS: usize = 5;

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(300);

#[derive(Parser)]
struct Args {
    names: Vec<Benchmark>,
    #[arg(long)]
    write: bool,
    /// cargo itself adds it
    #[arg(long)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let names = match args.names.is_empty() {
        true => Benchmark::value_variants(),
        false => &args.names,
    };
    let folder = env::var_os(INSTANCE).context("run this with `cargo lab bench`")?;
    let instance = Instance::load(Path::new(&folder)).context("the servers do not run")?;
    // ends our programs, however we end
    let programs = env::temp_dir().join(format!("rabbitmq-course-bench-{}", std::process::id()));
    let guard = Guard::over(Path::new(env!("CARGO_BIN_EXE_lab")), &programs)?;
    let tasks = Tasks::default();
    shared::compile_lessons(&tasks)?;
    let mut bench = Bench { instance, guard: Arc::new(guard), tasks, peers: Vec::new() };
    let mut missing = String::new();
    for peer in [Peer::Pika, Peer::Amqplib, Peer::Amqprs, Peer::AmqpClient] {
        match peer.command(&bench) {
            Ok(_) => bench.peers.push(peer),
            Err(error) => {
                missing +=
                    &format!("\nNot measured, because it is not available: {peer}. {error:#}\n")
            }
        }
    }

    let runtime = tokio::runtime::Runtime::new()?; // as the lessons have it
    let mut sections = Vec::new();
    for name in names {
        let measure = async {
            match name {
                Benchmark::Start => clients::start(&bench),
                Benchmark::Publish => clients::publish(&bench).await,
                Benchmark::Consume => clients::consume(&bench).await,
                Benchmark::WorkQueue => queues::work_queue(&bench).await,
                Benchmark::FanOut => queues::fan_out(&bench),
                Benchmark::Orders => orders::orders(&bench).await,
                Benchmark::Services => services::services(&bench),
                Benchmark::Rpc => rpc::rpc(&bench).await,
                Benchmark::Streams => streams::streams(&bench),
                Benchmark::Cluster => cluster::cluster(&bench).await,
                Benchmark::Faults => faults::faults(&bench),
                Benchmark::Growth => growth::growth(&bench).await,
                Benchmark::Build => build::build(&bench),
            }
        };
        let section = runtime.block_on(measure)?;
        print!("{}", report::markdown(std::slice::from_ref(&section), None)?);
        sections.push(section);
    }
    eprint!("{missing}");
    if args.write {
        let charts = lab::root().join("lab/benches/charts");
        fs::create_dir_all(&charts)?;
        let [page, front] = ["BENCHMARKS.md", "README.md"].map(|page| lab::root().join(page));
        let [old, readme] = [&page, &front].map(fs::read_to_string);
        let measured = bench.measured()? + &missing;
        let text = report::written(&old?, &sections, &measured, &charts)?;
        fs::write(front, shared::speeds::put(&readme?, &text)?)?;
        fs::write(page, text)?;
        println!("\nWritten: BENCHMARKS.md, and the speeds in README.md");
    }
    Ok(())
}

#[derive(Clone)]
pub struct Bench {
    pub instance: Instance,
    guard: Arc<Guard>,
    pub tasks: Tasks,
    /// Those that can be had.
    pub peers: Vec<Peer>,
}

impl Bench {
    /// The same with other servers.
    pub fn with(&self, instance: Instance) -> Self {
        Self { instance, ..self.clone() }
    }

    /// Starts a program with these servers; its standard output can be read.
    pub fn start(&self, mut program: Command) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        let child = program
            .env("AMQP_URL", self.instance.amqp_url())
            .env("STREAM_URL", self.instance.stream_url())
            .env("MYSQL_URL", self.instance.mysql_url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program:?}"))?;
        self.guard.adopt(child.id());
        Ok(child)
    }

    /// Waits for the end of a program, which must succeed: what it printed.
    pub fn finish(&self, child: Child) -> Result<String> {
        let id = child.id();
        let output = child.wait_with_output()?;
        self.guard.release(id);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("a program failed: {}: {printed}", output.status);
        }
        Ok(printed)
    }

    /// Ctrl-C; then as [`Bench::finish`].
    pub fn stop(&self, child: Child) -> Result<String> {
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        self.finish(child)
    }

    /// Runs a program of a lesson to its end: what it printed.
    pub fn lesson(&self, name: &str, arguments: &[String]) -> Result<String> {
        let mut command = Command::new(program(name));
        command.args(arguments);
        self.finish(self.start(command)?)
    }

    pub async fn connect(&self) -> Result<Connection> {
        let properties = ConnectionProperties::default();
        Ok(Connection::connect(&self.instance.amqp_url(), properties).await?)
    }

    /// Empties a queue: how many messages it held.
    pub async fn purge(&self, queue: &str) -> Result<u64> {
        let connection = self.connect().await?;
        let channel = connection.create_channel().await?;
        let purged = channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        connection.close(200, "Goodbye".into()).await?;
        Ok(purged.into())
    }

    /// Waits until a queue has that many consumers.
    pub async fn wait_for_consumers(&self, queue: &str, count: usize) -> Result<()> {
        let connection = self.connect().await?;
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let begin = Instant::now();
        loop {
            let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            if queue.consumer_count() as usize == count {
                break;
            }
            ensure!(begin.elapsed() < LIMIT, "the consumers do not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(connection.close(200, "Goodbye".into()).await?)
    }

    /// When and where this was measured, for a section of BENCHMARKS.md.
    fn measured(&self) -> Result<String> {
        let output = |program: &str, arguments: &[&str]| -> String {
            let output = Command::new(program).args(arguments).output();
            let output = output.map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&output).trim().to_owned()
        };
        let version = |program: &str| -> String {
            let version = output(program, &["--version"]);
            let words = version.split(' ').filter(|word| word.contains('.'));
            words.take(1).map(|version| version.trim_start_matches('v')).collect()
        };
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let overview = self.instance.management().get("overview")?;
        Ok(format!(
            "Measured on {}, on {} cores ({}).\n\
             RabbitMQ {} (Erlang/OTP {}), {},\n\
             rustc {}, Python {}, Node.js {}.\n",
            output("date", &["-u", "+%F"]),
            thread::available_parallelism()?,
            processor.unwrap_or(env::consts::ARCH).trim_matches([' ', '\t', ':']),
            overview["rabbitmq_version"].as_str().unwrap_or("?"),
            overview["erlang_version"].as_str().unwrap_or("?"),
            self.database(),
            version("rustc"),
            version("python3"),
            version("node"),
        ))
    }

    fn database(&self) -> String {
        use lab::servers::probe::Answer;
        match self.instance.probe(lab::servers::Service::Mysql) {
            Answer::Server(name) => name,
            _ => String::new(),
        }
    }
}

/// A program of a lesson, compiled.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name(name)
}

pub fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

pub fn round(task: &Task, round: usize, what: &str) {
    task.say(&format!("round {} of {ROUNDS}: {what}", round + 1));
}

/// Counts the lines of several programs as they come.
#[derive(Clone, Default)]
pub struct Lines(Arc<AtomicU64>);

impl Lines {
    /// Reads in a thread of its own, until the program ends.
    pub fn count(&self, output: Option<ChildStdout>) {
        let lines = self.clone();
        thread::spawn(move || {
            let mut output = output?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = output.read(&mut buffer).ok().filter(|read| *read > 0)?;
                let new = buffer[..read].iter().filter(|byte| **byte == b'\n').count();
                lines.0.fetch_add(new as u64, Ordering::Relaxed);
            }
            #[allow(unreachable_code)]
            None::<()>
        });
    }

    pub fn wait_for(&self, count: u64) -> Result<()> {
        let begin = Instant::now();
        while self.0.load(Ordering::Relaxed) < count {
            ensure!(begin.elapsed() < LIMIT, "not all messages came");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
