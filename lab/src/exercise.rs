//! `cargo lab exercise`: programs with a hole each, which are checked against a real RabbitMQ.
//!
//! A reader works on a copy in `exercises/src/bin`. The program that checks is in
//! `exercises/check`.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, mem, thread};

use anyhow::{Context, Result, bail};

use crate::guard::Guard;
use crate::jobs::{Needs, set_up};
use crate::play::INSTANCE;
use crate::process::cargo;
use crate::progress::Tasks;
use crate::root;
use crate::say;
use crate::servers::{Backend, Instance, Service};

/// How often we look whether a file was saved.
const LOOK: Duration = Duration::from_millis(200);

/// How often a check begins again because a server has not done its part.
const AGAIN: usize = 4;

/// A program with a hole: its name, which is that of its files.
pub struct Exercise(pub &'static str);

/// All of them, in the order of the lessons.
pub const EXERCISES: [Exercise; 28] = [
    Exercise("hello-confirm"),
    Exercise("hello-mandatory"),
    Exercise("hello-acknowledge"),
    Exercise("tasks-after-work"),
    Exercise("tasks-prefetch"),
    Exercise("tasks-put-back"),
    Exercise("tasks-restart"),
    Exercise("logs-own-queue"),
    Exercise("logs-ready"),
    Exercise("routing-severities"),
    Exercise("routing-pattern"),
    Exercise("routing-headers"),
    Exercise("orders-twice"),
    Exercise("orders-commit"),
    Exercise("orders-poison"),
    Exercise("products-outbox"),
    Exercise("products-inbox"),
    Exercise("jobs-attempts"),
    Exercise("jobs-safe"),
    Exercise("jobs-pause"),
    Exercise("rpc-correlate"),
    Exercise("rpc-deadline"),
    Exercise("stream-from"),
    Exercise("stream-offset"),
    Exercise("steady-again"),
    Exercise("steady-addresses"),
    Exercise("mails-not-now"),
    Exercise("mails-trace"),
];

impl Exercise {
    /// Where the reader works on it.
    fn file(&self) -> PathBuf {
        self.in_folder("src/bin")
    }

    /// Its file among those of a kind: `tasks`, `solutions`.
    pub fn in_folder(&self, kind: &str) -> PathBuf {
        root().join("exercises").join(kind).join(format!("{}.rs", self.0))
    }

    /// What its file says at the top: the title, and what is wanted.
    fn header(&self) -> Result<(String, String)> {
        let text = read(&self.in_folder("tasks"))?;
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        let lines: Vec<&str> = lines.map(str::trim).collect();
        let (title, rest) = lines.split_first().context("a task without a header")?;
        Ok(((*title).to_owned(), rest.join("\n").trim().to_owned()))
    }

    /// What its solution says at the top: a hint, and why it is a solution.
    fn help(&self) -> Result<(String, String)> {
        let text = read(&self.in_folder("solutions"))?;
        let mut lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
        let hint: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        Ok((hint.join("\n"), lines.collect::<Vec<_>>().join("\n")))
    }

    /// The servers that its check needs.
    fn services(&self) -> &'static [Service] {
        match self.0.split_once('-') {
            Some(("orders" | "products", _)) => &Service::ALL,
            _ => &[Service::Rabbitmq],
        }
    }

    /// Gives the reader a file to work on, if there is none.
    fn hand_out(&self) -> Result<()> {
        let file = self.file();
        if file.exists() {
            return Ok(());
        }
        let folder = root().join("exercises/src/bin");
        fs::create_dir_all(&folder).context("cannot create exercises/src/bin")?;
        fs::copy(self.in_folder("tasks"), &file)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(())
    }

    fn path(&self) -> String {
        format!("exercises/src/bin/{}.rs", self.0)
    }

    /// What to do, for a reader who has not begun.
    fn tell(&self) -> Result<()> {
        self.hand_out()?;
        let (title, wanted) = self.header()?;
        say!("\n{}: {title}\nIts file: {}\n\n{wanted}\n", self.0, self.path());
        Ok(())
    }

    /// Compiles it, and what checks it; shows what cargo says. Whether it compiles.
    fn build(&self) -> Result<bool> {
        let mut build = cargo();
        build.current_dir(root()).args(["build", "--quiet", "--package", "exercises"]);
        build.args(["--bin", "check-exercise", "--bin", self.0]);
        Ok(build.status()?.success())
    }

    /// Checks the program with servers of a temporary instance. Whether it does what is wanted.
    fn check(&self, instance: &Instance) -> Result<bool> {
        let (mut said, mut code) = self.check_once(instance)?;
        // RabbitMQ 3.10 that has just started may have no answer but INTERNAL_ERROR.
        for _ in 0..AGAIN {
            if code != Some(2) {
                break;
            }
            (said, code) = self.check_once(instance)?;
        }
        let is_done = code == Some(0);
        let (sign, verdict) = match code {
            Some(0) => ("[x]", "done"),
            Some(1) => ("[ ]", "not yet"),
            _ => ("[ ]", "not checked"),
        };
        say!("{sign} {}, {verdict}\n    {said}", self.0);
        match is_done {
            true => say!("\n{}", self.help()?.1),
            false => say!("    `cargo lab exercise --hint {}` helps.", self.0),
        }
        Ok(is_done)
    }

    /// What the program that checks says, and its exit code.
    fn check_once(&self, instance: &Instance) -> Result<(String, Option<i32>)> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let url = instance.create_vhost(&format!("{}-{number}", self.0))?;
        let programs = env::current_exe()?;
        let mut check = Command::new(programs.with_file_name("check-exercise"));
        check.arg(self.0).arg(programs.with_file_name(self.0));
        check.env("AMQP_URL", url).env("MYSQL_URL", instance.mysql_url());
        check.env("LAB", &programs).env(INSTANCE, &instance.folder);
        check.env("RUST_BACKTRACE", "0");
        let output = check.output().context("cannot start check-exercise")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        Ok((said.trim().trim_start_matches("Error: ").to_owned(), output.status.code()))
    }
}

