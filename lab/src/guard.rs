//! Nothing is left running, however a program ends: a second process waits for the end of the
//! first, by Ctrl-C, a panic or `kill -9`, and then ends what the first has started.

use std::fs;
use std::io::{self, BufRead};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::process::tell;
use crate::servers::Instance;

/// Watches over this process until it is dropped.
pub struct Guard {
    process: Mutex<Child>,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Watches over the servers in a folder, and the folder. `lab` is the lab's own program.
    pub fn over(lab: &Path, folder: &Path) -> Result<Self> {
        let mut process = Command::new(lab)
            .arg("guard")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // a Ctrl-C in the terminal is not meant for it
            .spawn()
            .with_context(|| format!("cannot start {}", lab.display()))?;
        let pipe = Mutex::new(process.stdin.take());
        Ok(Self { process: Mutex::new(process), pipe })
    }

    /// Also ends this process group, which has just been started.
    pub fn adopt(&self, group: u32) {
        self.tell(&format!("+{group}"));
    }

    /// This process group has ended.
    pub fn release(&self, group: u32) {
        self.tell(&format!("-{group}"));
    }

    /// Ends everything that it watches over.
    pub fn end(&self) {
        if let Ok(mut pipe) = self.pipe.lock() {
            *pipe = None;
        }
        if let Ok(mut process) = self.process.lock() {
            let _ = process.wait();
        }
    }

    fn tell(&self, line: &str) {
        if let Ok(pipe) = self.pipe.lock()
            && let Some(pipe) = pipe.as_ref()
        {
            tell(pipe, line);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

/// The guard's own process: waits until its standard input ends, which is when the process at its
/// other end does.
pub fn main(folder: PathBuf) -> Result<()> {
    let mut groups: Vec<i32> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.unwrap_or_default();
        match line.split_at_checked(1) {
            Some(("+", group)) => groups.extend(group.parse::<i32>()),
            Some(("-", group)) => groups.retain(|known| group.parse() != Ok(*known)),
            _ => {}
        }
    }
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    match Instance::load(&folder) {
        Some(instance) => instance.remove(),
        None => Ok(fs::remove_dir_all(folder)?),
    }
}
