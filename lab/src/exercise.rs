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
use crate::servers::{Backend, Instance, Service};

/// How often we look whether a file was saved.
const LOOK: Duration = Duration::from_millis(200);

/// How often a check begins again, in all, because the broker has not done its part.
const AGAIN: usize = 5;

/// A program with a hole.
pub struct Exercise {
    pub name: &'static str,
    hint: &'static str,
}

const fn exercise(name: &'static str, hint: &'static str) -> Exercise {
    Exercise { name, hint }
}

/// All of them, in the order of the lessons.
pub const EXERCISES: [Exercise; 12] = [
    exercise(
        "hello-confirm",
        "`basic_publish(...).await?` gives a `PublisherConfirm`. Await it, too, and look at which \
         `Confirmation` comes: only `Ack(None)` means that the broker has the message.",
    ),
    exercise(
        "hello-mandatory",
        "An exchange drops what no queue takes, unless `BasicPublishOptions` has `mandatory: \
         true`. Then the message comes back in `Confirmation::Ack(Some(_))`.",
    ),
    exercise(
        "hello-acknowledge",
        "With `no_ack: true` the broker forgets a message when it has sent it. Without, it waits \
         for `delivery.ack(...)`: where does that belong?",
    ),
    exercise(
        "tasks-after-work",
        "Which line is the last one that a dying worker must have reached, so that the task is \
         done?",
    ),
    exercise(
        "tasks-prefetch",
        "`channel.basic_qos(...)` limits how many tasks the broker sends before it gets an \
         acknowledgement. It holds for the consumers that begin after it.",
    ),
    exercise(
        "tasks-put-back",
        "Look at what is done with the task when `stop` is cancelled. `task.nack(...)` with \
         `requeue: true` gives it back.",
    ),
    exercise(
        "tasks-restart",
        "A durable queue is still there after a restart. Its messages have a property of their \
         own: `with_delivery_mode`.",
    ),
    exercise(
        "logs-own-queue",
        "Both receivers consume from one queue. Declare one without a name (`\"\"`), exclusive: \
         `queue.name()` is the name that the broker has given it.",
    ),
    exercise(
        "logs-ready",
        "In which line can the first message arrive? What says that it waits belongs behind it.",
    ),
    exercise(
        "routing-severities",
        "A queue may have many bindings: one `queue_bind` for each severity.",
    ),
    exercise("routing-pattern", "`*` is exactly one word. What stands for any number of words?"),
    exercise("routing-headers", "`x-match` is `any` or `all`."),
];

impl Exercise {
    /// Where the reader works on it.
    pub fn file(&self) -> PathBuf {
        self.in_folder("src/bin")
    }

    /// Its file among those of a kind: `tasks`, `solutions`.
    pub fn in_folder(&self, kind: &str) -> PathBuf {
        root().join("exercises").join(kind).join(format!("{}.rs", self.name))
    }

    /// What its file says at the top: the title, and what is wanted.
    fn header(&self) -> Result<(String, String)> {
        let text = read(&self.in_folder("tasks"))?;
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        let lines: Vec<&str> = lines.map(str::trim).collect();
        let (title, rest) = lines.split_first().context("a task without a header")?;
        Ok(((*title).to_owned(), rest.join("\n").trim().to_owned()))
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
        format!("exercises/src/bin/{}.rs", self.name)
    }

    /// What to do, for a reader who has not begun.
    fn tell(&self) -> Result<()> {
        self.hand_out()?;
        let (title, wanted) = self.header()?;
        println!("\n{}: {title}\nIts file: {}\n\n{wanted}\n", self.name, self.path());
        Ok(())
    }

    /// Compiles it, and what checks it; shows what cargo says. Whether it compiles.
    fn build(&self) -> Result<bool> {
        let mut build = cargo();
        build.current_dir(root()).args(["build", "--quiet", "--package", "exercises"]);
        build.args(["--bin", "check-exercise", "--bin", self.name]);
        Ok(build.status()?.success())
    }

