//! Servers to break, and the programs of the lessons with them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::guard::Guard;
use lab::progress::Tasks;
use lab::servers::{Backend, Instance, Service};
use lab::terminal::Terminal;
use mysql_async::Conn;
use mysql_async::prelude::{FromRow, Queryable};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::runtime::Runtime;

use super::programs::Role;
use super::tally::Tally;

/// How long anything may take when nothing is broken, and how long a program that sends may take
/// whatever is: longer than any fault.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How long a program is down that has ended.
const DOWN: Duration = Duration::from_millis(300);

pub struct World {
    pub instance: Instance,
    pub guard: Guard,
    pub tasks: Tasks,
    pub runtime: Runtime,
    /// What the servers and the programs say.
    pub folder: PathBuf,
    pub programs: Vec<Program>,
    pub start: Instant,
    pub tally: Mutex<Tally>,
    /// Programs that send are started, and those that have ended are started again.
    pub sending: AtomicBool,
    pub running: AtomicBool,
}

impl World {
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub fn sending(&self) -> bool {
        self.sending.load(Relaxed)
    }

    pub fn program(&self, name: &str) -> Result<&Program> {
        let mut programs = self.programs.iter();
        let program = programs.find(|program| program.name == name);
        program.with_context(|| format!("there is no {name}"))
    }

