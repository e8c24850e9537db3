//! How long a reader waits for the first build.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use lab::process::{cargo, run};

use crate::report::{Section, Table};
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
    let hello = |command: &str| {
        let mut cargo = cargo();
        cargo.current_dir(lab::root()).arg(command);
        if command != "fetch" {
            cargo.args(["--package", "hello"]);
        }
        cargo
    };
    let tutorials = |command: &str| {
        let mut cargo = cargo();
        cargo.current_dir(folder.path()).arg(command);
        cargo
    };
    // what is compiled is downloaded before the clock runs
    run(&task, hello("fetch"))?;
    run(&task, tutorials("fetch"))?;
    let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
    for number in 0..ROUNDS {
        for (side, command) in [(&mut ours, hello("build")), (&mut theirs, tutorials("build"))] {
            round(&task, number, "cargo build");
            if target.exists() {
                fs::remove_dir_all(&target)?;
            }
            let mut command = command;
            command.env("CARGO_TARGET_DIR", &target);
            let start = Instant::now();
            run(&task, command)?;
            side.push(start.elapsed().as_secs_f64());
        }
    }
    let packages = [packages(hello("tree"))?, packages(tutorials("tree"))?];
    task.done("Measured the first build");
    let mut table = Table::comparing("s");
    table.times(
        &format!("lesson 1: {} packages", packages[0]),
        &ours,
        &format!("official tutorials: {} packages", packages[1]),
        &theirs,
    );
    Ok(Section {
        title: "Build",
        text: String::from(
            "The first build of lesson 1 with its five programs, from nothing, after everything\n\
             is downloaded. The other side is an empty program with the dependencies of the\n\
             official RabbitMQ tutorials for Rust.",
        ),
        tables: vec![table],
        chart: None,
    })
}

/// How many packages are compiled.
fn packages(mut tree: Command) -> Result<usize> {
    let output =
        tree.args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut names: Vec<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names.len())
}
