//! A program in a terminal of its own: a process group of its own, so that a key such as Ctrl-C
//! reaches all of it and nothing else, and what it prints line by line.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::guard::Guard;
use crate::process::wait_until;

/// Dropped, it ends what still runs in it.
pub struct Terminal<'a> {
    child: Child,
    lines: Receiver<String>,
    guard: &'a Guard,
}

impl<'a> Terminal<'a> {
    /// Starts the command; `guard` ends it if we end before it does.
    pub fn start(mut command: Command, guard: &'a Guard) -> Result<Self> {
        let (reader, writer) = io::pipe()?;
        let child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        drop(command); // and with it our own ends of the pipe
        guard.adopt(child.id());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, guard })
    }

    pub fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The next line. `Disconnected`: there will be none.
    pub fn line(&self, limit: Duration) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(limit)
    }

    pub fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process_group(self.group(), signal)
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, and says how it ended.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_until(limit, || self.has_ended()).context("the program does not end")?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        self.guard.release(self.child.id());
    }
}
