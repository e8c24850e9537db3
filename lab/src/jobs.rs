//! What takes servers of its own, which are gone when it ends: pages played, tests, benchmarks.

use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{env, thread};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::bench::Benchmark;
use crate::guard::Guard;
use crate::install::{self, Package, install};
use crate::play::{self, INSTANCE, Shown};
use crate::process::{cargo, run};
use crate::progress::Tasks;
use crate::readme::Readme;
use crate::say;
use crate::servers::probe::Answer;
use crate::servers::{Backend, Instance, Service};
use crate::{LEFT_OUT, find_lessons, root, signals};

/// What a command of the lab needs before it begins.
pub(crate) struct Needs {
    pub backend: fn(&Tasks) -> Result<Backend>,
    pub services: &'static [Service],
    /// Beside the servers.
    pub packages: &'static [Package],
    /// The name of what is compiled.
    pub what: &'static str,
}

/// Temporary servers and their guard. Installs what is missing, and runs cargo to compile
/// meanwhile.
pub(crate) fn set_up(
    tasks: &Tasks,
    needs: &Needs,
    builds: Vec<Command>,
) -> Result<(Instance, &'static Guard)> {
    let folder = Instance::temporary_folder();
    // before cargo compiles: it may replace our own program
    let guard = signals::end_with(Guard::over(&env::current_exe()?, &folder)?)?;
    let building = thread::spawn({
        let (tasks, what) = (tasks.clone(), needs.what);
        move || -> Result<()> {
            if builds.is_empty() {
                return Ok(());
            }
            let task = tasks.start(format!("Compiling {what}"));
            for build in builds {
                run(&task, build)?;
            }
            task.done(&format!("Compiled {what}"));
            Ok(())
        }
    });
    // If the servers do not start, nobody needs to wait for what is compiled.
    let backend = (needs.backend)(tasks)?;
    install(install::servers(backend).iter().chain(needs.packages), tasks)?;
    let instance = Instance::temporary(folder, backend)?;
    instance.start(needs.services, tasks)?;
    match building.join() {
        Ok(built) => built?,
        Err(_) => bail!("a thread of the lab has panicked"),
    }
    Ok((instance, guard))
}

/// Plays the pages of these lessons.
pub fn play(lessons: &[String]) -> Result<()> {
    let folders = find_lessons(lessons)?;
    let tasks = Tasks::default();
    let builds = folders.iter().map(|folder| crate::build(folder)).collect();
    let needs = Needs {
        backend: Backend::choose,
        services: &Service::ALL,
        packages: install::LESSONS,
        what: "the lessons",
    };
    let (mut instance, guard) = set_up(&tasks, &needs, builds)?;

    say!("\nThe pages name the default ports: below, these stand for the ports of these servers.");
    let colour = std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
    for folder in &folders {
        let readme = Readme::read(&folder.join("README.md"))?;
        instance = play::servers(&readme, &instance, &tasks)?;
        play_live(&readme, &instance, guard, colour)?;
    }
    say!("\nEvery line came as the README says.");
    Ok(())
}

/// Each line under the name of its terminal.
fn play_live(readme: &Readme, instance: &Instance, guard: &Guard, colour: bool) -> Result<()> {
    let mut terminals: Vec<&str> = Vec::new();
    for step in readme.steps.iter().filter(|step| !step.curious) {
        if !terminals.contains(&step.terminal.as_str()) {
            terminals.push(&step.terminal);
        }
    }
    let width = terminals.iter().map(|name| name.len()).max().unwrap_or_default();
    let mut show = |shown: Shown| match shown {
        Shown::Heading(title) if colour => say!("\n\x1b[1m{title}\x1b[0m"),
        Shown::Heading(title) => say!("\n{title}"),
        Shown::Line { terminal, text } => {
            let index = terminals.iter().position(|name| *name == terminal).unwrap_or_default();
            match colour {
                true => say!("\x1b[{}m{terminal:>width$} |\x1b[0m {text}", 32 + index % 5),
                false => say!("{terminal:>width$} | {text}"),
            }
        }
    };
    play::play(readme, instance, guard, false, &mut show)
}

