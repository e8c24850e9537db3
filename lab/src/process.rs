//! Processes that outlive us, and how to end exactly those and no others.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};

use crate::progress::Task;

/// A process group that was started by us, remembered in a file: its number, and when its leader
/// was started, because the system gives a number to another process once the first is gone.
pub struct Group {
    id: i32,
    started: String,
}

impl Group {
    /// Starts the command as the leader of a group of its own, with its output in `log`, and
    /// remembers it in `file`.
    pub fn start(mut command: Command, log: &Path, file: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Self::remember(child.id(), file)
    }

    /// The group of this leader, which has just been started; writes it to `file`.
    fn remember(id: u32, file: &Path) -> Result<Self> {
        let id = id as i32;
        let started = started(id).unwrap_or_default();
        fs::write(file, format!("{id} {started}"))?;
        Ok(Self { id, started })
    }

    /// The group that `file` remembers, if its leader still runs.
    pub fn find(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (id, start) = text.trim().split_once(' ')?;
        let group = Self { id: id.parse().ok()?, started: start.to_owned() };
        group.is_alive().then_some(group)
    }

    pub fn is_alive(&self) -> bool {
        // If it is a child of ours, take its exit status, or it stays in the table of processes.
        let _ = waitpid(Pid::from_raw(self.id), WaitOptions::NOHANG);
        started(self.id).is_some_and(|started| started == self.started)
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(id) = Pid::from_raw(self.id).filter(|_| self.is_alive()) {
            let _ = kill_process_group(id, signal);
        }
    }

    /// Ends the group with the signal, or with SIGKILL if it is still there after `limit`.
    pub fn end(&self, signal: Signal, limit: Duration) -> Result<()> {
        self.signal(signal);
        self.signal(Signal::CONT); // what stands still would not hear it
        if wait_until(limit, || !self.is_alive()).is_err() {
            self.signal(Signal::KILL);
            wait_until(Duration::from_secs(10), || !self.is_alive())
                .with_context(|| format!("process {} does not end", self.id))?;
        }
        Ok(())
    }
}

/// When a process was started, in the system's own words; `None` if there is none of that number,
/// or only a dead one that nobody has asked after.
fn started(id: i32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // proc_pid_stat(5): the name, in parentheses, may contain anything; the state comes after
        // it, and the start time is the 20th field from there.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        (fields.first() != Some(&"Z")).then(|| fields.get(19).map(|&field| field.to_owned()))?
    } else {
        let ps = Command::new("ps")
            .args(["-o", "lstart=,stat=", "-p", &id.to_string()])
            .envs([("LC_ALL", "C"), ("TZ", "UTC")]) // the same words whoever asks
            .output()
            .ok()?;
        let line = String::from_utf8(ps.stdout).ok()?;
        let (start, state) = line.trim().rsplit_once(' ')?;
        (!state.starts_with('Z')).then(|| start.trim().to_owned())
    }
}

/// Waits until `done`, looking often at first; an error after `limit`.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    const SELDOM: Duration = Duration::from_millis(400);
    let start = Instant::now();
    let mut pause = Duration::from_millis(25);
    while !done() {
        if start.elapsed() > limit {
            bail!("waited {} s", limit.as_secs());
        }
        thread::sleep(pause);
        pause = SELDOM.min(pause * 5 / 4);
    }
    Ok(())
}

/// Runs a command to its end, its last line of output shown as the state of `task`. If it fails,
/// the error holds the end of its output.
pub fn run(task: &Task, command: Command) -> Result<()> {
    run_and(task, command, |_| Ok(()))
}

/// Like [`run`], as the leader of a [`Group`] that `file` remembers.
pub fn run_in_group(task: &Task, mut command: Command, file: &Path) -> Result<()> {
    command.process_group(0);
    run_and(task, command, |id| Group::remember(id, file).map(drop))
}

fn run_and(
    task: &Task,
    mut command: Command,
    started: impl FnOnce(u32) -> Result<()>,
) -> Result<()> {
    let (reader, writer) = io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let what = format!("{command:?}");
    drop(command); // and with it our own ends of the pipe
    started(child.id())?;
    let mut output = Vec::new();
    for line in BufReader::new(reader).lines() {
        let line = line.unwrap_or_default();
        task.say(&line);
        output.push(line);
    }
    if !child.wait()?.success() {
        let end = output[output.len().saturating_sub(60)..].join("\n");
        bail!("{what} failed:\n{end}");
    }
    Ok(())
}

/// A cargo that does not notice that we were started by a cargo: build scripts (that of `ring`, for
/// one) look at its variables, and much would be compiled again each time one is set or not.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    without_cargo(&mut command);
    command
}

/// Takes from a command's environment what cargo has set for us.
pub fn without_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let ours =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// The first of these programs that is in one of these folders, or else in PATH.
pub fn find_program(folders: &[&str], names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = folders.iter().map(PathBuf::from);
    let folders: Vec<_> = folders.chain(env::split_paths(&path)).collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

/// Writes a line to the guard, see [`crate::guard`].
pub fn tell(mut guard: impl Write, line: &str) {
    let _ = writeln!(guard, "{line}").and_then(|()| guard.flush());
}
