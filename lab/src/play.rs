//! Plays a README: runs its commands in as many terminals as it has, and compares every line.

use std::collections::HashMap;
use std::mem;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::guard::Guard;
use crate::process::without_cargo;
use crate::progress::Tasks;
use crate::readme::{Action, Readme, Step, matches};
use crate::root;
use crate::servers::{Instance, Ports, Service};
use crate::terminal::Terminal;

/// How long a terminal may take for its next line, and a program for its end.
const LIMIT: Duration = Duration::from_secs(120);

/// Tells the lab that it is run by a README that is played, and where the servers of that are.
pub const INSTANCE: &str = "LAB_INSTANCE";

/// What happened, for whoever watches.
pub enum Shown<'a> {
    Heading(&'a str),
    /// A line in a terminal: the command, the output, or a key such as `^C`.
    Line {
        terminal: &'a str,
        text: &'a str,
    },
}

/// The servers for a page: those that there are, or a cluster in the place of the one RabbitMQ, or
/// the other way round.
pub fn servers(readme: &Readme, instance: &Instance, tasks: &Tasks) -> Result<Instance> {
    let servers = match readme.wants_nodes() {
        wanted if wanted == instance.is_cluster() => return Ok(instance.clone()),
        true => instance.clone().with_nodes()?,
        false => instance.clone().without_nodes(),
    };
    instance.stop(Service::Rabbitmq, false)?;
    servers.start(&[Service::Rabbitmq], tasks)?;
    Ok(servers)
}

struct Player<'a> {
    readme: &'a Readme,
    instance: &'a Instance,
    guard: &'a Guard,
    show: &'a mut dyn FnMut(Shown),
    curious: bool,
    /// Shown when something happens below it.
    heading: Option<&'a str>,
    running: HashMap<String, Program<'a>>,
}

/// A command in its terminal.
struct Program<'a> {
    terminal: Terminal<'a>,
    /// Where the README starts it.
    line: usize,
    /// The README shows an error, so its exit code must say so too.
    fails: bool,
    /// Ended by `^\`: it has no exit code.
    quit: bool,
    /// Lines may come before the next one that is expected.
    skips: bool,
}

/// Plays the README with these servers; as a curious reader, with what the page does not show.
///
/// # Errors
///
/// The first line that is not what the README says: the place in the README, what was expected, and
/// what came.
pub fn play(
    readme: &Readme,
    instance: &Instance,
    guard: &Guard,
    curious: bool,
    show: &mut dyn FnMut(Shown),
) -> Result<()> {
    let (heading, running) = (None, HashMap::new());
    let mut player = Player { readme, instance, guard, show, curious, heading, running };
    let played = player.steps();
    if played.is_err() {
        player.show_rest();
    }
    played
}

impl<'a> Player<'a> {
    fn steps(&mut self) -> Result<()> {
        let mut steps = Vec::new();
        let mut version = None;
        for step in &self.readme.steps {
            if step.curious && !self.curious {
                continue;
            }
            if let Some(condition) = step.condition {
                let version = match version {
                    Some(version) => version,
                    None => *version.insert(self.instance.management().version()?),
                };
                if !condition.holds(version) {
                    continue; // the page says that it is for other servers
                }
            }
            steps.push(step);
        }
        for (index, step) in steps.iter().enumerate() {
            let terminal = step.terminal.as_str();
            match &step.action {
                Action::Heading(title) => self.heading = Some(title),
                Action::Run(command) => {
                    self.finish(terminal, step.line)?;
                    self.line(terminal, &format!("$ {command}"));
                    self.run(step, command)?;
                }
                Action::Interrupt => self.press(step, "^C", Signal::INT)?,
                Action::Quit => {
                    self.press(step, "^\\", Signal::QUIT)?;
                    self.program(step)?.quit = true;
                }
                Action::Expect(expected) => self.expect(step, expected)?,
                Action::Skip => {
                    self.line(terminal, "...");
                    self.program(step)?.skips = true;
                }
            }
            // What the README does not go on with must end by itself.
            let mut later = steps[index + 1..].iter();
            let next = later.find(|later| {
                later.terminal == terminal && !matches!(later.action, Action::Heading(_))
            });
            let goes_on = next.is_some_and(|next| !matches!(next.action, Action::Run(_)));
            if step.ends_block && !goes_on {
                self.finish(terminal, step.line)?;
            }
        }
        Ok(())
    }

    /// What has come in all terminals, and nobody has looked at.
    fn show_rest(&mut self) {
        for (terminal, program) in &self.running {
            while let Ok(line) = program.terminal.line(Duration::ZERO) {
                let text = self.without_ports(&line);
                (self.show)(Shown::Line { terminal, text: &text });
            }
        }
    }

    /// Where the reader of the page types: the root of its workspace.
    fn folder(&self) -> &Path {
        let mut folders = self.readme.path.ancestors();
        folders.find(|folder| folder.join("Cargo.lock").is_file()).unwrap_or(root())
    }

    fn line(&mut self, terminal: &str, text: &str) {
        if let Some(heading) = self.heading.take() {
            (self.show)(Shown::Heading(heading));
        }
        (self.show)(Shown::Line { terminal, text });
    }

