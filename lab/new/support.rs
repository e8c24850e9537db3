//! What the tests need: RabbitMQ, MySQL, and the programs of this package.
#![allow(dead_code)] // a test may use only a part of it

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, thread};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Something to call messages, other than in any run before.
pub fn unique() -> String {
    format!("test{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros())
}

/// The servers that the environment names, or those of compose.yaml in containers of their own,
/// which are gone after the test.
pub struct Servers {
    pub amqp_url: String,
    pub mysql_url: String,
    _containers: Option<Containers>,
}

impl Servers {
    /// RabbitMQ: the one that `AMQP_URL` names, or a container.
    pub fn rabbitmq() -> Self {
        match env::var("AMQP_URL") {
            Ok(amqp_url) => Self { amqp_url, mysql_url: String::new(), _containers: None },
            Err(_) => {
                let containers = Containers::start(&["rabbitmq"]);
                Self {
                    amqp_url: containers.url("amqp", "rabbitmq:5672", "%2f"),
                    mysql_url: String::new(),
                    _containers: Some(containers),
                }
            }
        }
    }

    /// RabbitMQ and MySQL: those that `AMQP_URL` and `MYSQL_URL` name, or containers.
    pub fn with_mysql() -> Self {
        match (env::var("AMQP_URL"), env::var("MYSQL_URL")) {
            (Ok(amqp_url), Ok(mysql_url)) => Self { amqp_url, mysql_url, _containers: None },
            _ => {
                let containers = Containers::start(&["rabbitmq", "mysql"]);
                Self {
                    amqp_url: containers.url("amqp", "rabbitmq:5672", "%2f"),
                    mysql_url: containers.url("mysql", "mysql:3306", "test"),
                    _containers: Some(containers),
                }
            }
        }
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        // target/debug/deps/test-... -> target/debug/name
        let test = env::current_exe().unwrap();
        let folder: PathBuf = test.ancestors().nth(2).unwrap().into();
        let mut command = Command::new(folder.join(name));
        command.args(arguments).env("AMQP_URL", &self.amqp_url).stdin(Stdio::null());
        for name in ["LOG_FORMAT", "HEALTH_LISTEN", "RUST_LOG"] {
            command.env_remove(name); // the tests read lines for people
        }
        if !self.mysql_url.is_empty() {
            command.env("MYSQL_URL", &self.mysql_url);
        }
        command
    }

    /// Runs a program to its end: what it says. It must succeed.
    pub fn run(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{name}: {said}");
        said
    }

    /// Starts a program that goes on, and waits until it waits for messages.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Program {
        let program = Program::start(self.command(name, arguments));
        program.wait_for(" [*] Waiting for ");
        program
    }

    /// Starts a program and does not wait.
    pub fn begin(&self, name: &str, arguments: &[&str]) -> Program {
        Program::start(self.command(name, arguments))
    }
}

/// A program that runs. It is killed when this is dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    early: RefCell<Vec<String>>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let other = sender.clone();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| other.send(line))
        });
        Self { child, lines, early: RefCell::default() }
    }

    /// The next line that begins so; the rest of it. Others stay: what is said on standard output
    /// and on standard error may come in another order.
    pub fn wait_for(&self, begin: &str) -> String {
        let mut early = self.early.borrow_mut();
        if let Some(place) = early.iter().position(|line| line.starts_with(begin)) {
            return early.remove(place)[begin.len()..].to_owned();
        }
        loop {
            let line = self.lines.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|_| panic!("no line begins with `{begin}`: {early:#?}"));
            match line.strip_prefix(begin) {
                Some(rest) => return rest.to_owned(),
                None => early.push(line),
            }
        }
    }

    /// Waits until all of these were in lines that begin so: what was in these lines.
    pub fn wait_for_all(&self, begin: &str, mut wanted: HashSet<String>) -> Vec<String> {
        let mut lines = Vec::new();
        while !wanted.is_empty() {
            lines.push(self.wait_for(begin));
            wanted.retain(|wanted| !lines.last().unwrap().starts_with(wanted));
        }
        lines
    }

    /// `kill -9`: the lines that it has printed since.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.early.take().into_iter().chain(self.lines.iter()).collect()
    }

    /// Asks it to end, as Docker and Kubernetes do. It must end well.
    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Servers of compose.yaml, at free ports of this machine, apart from those of another project.
struct Containers {
    project: String,
}

impl Containers {
    fn start(services: &[&str]) -> Self {
        let containers = Self { project: unique() };
        let up = containers.compose(&[&["up", "--detach", "--wait"], services].concat());
        up.unwrap_or_else(|said| {
            panic!("no servers: set AMQP_URL (and MYSQL_URL), or install Docker with Compose: {said}")
        });
        containers
    }

    /// The address of `service:port` on this machine.
    fn url(&self, scheme: &str, service: &str, path: &str) -> String {
        let (service, port) = service.split_once(':').unwrap();
        let address = self.compose(&["port", service, port]).unwrap();
        format!("{scheme}://guest:guest@{address}/{path}")
    }

    /// What Docker says; the error if it is one.
    fn compose(&self, arguments: &[&str]) -> Result<String, String> {
        let mut docker = Command::new("docker");
        docker.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        docker.args(["compose", "--project-name", &self.project]).args(arguments);
        for port in ["RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "RABBITMQ_STREAM_PORT", "MYSQL_PORT"] {
            docker.env(port, "0"); // any that is free
        }
        docker.env("SERVERS_RESTART", "no"); // what a killed test leaves behind ends with Docker
        let output = docker.output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let _ = self.compose(&["down", "--volumes"]);
    }
}