/// Runs the tests, with arguments for cargo and for the tests. Ends with a line that counts,
/// whatever the tests have printed before.
pub fn test(arguments: [Vec<String>; 2]) -> Result<ExitCode> {
    let start = Instant::now();
    let (mut passed, mut failed, mut left_out) = (0, 0, Vec::new());
    let (instance, code) = run_cargo(
        &["test", "--package", "lab", "--package", "common", "--lib", "--test", "lessons"],
        &Needs {
            backend: Backend::choose,
            services: &Service::ALL,
            packages: install::TESTS,
            what: "the tests",
        },
        &arguments.join(&"--".to_owned()),
        &[],
        |line| {
            // test result: ok. 94 passed; 0 failed; ...
            if let Some(result) = line.strip_prefix("test result: ") {
                let numbers = result.split([' ', ';']).filter_map(|word| word.parse::<u32>().ok());
                let numbers: Vec<_> = numbers.collect();
                passed += numbers.first().unwrap_or(&0);
                failed += numbers.get(1).unwrap_or(&0);
            }
            left_out.extend(line.split_once(LEFT_OUT).map(|(_, what)| what.to_owned()));
        },
    )?;
    let count = left_out.len() as u32;
    for what in left_out {
        say!("{LEFT_OUT}{what}");
    }
    let versions = Service::ALL.map(|service| match instance.probe(service) {
        Answer::Server(name) => name,
        _ => service.name().to_owned(),
    });
    say!(
        "{}{}: {} tests passed, {failed} failed, {count} left out, {} s",
        versions.join(" and "),
        if instance.backend == Backend::Docker { " with Docker" } else { "" },
        passed - count,
        start.elapsed().as_secs()
    );
    Ok(code)
}

/// Runs the benchmark.
pub fn bench(names: &[Benchmark], write: bool) -> Result<ExitCode> {
    let names = names.iter().filter_map(Benchmark::to_possible_value);
    let mut arguments = vec!["--".to_owned()];
    arguments.extend(names.map(|name| name.get_name().to_owned()));
    arguments.extend(write.then(|| "--write".to_owned()));
    let (_, code) = run_cargo(
        &["bench", "--package", "lab", "--bench", "course", "--features", "bench"],
        &Needs {
            backend: |_| Ok(Backend::Local), // or a container's network would be measured, too
            services: &Service::ALL,
            packages: install::BENCHMARKS,
            what: "the benchmark",
        },
        &arguments,
        &[],
        |_| (),
    )?;
    Ok(code)
}

/// Runs the fault run.
pub fn faults(minutes: f64, seed: Option<u64>, nodes: usize) -> Result<ExitCode> {
    let mut variables =
        vec![("LAB_MINUTES", minutes.to_string()), ("LAB_NODES", nodes.to_string())];
    variables.extend(seed.map(|seed| ("LAB_SEED", seed.to_string())));
    let (_, code) = run_cargo(
        &["test", "--release", "--package", "lab", "--test", "faults"],
        &Needs {
            backend: Backend::choose,
            services: &[], // it breaks servers of its own
            packages: install::FAULTS,
            what: "the faults",
        },
        &["--".to_owned(), "--nocapture".to_owned()],
        &variables,
        |_| (),
    )?;
    Ok(code)
}

/// Runs cargo with temporary servers, which it finds through [`INSTANCE`].
fn run_cargo(
    command: &[&str],
    needs: &Needs,
    arguments: &[String],
    variables: &[(&str, String)],
    mut heard: impl FnMut(&str),
) -> Result<(Instance, ExitCode)> {
    let tasks = Tasks::default();
    let mut build = cargo();
    build.current_dir(root()).args(command).arg("--no-run");
    let (instance, guard) = set_up(&tasks, needs, vec![build])?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut cargo = cargo()
        .current_dir(root())
        .args(command)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env(INSTANCE, &instance.folder)
        // Some tests keep the cores busy, and most wait: for servers that start, for heartbeats,
        // and for each other. In the order of their names, the busy ones come first.
        .env("RUST_TEST_THREADS", (3 * cores).to_string())
        .stdout(Stdio::piped())
        .process_group(0) // the guard ends it, however we end
        .spawn()
        .context("cannot start cargo")?;
    guard.adopt(cargo.id());
    let stdout = cargo.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        say!("{line}");
        heard(&line);
    }
    let status = cargo.wait()?;
    guard.release(cargo.id());
    Ok((instance, if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}