    pub fn query<T: FromRow + Send + 'static>(&self, sql: &str) -> Result<Vec<T>> {
        self.query_as("guest", sql)
    }

    pub fn query_as<T: FromRow + Send + 'static>(&self, user: &str, sql: &str) -> Result<Vec<T>> {
        let url = self.instance.mysql_url().replace("guest:guest", &format!("{user}:{user}"));
        self.runtime.block_on(async {
            let mut connection = Conn::from_url(url).await?;
            let rows = connection.query(sql).await?;
            connection.disconnect().await?;
            Ok(rows)
        })
    }

    /// Runs RabbitMQ's own command line tool: what it prints.
    pub fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.instance.rabbitmqctl()?;
        let output = command.arg("--quiet").args(arguments).output()?;
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        ensure!(output.status.success(), "rabbitmqctl {arguments:?}: {said:?}");
        let [printed, _] = said;
        Ok(printed)
    }

    /// The address of a broker, or of a node of it.
    pub fn one_address(&self) -> String {
        let urls = self.instance.amqp_url();
        let urls: Vec<_> = urls.split(',').collect();
        fastrand::choice(urls).unwrap_or_default().to_owned()
    }

    /// Starts those nodes that do not run, and waits until all are one cluster.
    pub fn start_all_nodes(&self) -> Result<()> {
        self.instance.start(&[Service::Rabbitmq], &self.tasks.quietly())
    }

    /// Keeps what a server has said. A server that is started again begins a new log.
    pub fn keep_log(&self, service: Service) -> Result<()> {
        let file = self.folder.join(format!("{}.log", service.name()));
        let all = self.instance.backend == Backend::Docker; // the log is not a new one
        let mut kept =
            OpenOptions::new().append(!all).write(true).truncate(all).create(true).open(file)?;
        Ok(kept.write_all(self.instance.log(service).as_bytes())?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that is run again and again, one process at a time.
pub struct Program {
    /// The name of its file, and a number if it runs several times.
    pub name: &'static str,
    pub role: Role,
    command: Command,
    group: Mutex<Option<Pid>>,
    log: Mutex<File>,
    /// It has said that it waits for messages.
    pub waits: AtomicBool,
    /// It has told of something done.
    pub worked: AtomicBool,
}

impl Program {
    /// What it says is written into the folder.
    pub fn new(name: &'static str, role: Role, command: Command, folder: &Path) -> Result<Self> {
        Ok(Self {
            name,
            role,
            command,
            group: Mutex::default(),
            log: Mutex::new(File::create(folder.join(format!("{name}.log")))?),
            waits: AtomicBool::new(false),
            worked: AtomicBool::new(false),
        })
    }

    /// Signals it, if it runs.
    pub fn signal(&self, signal: Signal) {
        // With the lock held nobody asks how it has ended, so its number is not another process's
        // yet.
        if let Some(group) = *lock(&self.group) {
            let _ = kill_process_group(group, signal);
        }
    }

    pub fn is_running(&self) -> bool {
        lock(&self.group).is_some()
    }

    /// Runs it to its end: how it has ended, and its last line but for notes.
    fn run(
        &self,
        world: &World,
        argument: Option<&str>,
        mut heard: impl FnMut(&str),
    ) -> Result<(ExitStatus, String)> {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args()).args(argument);
        let variables = self.command.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        let mut group = lock(&self.group);
        ensure!(world.running.load(Relaxed), "it is too late for {}", self.name);
        let mut terminal = Terminal::start(command, &world.guard)?;
        *group = Some(terminal.group());
        drop(group);
        self.waits.store(false, Relaxed);
        let limit = if self.role == Role::Send { LIMIT } else { Duration::MAX };
        let mut last = String::new();
        let end = loop {
            match terminal.line(limit) {
                Ok(line) => {
                    let seconds = world.start.elapsed().as_secs_f64();
                    writeln!(lock(&self.log), "{seconds:9.3} {line}")?;
                    self.waits.fetch_or(line.starts_with(" [*] Waiting"), Relaxed);
                    let worked = [" [x] ", " [.] "].iter().any(|sign| line.starts_with(sign));
                    self.worked.fetch_or(worked, Relaxed);
                    heard(&line);
                    // (A connection may be lost when all is done.)
                    if !line.starts_with(" [!] ") {
                        last = line;
                    }
                }
                Err(end) => break end,
            }
        };
        *lock(&self.group) = None;
        ensure!(end == RecvTimeoutError::Disconnected, "{} hangs", self.name);
        Ok((terminal.wait(LIMIT)?, last))
    }

    /// Runs a program that sends something and ends: whether it has succeeded, and its last line.
    pub fn send(&self, world: &World, argument: &str) -> (bool, String) {
        let ended = self.run(world, Some(argument), |_| ());
        let (wrong, result) = match ended {
            Ok((status, last)) if status.success() => (None, (true, last)),
            Ok((status, last)) if status.code() == Some(1) && last.starts_with("Error: ") => {
                (None, (false, last))
            }
            Ok((status, last)) => (Some(format!("ended with {status}: {last}")), (false, last)),
            // Everything has come to its end just before it was started.
            Err(_) if !world.running.load(Relaxed) => (None, (false, String::new())),
            Err(error) => (Some(error.to_string()), (false, String::new())),
        };
        if let Some(wrong) = wrong {
            let wrong = format!("{} {argument}: {wrong}", self.name);
            world.tally().wrong.push(wrong);
        }
        result
    }

    /// Runs a program that goes on until Ctrl-C, and again whenever it ends, as a supervisor would.
    pub fn supervise(&self, world: &World) {
        let mut task = None;
        let publishes = self.role == Role::Publish;
        let goes_on = || if publishes { world.sending() } else { world.running.load(Relaxed) };
        while goes_on() {
            let ended = self.run(world, None, |line| {
                self.role.hear(&mut world.tally(), &mut task, Some(line));
            });
            let mut tally = world.tally();
            self.role.hear(&mut tally, &mut task, None);
            // One that was just starting may not have found what it needs, and has said so.
            if let Ok((status, last)) = ended
                && self.role != Role::Other
                && (self.waits.load(Relaxed) || publishes)
                && status.signal() != Some(Signal::KILL.as_raw())
                && (goes_on() || !status.success())
            {
                let wrong = format!("{} ended with {status}: {last}", self.name);
                tally.wrong.push(wrong);
            }
            drop(tally);
            thread::sleep(DOWN);
        }
    }
}
