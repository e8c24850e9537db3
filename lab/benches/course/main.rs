//! How fast the lessons are, beside others and beside the limits: `cargo lab bench`.
//!
//! Both sides of a ratio are measured in turn, several times over; what is shown is the median.

mod orders;
mod raw;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use lab::guard::Guard;
use lab::instance::Instance;
use lab::play::INSTANCE;
use lab::progress::{Task, Tasks};

/// How often each figure is measured.
pub const ROUNDS: usize = 5;

fn main() -> Result<()> {
    // cargo itself adds `--bench`
    for name in env::args().skip(1).filter(|name| name != "--bench") {
        ensure!(
            name == "orders",
            "there is no benchmark `{name}`; there is orders"
        );
    }
    let folder = env::var_os(INSTANCE).context("run this with `cargo lab bench`")?;
    let instance = Instance::load(Path::new(&folder)).context("the servers do not run")?;
    // ends our programs, however we end
    let programs = env::temp_dir().join(format!("rabbitmq-course-bench-{}", std::process::id()));
    let guard = Guard::over(Path::new(env!("CARGO_BIN_EXE_lab")), &programs)?;
    let bench = Bench {
        instance,
        guard,
        tasks: Tasks::default(),
    };
    lab::compile_lessons(&bench.tasks)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(orders::orders(&bench))
}

pub struct Bench {
    pub instance: Instance,
    guard: Guard,
    pub tasks: Tasks,
}

impl Bench {
    /// Starts a program with these servers; its standard output can be read.
    pub fn start(&self, mut program: Command) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        let child = program
            .env("AMQP_URL", self.instance.amqp_url())
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

    /// Runs a program of a lesson to its end: what it printed.
    pub fn lesson(&self, name: &str, arguments: &[String]) -> Result<String> {
        let mut command = Command::new(program(name));
        command.args(arguments);
        self.finish(self.start(command)?)
    }
}

/// A program of a lesson, compiled.
pub fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lab")).with_file_name(name)
}

pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Prints a line of the result: ours, theirs, and the median of the ratios of each round.
pub fn compare(what: &str, ours: &[f64], other: &str, theirs: &[f64]) {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    println!(
        "{what:<42} {:>8.0} | {other:<44} {:>8.0} | {:>6.2}",
        median(ours),
        median(theirs),
        median(&ratios)
    );
}

pub fn round(task: &Task, round: usize, what: &str) {
    task.say(&format!("round {} of {ROUNDS}: {what}", round + 1));
}