fn read(file: &PathBuf) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The names of those that are done, a line each.
fn done_file() -> PathBuf {
    root().join("exercises/done")
}

fn done() -> Vec<String> {
    fs::read_to_string(done_file()).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn mark(exercise: &Exercise, is_done: bool) -> Result<()> {
    let mut names = done();
    names.retain(|name| name != exercise.0);
    names.extend(is_done.then(|| exercise.0.to_owned()));
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    fs::write(done_file(), text).context("cannot write exercises/done")
}

/// The first that is not done.
fn next() -> Option<&'static Exercise> {
    let done = done();
    EXERCISES.iter().find(|exercise| !done.iter().any(|name| name == exercise.0))
}

fn all_done() {
    say!(
        "All {} exercises are done. `cargo lab exercise NAME` checks one again, and with `--reset`\n\
         you begin it again.",
        EXERCISES.len()
    );
}

/// The exercise of this name. `next`, or no name: the first that is not done.
fn find(name: Option<&str>) -> Result<Option<&'static Exercise>> {
    let Some(name) = name.filter(|name| *name != "next") else {
        return Ok(next());
    };
    let found = EXERCISES.iter().find(|exercise| exercise.0 == name);
    found.map(Some).with_context(|| {
        let group = name.split('-').next().filter(|group| !group.is_empty());
        let near = EXERCISES.map(|exercise| exercise.0).into_iter();
        let near = near.filter(|name| group.is_some_and(|group| name.starts_with(group)));
        match near.collect::<Vec<_>>().join(", ") {
            near if near.is_empty() => {
                format!("there is no exercise `{name}`: see `cargo lab exercise`")
            }
            near => format!("there is no exercise `{name}`; did you mean one of {near}?"),
        }
    })
}

