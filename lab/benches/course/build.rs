//! How long a reader waits for the first build.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use lab::process::{cargo, run};

use crate::report::{self, Section, Table, median};
use crate::{Bench, ROUNDS, round};

/// What the official tutorials for Rust depend on (rust/Cargo.toml in rabbitmq/rabbitmq-tutorials),
/// and a program that does nothing.
const TUTORIALS: &str = r#"[package]
name = "tutorials"
version = "0.1.0"
edition = "2021"

[dependencies]
futures = "0.3.21"
lapin = "2.1.1"
tokio = { version = "1.20.4", features = ["full"] }
uuid = { version = "1.1.1", features = ["v4"] }
tokio-stream = "0.1"

[workspace]
"#;

pub fn build(bench: &Bench) -> Result<Section> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    fs::write(folder.path().join("Cargo.toml"), TUTORIALS)?;
    fs::create_dir(folder.path().join("src"))?;
    fs::write(folder.path().join("src/main.rs"), "fn main() {}\n")?;
    let target = folder.path().join("target");

    let task = bench.tasks.start("Measuring the first build");
    let lesson = |command: &str, package: &str| {
        let mut cargo = cargo();
        cargo.current_dir(lab::root()).arg(command);
        if command != "fetch" {
            cargo.args(["--package", package]);
        }
        cargo
    };
    let hello = |command| lesson(command, "hello");
    let names: Vec<String> = lab::lessons()?.iter().filter_map(name).collect();
    let tutorials = |command: &str| {
        let mut cargo = cargo();
        cargo.current_dir(folder.path()).arg(command);
        cargo
    };
    // what is compiled is downloaded before the clock runs
    run(&task, hello("fetch"))?;
    run(&task, tutorials("fetch"))?;
    let build = |mut command: Command| -> Result<f64> {
        command.env("CARGO_TARGET_DIR", &target);
        let start = Instant::now();
        run(&task, command)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut theirs = Vec::new();
    // each lesson after those before it
    let mut ours = vec![Vec::new(); names.len()];
    for number in 0..ROUNDS {
        round(&task, number, "the official tutorials");
        theirs.push(build(tutorials("build"))?);
        fs::remove_dir_all(&target)?;
        for (name, seconds) in names.iter().zip(&mut ours) {
            round(&task, number, name);
            seconds.push(build(lesson("build", name))?);
        }
        fs::remove_dir_all(&target)?;
    }
    let packages = [packages(hello("tree"))?.len(), packages(tutorials("tree"))?.len()];
    task.done("Measured the first build");
    let mut table = Table::comparing("s");
    table.times(
        &format!("lesson 1: {} packages", packages[0]),
        &ours[0],
        &format!("official tutorials: {} packages", packages[1]),
        &theirs,
    );
    let mut course = Table::new(&["the next lesson", "s", "packages more"]);
    let mut there = BTreeSet::new();
    for ((folder, name), seconds) in lab::lessons()?.iter().zip(&names).zip(&ours) {
        let before = there.len();
        there.extend(self::packages(lesson("tree", name))?);
        let folder = folder.file_name().unwrap_or_default().to_string_lossy();
        let more = (there.len() - before).to_string();
        course.row(vec![folder.into_owned(), report::number(median(seconds)), more]);
    }
    Ok(Section {
        title: "Build",
        text: String::from(
            "The first build of lesson 1 with its five programs, from nothing, after everything\n\
             is downloaded. The other side is an empty program with the dependencies of the\n\
             official RabbitMQ tutorials for Rust.\n\n\
             Then the course: each lesson is built after those before it, of which nothing is\n\
             compiled again. The packages of a lesson are among those that are new.",
        ),
        tables: vec![table, course],
        chart: None,
    })
}

/// The name of the package in the folder of a lesson.
fn name(folder: impl AsRef<Path>) -> Option<String> {
    let (_, name) = folder.as_ref().file_name()?.to_str()?.split_once('-')?;
    Some(name.to_owned())
}

/// The packages that are compiled.
fn packages(mut tree: Command) -> Result<BTreeSet<String>> {
    let output =
        tree.args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect())
}
