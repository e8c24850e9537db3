//! The command line of the lab: `cargo lab`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::bench::Benchmark;
use lab::progress::Tasks;
use lab::servers::{NODES, Server};
use lab::{control, exercise, guard, jobs, new, signals, status, up};

/// The lab of the RabbitMQ course: it starts the servers, and plays and tests the lessons.
///
/// `play`, `exercise`, `test`, `bench` and `faults` install what is missing, and say so first.
#[derive(Parser)]
#[command(bin_name = "cargo lab")]
struct Args {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Run the commands of a lesson's README, and compare what they print
    ///
    /// A lesson is played with servers of its own, at free ports, which are gone when it ends.
    Play {
        /// Lessons by number or name [default: all]
        lessons: Vec<String>,
    },
    /// Make a project of your own out of a lesson
    ///
    /// It has the programs of the lesson, tests, an image, and a README.
    New {
        /// Where: a folder that is not there yet, or is empty
        folder: PathBuf,
        /// The lesson, by number or name
        #[arg(long)]
        from: String,
        /// The name of the package [default: that of the folder]
        #[arg(long)]
        name: Option<String>,
    },
    /// Show the exercises, check one, or check each as you go
    ///
    /// Without a name: which are done, and the next one.
    Exercise(Exercise),
    /// Run all tests
    Test {
        /// Passed on to `cargo test`
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
        /// Passed on to the tests
        #[arg(last = true)]
        tests: Vec<String>,
    },
    /// Measure the throughput and the latency of the lessons, and of other clients
    Bench {
        /// What to measure [default: everything]
        names: Vec<Benchmark>,
        /// Write what was measured into BENCHMARKS.md, its charts, and the front page
        #[arg(long)]
        write: bool,
    },
    /// Break servers and programs at random while lessons run, and count lost messages
    ///
    /// It kills and pauses programs and servers, closes connections, sets off alarms, locks tables
    /// and deletes users while lessons 2 to 9 and 11 run. Then it compares what was sent with what
    /// has arrived.
    Faults {
        /// How many minutes
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// The seed of an earlier run, to repeat its faults
        #[arg(long)]
        seed: Option<u64>,
        /// How many nodes RabbitMQ has. With 3, lessons 2, 5, 7 and 9 to 11 run
        #[arg(long, value_parser = nodes, default_value_t = 1)]
        nodes: usize,
    },
    /// Find RabbitMQ and MySQL, or start them
    Up {
        /// How many nodes RabbitMQ has: 1, or 3 that are one cluster
        #[arg(long, value_parser = nodes)]
        nodes: Option<usize>,
    },
    /// Stop the servers that `up` has started
    Down {
        /// Delete their data, too: queues, messages, tables
        #[arg(long)]
        wipe: bool,
    },
    /// Show the servers, and each queue with its messages and consumers
    Status {
        /// Show it again each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Stop a server that `up` has started: `rabbitmq`, `mysql`, or a node, `rabbit2`
    Stop {
        /// Kill it (kill -9) instead of stopping it cleanly
        #[arg(long)]
        kill: bool,
        server: Server,
    },
    /// Start a server that `stop` has stopped
    Start { server: Server },
    /// Stop a server that `up` has started, and start it again
    Restart {
        /// Kill it (kill -9) instead of stopping it cleanly
        #[arg(long)]
        kill: bool,
        server: Server,
    },
    /// Let a server that `up` has started stand still (SIGSTOP), as on a network that is cut
    Pause { server: Server },
    /// Let a server go on that stands still
    Resume { server: Server },
    /// Delete all queues and tables in the servers that `up` has started, to begin again
    Reset,
    /// Run RabbitMQ's command line tool for the RabbitMQ that `up` has started
    Rabbitmqctl(Tool),
    /// The same for RabbitMQ's `rabbitmq-queues`
    RabbitmqQueues(Tool),
    /// The same for RabbitMQ's `rabbitmq-upgrade`
    RabbitmqUpgrade(Tool),
    /// Run an SQL statement in the MySQL that `up` has found or started
    Mysql { statement: String },
    /// Watch over temporary servers until standard input ends
    #[command(hide = true)]
    Guard { folder: PathBuf },
}

#[derive(clap::Args)]
struct Exercise {
    /// Check this one; `next` is the first that is not done
    name: Option<String>,
    #[command(flatten)]
    what: What,
}

/// One of these, or none.
#[derive(clap::Args)]
#[group(multiple = false)]
struct What {
    /// Check the next one whenever its file is saved, and go on to the one after it
    #[arg(long, conflicts_with = "name")]
    watch: bool,
    /// Show a hint
    #[arg(long)]
    hint: bool,
    /// Show a solution, and why it is one
    #[arg(long)]
    solution: bool,
    /// Begin again; your file is kept beside the new one
    #[arg(long, requires = "name")]
    reset: bool,
}

#[derive(clap::Args)]
struct Tool {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<String>,
}

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(nodes @ (1 | NODES)) => Ok(nodes),
        _ => Err("1 or 3".to_owned()),
    }
}

fn main() -> ExitCode {
    let result = command(Args::parse().command);
    signals::settle();
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Cmd) -> Result<ExitCode> {
    match command {
        Cmd::Play { lessons } => jobs::play(&lessons)?,
        Cmd::New { folder, from, name } => new::new(&folder, &from, name.as_deref())?,
        Cmd::Exercise(exercise) => return exercises(&exercise),
        Cmd::Test { arguments, tests } => return jobs::test([arguments, tests]),
        Cmd::Bench { names, write } => return jobs::bench(&names, write),
        Cmd::Faults { minutes, seed, nodes } => return jobs::faults(minutes, seed, nodes),
        Cmd::Up { nodes } => up::up(nodes, &Tasks::default())?,
        Cmd::Down { wipe } => up::down(wipe)?,
        Cmd::Status { watch: true } => status::watch()?,
        Cmd::Status { watch: false } => status::status()?,
        Cmd::Stop { kill, server } => control::stop(server, kill)?,
        Cmd::Start { server } => control::start(server)?,
        Cmd::Restart { kill, server } => control::restart(server, kill)?,
        Cmd::Pause { server } => control::pause(server, true)?,
        Cmd::Resume { server } => control::pause(server, false)?,
        Cmd::Reset => control::reset()?,
        Cmd::Rabbitmqctl(tool) => return rabbitmq("rabbitmqctl", &tool),
        Cmd::RabbitmqQueues(tool) => return rabbitmq("rabbitmq-queues", &tool),
        Cmd::RabbitmqUpgrade(tool) => return rabbitmq("rabbitmq-upgrade", &tool),
        Cmd::Mysql { statement } => return Ok(code(control::mysql(&statement)?)),
        Cmd::Guard { folder } => guard::main(folder)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exercises(Exercise { name, what }: &Exercise) -> Result<ExitCode> {
    let name = name.as_deref();
    match what {
        What { watch: true, .. } => exercise::watch()?,
        What { hint: true, .. } => exercise::hint(name)?,
        What { solution: true, .. } => exercise::solution(name)?,
        What { reset: true, .. } => exercise::reset(name)?,
        _ if name.is_some() => return exercise::check(name),
        _ => exercise::show()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rabbitmq(name: &str, tool: &Tool) -> Result<ExitCode> {
    Ok(code(control::rabbitmq_tool(name, &tool.arguments)?))
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