/// Shows which are done, and the next one.
pub fn show() -> Result<()> {
    let done = done();
    let width = EXERCISES.iter().map(|exercise| exercise.0.len()).max().unwrap_or_default();
    for exercise in &EXERCISES {
        let is_done = done.iter().any(|name| name == exercise.0);
        let (sign, (title, _)) = (if is_done { 'x' } else { ' ' }, exercise.header()?);
        say!("[{sign}] {:width$}  {title}", exercise.0);
    }
    let Some(next) = next() else {
        say!("");
        all_done();
        return Ok(());
    };
    next.tell()?;
    say!(
        "Change the file, and check it with `cargo lab exercise next`; or let it be checked\n\
         whenever you save it, with `cargo lab exercise --watch`. `--hint` helps."
    );
    Ok(())
}

/// Shows a hint.
pub fn hint(name: Option<&str>) -> Result<()> {
    match find(name)? {
        Some(exercise) => say!("{}\n{}", exercise.0, exercise.help()?.0),
        None => all_done(),
    }
    Ok(())
}

/// Shows a solution.
pub fn solution(name: Option<&str>) -> Result<()> {
    match find(name)? {
        Some(exercise) => say!("{}", read(&exercise.in_folder("solutions"))?.trim_end()),
        None => all_done(),
    }
    Ok(())
}

/// Hands an exercise out again. What the reader has written stays beside it.
pub fn reset(name: Option<&str>) -> Result<()> {
    let Some(exercise) = find(name)? else {
        all_done();
        return Ok(());
    };
    let file = exercise.file();
    mark(exercise, false)?;
    if !file.exists() || read(&file)? == read(&exercise.in_folder("tasks"))? {
        exercise.hand_out()?;
        say!("{} is as it was", exercise.0);
        return Ok(());
    }
    let old = file.with_extension("rs.old");
    fs::rename(&file, &old).with_context(|| format!("cannot write {}", old.display()))?;
    exercise.hand_out()?;
    say!("{} is as it was. What you had is in {}.old", exercise.0, exercise.path());
    Ok(())
}

fn servers(exercise: &Exercise) -> Result<(Instance, &'static Guard)> {
    let needs = Needs {
        backend: Backend::choose,
        services: exercise.services(),
        packages: &[],
        what: "the exercise",
    };
    set_up(&Tasks::default(), &needs, Vec::new())
}

/// Checks an exercise.
pub fn check(name: Option<&str>) -> Result<ExitCode> {
    let Some(exercise) = find(name)? else {
        all_done();
        return Ok(ExitCode::SUCCESS);
    };
    exercise.hand_out()?;
    if !exercise.build()? {
        bail!("{} does not compile", exercise.path());
    }
    let (instance, _guard) = servers(exercise)?;
    let is_done = exercise.check(&instance)?;
    mark(exercise, is_done)?;
    if !is_done {
        return Ok(ExitCode::FAILURE);
    }
    match next() {
        Some(next) => next.tell()?,
        None => all_done(),
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks the next exercise whenever its file is saved, and goes on to the one after it.
pub fn watch() -> Result<()> {
    let mut begun = None;
    let mut told = "";
    while let Some(exercise) = next() {
        if mem::replace(&mut told, exercise.0) != exercise.0 {
            exercise.tell()?;
        }
        let text = fs::read(exercise.file()).unwrap_or_default();
        if exercise.build()? {
            let (instance, _guard) = match &begun {
                Some(servers) => servers,
                None => begun.insert(servers(exercise)?),
            };
            let missing = exercise.services().iter().filter(|part| !instance.is_running(**part));
            instance.start(&missing.copied().collect::<Vec<_>>(), &Tasks::default())?;
            if exercise.check(instance)? {
                mark(exercise, true)?;
                continue;
            }
        }
        let end = if stdout().is_terminal() { " Ctrl-C ends this." } else { "" };
        say!("Waiting until {} is saved ...{end}", exercise.path());
        while fs::read(exercise.file()).unwrap_or_else(|_| text.clone()) == text {
            thread::sleep(LOOK);
        }
    }
    all_done();
    Ok(())
}
