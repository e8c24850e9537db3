//! Servers to break, and the programs of the lessons with them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::guard::Guard;
use lab::instance::{Instance, Service};
use lab::progress::Tasks;
use lab::terminal::Terminal;
use mysql_async::Conn;
use mysql_async::prelude::{FromRow, Queryable};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::runtime::Runtime;

use crate::tally::Tally;

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
    /// At how many bytes RabbitMQ raises its alarms: of memory that it uses, of disk that is free.
    pub limits: [String; 2],
    pub start: Instant,
    tally: Mutex<Tally>,
    /// Programs that send are started, and those that have ended are started again.
    pub sending: AtomicBool,
    pub running: AtomicBool,
}

impl World {
    pub fn new(
        instance: Instance,
        guard: Guard,
        tasks: Tasks,
        folder: PathBuf,
        programs: Vec<Program>,
    ) -> Result<Self> {
        let nodes = instance.management("nodes")?;
        let limits = ["mem_limit", "disk_free_limit"].map(|limit| nodes[0][limit].to_string());
        Ok(Self {
            limits,
            instance,
            guard,
            tasks,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            folder,
            programs,
            start: Instant::now(),
            tally: Mutex::default(),
            sending: AtomicBool::new(true),
            running: AtomicBool::new(true),
        })
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    pub fn sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    pub fn program(&self, name: &str) -> Result<&Program> {
        let mut programs = self.programs.iter();
        let program = programs.find(|program| program.name == name);
        program.with_context(|| format!("there is no {name}"))
    }

    pub fn query<T: FromRow + Send + 'static>(&self, sql: &str) -> Result<Vec<T>> {
        self.runtime.block_on(async {
            let mut connection = Conn::from_url(self.instance.mysql_url()).await?;
            let rows = connection.query(sql).await?;
            connection.disconnect().await?;
            Ok(rows)
        })
    }

    /// Runs RabbitMQ's own command line tool: what it prints.
    pub fn rabbitmqctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.instance.rabbitmqctl()?;
        let output = command.arg("--quiet").args(arguments).output()?;
        if !output.status.success() {
            bail!(
                "{command:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Keeps what a server has said. A server that is started again begins a new log.
    pub fn keep_log(&self, service: Service) -> Result<()> {
        let file = self.folder.join(format!("{}.log", service.name()));
        let mut kept = OpenOptions::new().append(true).create(true).open(file)?;
        Ok(kept.write_all(&fs::read(self.instance.log(service))?)?)
    }

    pub fn signal_all(&self, signal: Signal) {
        for program in &self.programs {
            program.signal(signal);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a program does.
pub enum Heard<'a> {
    Line(&'a str),
    Ended,
}

/// A program that is run again and again, one process at a time.
pub struct Program {
    /// The name of the program, and a number if it runs several times.
    pub name: &'static str,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    group: Mutex<Option<Pid>>,
    log: Mutex<File>,
    /// It waits for messages.
    pub waits: AtomicBool,
    /// How many lines have told of something done: they begin with ` [x] `.
    pub worked: AtomicU64,
}

impl Program {
    pub fn new(
        name: &'static str,
        folder: &std::path::Path,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self {
            name,
            command: Box::new(command),
            group: Mutex::default(),
            log: Mutex::new(File::create(folder.join(format!("{name}.log")))?),
            waits: AtomicBool::new(false),
            worked: AtomicU64::new(0),
        })
    }

    /// Signals it, if it runs.
    pub fn signal(&self, signal: Signal) {
        // With the lock held nobody asks how it has ended, so the number is not given to another process.
        if let Some(group) = *lock(&self.group) {
            let _ = killpg(group, signal);
        }
    }

    pub fn is_running(&self) -> bool {
        lock(&self.group).is_some()
    }

    /// Runs it to its end: how it has ended, and its last line. A line must come within `limit`.
    fn run(
        &self,
        world: &World,
        arguments: &[&str],
        limit: Duration,
        mut heard: impl FnMut(&str),
    ) -> Result<(ExitStatus, String)> {
        let mut command = (self.command)();
        command.args(arguments);
        let mut group = lock(&self.group);
        if !world.running.load(Ordering::Relaxed) {
            bail!("it is too late to start {}", self.name);
        }
        let mut terminal = Terminal::start(command, &world.guard)?;
        *group = Some(terminal.group());
        drop(group);
        let mut last = String::new();
        let result = loop {
            match terminal.line(limit) {
                Ok(line) => {
                    let seconds = world.start.elapsed().as_secs_f64();
                    writeln!(lock(&self.log), "{seconds:9.3} {line}")?;
                    if line.starts_with(" [x] ") {
                        self.worked.fetch_add(1, Ordering::Relaxed);
                    } else if line.starts_with(" [*] Waiting") {
                        self.waits.store(true, Ordering::Relaxed);
                    }
                    heard(&line);
                    last = line;
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
                Err(RecvTimeoutError::Timeout) => break Err(()),
            }
        };
        *lock(&self.group) = None;
        match result {
            Ok(()) => Ok((terminal.wait(LIMIT)?, last)),
            Err(()) => bail!("{} hangs, with {arguments:?}", self.name),
        }
    }

    /// Runs a program that sends something and ends: whether it has succeeded, and its last line.
    pub fn send(&self, world: &World, arguments: &[&str]) -> (bool, String) {
        let (status, last) = match self.run(world, arguments, LIMIT, |_| ()) {
            Ok(ended) => ended,
            Err(error) => {
                world.tally().wrong.push(error.to_string());
                return (false, String::new());
            }
        };
        let said_why = status.code() == Some(1) && last.starts_with("Error: ");
        if !(status.success() || said_why) {
            let name = self.name;
            let wrong = format!("{name} {arguments:?} ended with {status}: {last}");
            world.tally().wrong.push(wrong);
        }
        (status.success(), last)
    }

    /// Runs a program that goes on until Ctrl-C, and again whenever it ends, as a supervisor would.
    /// It is one of `ours`, if it should not end once it is waiting for messages.
    pub fn supervise(&self, world: &World, ours: bool, mut heard: impl FnMut(&mut Tally, Heard)) {
        while world.running.load(Ordering::Relaxed) {
            self.waits.store(false, Ordering::Relaxed);
            let ended = self.run(world, &[], Duration::MAX, |line| {
                heard(&mut world.tally(), Heard::Line(line));
            });
            let waited = self.waits.load(Ordering::Relaxed);
            let mut tally = world.tally();
            heard(&mut tally, Heard::Ended);
            let asked = !world.running.load(Ordering::Relaxed);
            match ended {
                Ok((status, last)) if ours && waited => {
                    use std::os::unix::process::ExitStatusExt;
                    let killed = status.signal() == Some(Signal::SIGKILL as i32);
                    if !(killed || asked && status.success()) {
                        let wrong = format!("{} ended with {status}: {last}", self.name);
                        tally.wrong.push(wrong);
                    }
                }
                Err(error) if !asked => tally.wrong.push(error.to_string()),
                _ => {}
            }
            drop(tally);
            thread::sleep(DOWN);
        }
    }
}