    fn program(&mut self, step: &Step) -> Result<&mut Program<'a>> {
        let at = self.readme.at(step.line);
        self.running
            .get_mut(&step.terminal)
            .with_context(|| format!("{at}: no program runs in this terminal any more"))
    }

    fn press(&mut self, step: &Step, key: &str, signal: Signal) -> Result<()> {
        self.line(&step.terminal, key);
        let at = self.readme.at(step.line);
        let program = self.program(step)?;
        let pressed = program.terminal.signal(signal);
        pressed.with_context(|| format!("{at}: the program has ended by itself"))
    }

    fn run(&mut self, step: &Step, command: &str) -> Result<()> {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            // The shell outlives ^C as in a terminal, and ends with the exit code of the command.
            // `^\` leaves no file with the memory of what it has ended.
            .arg(format!("trap : INT\nulimit -c 0\n{}", self.with_ports(command)))
            .current_dir(self.folder())
            .env("AMQP_URL", self.instance.amqp_url())
            .env("STREAM_URL", self.instance.stream_url())
            .env("MYSQL_URL", self.instance.mysql_url())
            .env("ADMIN_LISTEN", format!("127.0.0.1:{}", self.instance.ports.admin))
            .env("MAIN_LISTEN", format!("127.0.0.1:{}", self.instance.ports.main))
            .env("FEEDBACK_LISTEN", format!("127.0.0.1:{}", self.instance.ports.feedback))
            .env("ADMIN_URL", format!("http://localhost:{}", self.instance.ports.admin))
            // The READMEs' `curl` is to ask this machine, and no proxy.
            .env("no_proxy", "localhost,127.0.0.1")
            .env(INSTANCE, &self.instance.folder)
            .env("CARGO_TERM_QUIET", "true"); // no `Finished`, no `Running`
        without_cargo(&mut shell);
        let terminal =
            Terminal::start(shell, self.guard).with_context(|| self.readme.at(step.line))?;
        let fails = self
            .readme
            .steps
            .iter()
            .filter(|later| later.line > step.line && later.terminal == step.terminal)
            .map_while(|later| match &later.action {
                Action::Run(_) => None,
                Action::Expect(line) => {
                    Some(line.starts_with("Error: ") || line.starts_with("error: "))
                }
                _ => Some(false),
            })
            .any(|error| error);
        let program =
            Program { terminal, line: step.line, fails, quit: false, skips: step.curious };
        self.running.insert(step.terminal.clone(), program);
        Ok(())
    }

    fn expect(&mut self, step: &Step, expected: &str) -> Result<()> {
        let at = self.readme.at(step.line);
        let skips = mem::take(&mut self.program(step)?.skips);
        let start = Instant::now();
        let line = loop {
            let left = LIMIT.saturating_sub(start.elapsed());
            let line = match self.program(step)?.terminal.line(left) {
                Ok(line) => self.without_ports(&line),
                Err(RecvTimeoutError::Timeout) => {
                    let limit = LIMIT.as_secs();
                    bail!("{at}: nothing came within {limit} s\n  expected: {expected}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{at}: the program ended before this line\n  expected: {expected}")
                }
            };
            self.line(&step.terminal, &line);
            if !skips || matches(expected, &line) {
                break line;
            }
        };
        if !matches(expected, &line) {
            bail!("{at}: another line came\n  expected: {expected}\n  came:     {line}");
        }
        Ok(())
    }

    /// Waits for the end of what runs in a terminal: with no more lines, and the right exit code.
    fn finish(&mut self, terminal: &str, line: usize) -> Result<()> {
        let Some(mut program) = self.running.remove(terminal) else {
            return Ok(());
        };
        let at = self.readme.at(line);
        let next = loop {
            let next = program.terminal.line(LIMIT);
            if !program.skips || next.is_err() {
                break next;
            }
        };
        let result = match next {
            Ok(line) => {
                let line = self.without_ports(&line);
                self.line(terminal, &line);
                Err(anyhow::anyhow!("{at}: after this line another one came\n  came:     {line}"))
            }
            Err(RecvTimeoutError::Timeout) => Err(anyhow::anyhow!(
                "{at}: the program is still running after {} s; its README neither goes on with it nor ends it with ^C",
                LIMIT.as_secs()
            )),
            Err(RecvTimeoutError::Disconnected) => Ok(()),
        };
        if result.is_err() {
            let _ = program.terminal.signal(Signal::KILL);
        }
        let status = program.terminal.wait(LIMIT).context(at)?;
        result?;
        if !program.quit && status.success() == program.fails {
            let at = self.readme.at(program.line);
            bail!(
                "{at}: the command ended with {status}, which is not what its lines in the README say"
            );
        }
        Ok(())
    }

    /// READMEs speak of the default ports; the servers are elsewhere.
    fn ports(&self) -> Vec<(String, String)> {
        let (default, ours) = (Ports::DEFAULT, self.instance.ports);
        let mut ports = vec![
            (default.amqp, ours.amqp),
            (default.management, ours.management),
            (default.stream, ours.stream),
            (default.mysql, ours.mysql),
            (default.admin, ours.admin),
            (default.main, ours.main),
            (default.feedback, ours.feedback),
            (default.health, ours.health),
        ];
        for (ours, number) in self.instance.others.iter().zip(2..) {
            let default = Ports::of_node(number);
            ports.extend([(default.amqp, ours.amqp), (default.management, ours.management)]);
        }
        let name = |port| format!("localhost:{port}");
        ports.into_iter().map(|(default, ours)| (name(default), name(ours))).collect()
    }

    fn with_ports(&self, command: &str) -> String {
        let ports = self.ports();
        ports.iter().fold(command.to_owned(), |text, (default, ours)| text.replace(default, ours))
    }

    fn without_ports(&self, line: &str) -> String {
        let ports = self.ports();
        ports.iter().fold(line.to_owned(), |text, (default, ours)| text.replace(ours, default))
    }
}
