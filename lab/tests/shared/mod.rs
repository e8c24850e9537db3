//! What tests and benchmarks need, and a reader who plays does not compile: numbers for people, the
//! lessons compiled, and programs in other languages to set beside ours.

#![allow(dead_code, reason = "each of them uses a part")]

pub mod speeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use lab::lessons;
use lab::process::run;
use lab::progress::Tasks;

/// A number for people, thousands apart: `1,000,000`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Compiles the programs of all lessons, for debugging or for speed, as we are compiled ourselves.
pub fn compile_lessons(tasks: &Tasks) -> Result<()> {
    let task = tasks.start("Compiling the lessons");
    for folder in lessons()? {
        let mut build = lab::build(&folder);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        run(&task, build)?;
    }
    task.done("Compiled the lessons");
    Ok(())
}

/// Python with these packages of PyPI, which are installed into a folder of their own under
/// `folder` if they are not there.
///
/// # Errors
///
/// pip cannot install them: what it says.
pub fn python(folder: &Path, packages: &[&str], tasks: &Tasks) -> Result<Command> {
    let installed = install(folder, packages, tasks, "pip", |part| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
            .args(["--root-user-action=ignore", "--target"])
            .arg(part);
        pip
    })?;
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", installed);
    Ok(python)
}

/// Node.js with these packages of npm, as [`python`].
///
/// # Errors
///
/// npm is not there, or cannot install them: what it says.
pub fn node(folder: &Path, packages: &[&str], tasks: &Tasks) -> Result<Command> {
    let installed = install(folder, packages, tasks, "npm", |part| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-fund", "--no-audit", "--prefix"]).arg(part);
        npm
    })?;
    let mut node = Command::new("node");
    node.env("NODE_PATH", installed.join("node_modules"));
    Ok(node)
}

fn install(
    folder: &Path,
    packages: &[&str],
    tasks: &Tasks,
    installer: &str,
    command: impl Fn(&Path) -> Command,
) -> Result<PathBuf> {
    let installed = folder.join(packages.join("_"));
    if !installed.exists() {
        let what = format!("{} with {installer}", packages.join(" and "));
        let task = tasks.start(format!("Installing {what}"));
        // first elsewhere, so that an installation that is cut off is not taken for a whole one
        let part = installed.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        let mut command = command(&part);
        command.args(packages);
        run(&task, command)?;
        fs::rename(part, &installed)?;
        task.done(&format!("Installed {what}"));
    }
    Ok(installed)
}