    /// Checks the program with servers of a temporary instance. Whether it does what is wanted.
    fn check(&self, instance: &Instance) -> Result<bool> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let url = instance.create_vhost(&format!("{}-{number}", self.name))?;
        let programs = env::current_exe()?;
        let mut check = Command::new(programs.with_file_name("check-exercise"));
        check.arg(self.name).arg(programs.with_file_name(self.name));
        check.env("AMQP_URL", url).env("LAB", &programs).env(INSTANCE, &instance.folder);
        check.env("RUST_BACKTRACE", "0");
        let output = check.output().context("cannot start check-exercise")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().trim_start_matches("Error: ");
        let (sign, verdict) = match output.status.code() {
            Some(0) => ("[x]", "done"),
            Some(1) => ("[ ]", "not yet"),
            // RabbitMQ 3.10 that has just started may have no answer but INTERNAL_ERROR
            Some(2) if number < AGAIN => return self.check(instance),
            _ => bail!("the check has failed: {said}"),
        };
        println!("{sign} {}, {verdict}\n    {said}", self.name);
        if !output.status.success() {
            println!("    `cargo lab exercise --hint {}` helps.", self.name);
        }
        Ok(output.status.success())
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
    names.retain(|name| name != exercise.name);
    names.extend(is_done.then(|| exercise.name.to_owned()));
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    fs::write(done_file(), text).context("cannot write exercises/done")
}

/// The first that is not done.
fn next() -> Option<&'static Exercise> {
    let done = done();
    EXERCISES.iter().find(|exercise| !done.iter().any(|name| name == exercise.name))
}

fn all_done() {
    println!("All {} exercises are done.", EXERCISES.len());
}

/// The exercise of this name. `next`, or no name: the first that is not done.
fn find(name: Option<&str>) -> Result<Option<&'static Exercise>> {
    let Some(name) = name.filter(|name| *name != "next") else {
        return Ok(next());
    };
    let found = EXERCISES.iter().find(|exercise| exercise.name == name);
    let known = || EXERCISES.map(|exercise| exercise.name).join(", ");
    found.map(Some).with_context(|| format!("there is no exercise `{name}`; there are {}", known()))
}

/// Shows which are done, and the next one.
pub fn show() -> Result<()> {
    let done = done();
    let width = EXERCISES.iter().map(|exercise| exercise.name.len()).max().unwrap_or_default();
    for exercise in &EXERCISES {
        let is_done = done.iter().any(|name| name == exercise.name);
        let (sign, (title, _)) = (if is_done { 'x' } else { ' ' }, exercise.header()?);
        println!("[{sign}] {:width$}  {title}", exercise.name);
    }
    let Some(next) = next() else {
        println!();
        all_done();
        return Ok(());
    };
    next.tell()?;
    println!(
        "Change the file, and check it with `cargo lab exercise next`; or let it be checked\n\
         whenever you save it, with `cargo lab exercise --watch`. `--hint` helps."
    );
    Ok(())
}

/// Shows a hint.
pub fn hint(name: Option<&str>) -> Result<()> {
    match find(name)? {
        Some(exercise) => println!("{}: {}", exercise.name, exercise.hint),
        None => all_done(),
    }
    Ok(())
}

/// Shows a solution.
pub fn solution(name: Option<&str>) -> Result<()> {
    match find(name)? {
        Some(exercise) => print!("{}", read(&exercise.in_folder("solutions"))?),
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
    if file.exists() {
        let old = file.with_extension("rs.old");
        fs::rename(&file, &old).with_context(|| format!("cannot write {}", old.display()))?;
    }
    exercise.hand_out()?;
    mark(exercise, false)?;
    println!("{} is as it was. What you had is in {}.old", exercise.name, exercise.path());
    Ok(())
}

fn servers() -> Result<(Instance, &'static Guard)> {
    let needs = Needs {
        backend: Backend::choose,
        services: &[Service::Rabbitmq],
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
    let (instance, _guard) = servers()?;
    if !exercise.check(&instance)? {
        return Ok(ExitCode::FAILURE);
    }
    mark(exercise, true)?;
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
        if mem::replace(&mut told, exercise.name) != exercise.name {
            exercise.tell()?;
        }
        let text = fs::read(exercise.file()).unwrap_or_default();
        if exercise.build()? {
            let (instance, _guard) = match &begun {
                Some(servers) => servers,
                None => begun.insert(servers()?),
            };
            if exercise.check(instance)? {
                mark(exercise, true)?;
                continue;
            }
        }
        let end = if stdout().is_terminal() { " Ctrl-C ends this." } else { "" };
        println!("Waiting until {} is saved ...{end}", exercise.path());
        while fs::read(exercise.file()).unwrap_or_else(|_| text.clone()) == text {
            thread::sleep(LOOK);
        }
    }
    all_done();
    Ok(())
}
