//! The servers that `up` has started: stopped, started, asked.

use std::io::{self, IsTerminal};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::progress::Tasks;
use crate::say;
use crate::servers::{Instance, Server, Service};
use crate::up::{Place, mysql_client, ours};
use crate::url::Url;

/// Makes the databases of the lessons empty.
const EMPTY: &str = "DROP DATABASE IF EXISTS test_admin; DROP DATABASE IF EXISTS test_main;
    DROP DATABASE IF EXISTS test; CREATE DATABASE test";

/// Our own server of this name, or node, whether it runs or not.
fn ours_named(server: Server) -> Result<(Instance, Service)> {
    let (part, service) = match (ours(), server) {
        (Some(ours), Server::All(service)) => (Some(ours), service),
        (Some(ours), Server::Node(number)) => (Some(ours.node(number)?), Service::Rabbitmq),
        (None, Server::All(service)) => (None, service),
        (None, Server::Node(_)) => (None, Service::Rabbitmq),
    };
    Ok((part.with_context(|| none(service.name()))?, service))
}

/// The same, if it runs.
fn ours_running(server: Server) -> Result<(Instance, Service)> {
    let (ours, service) = ours_named(server)?;
    ensure!(ours.is_running(service), none(&ours.name(service)));
    Ok((ours, service))
}

fn none(name: &str) -> String {
    format!(
        "no {name} that the lab has started runs here; `cargo lab up` starts one, `cargo lab status` shows what there is"
    )
}

/// Stops a server and starts it again.
pub fn restart(server: Server, kill: bool) -> Result<()> {
    let (ours, service) = ours_running(server)?;
    stop_ours(&ours, service, kill)?;
    ours.start(&[service], &Tasks::quiet())?;
    say!("{} {} and started it again", how(kill), ours.name(service));
    Ok(())
}

/// Stops a server. On a terminal, a line says so meanwhile.
fn stop_ours(ours: &Instance, service: Service, kill: bool) -> Result<()> {
    let _task = Tasks::quiet().start(format!("Stopping {}", ours.name(service)));
    ours.stop(service, kill)
}

fn how(kill: bool) -> &'static str {
    if kill { "Killed" } else { "Stopped" }
}

pub fn stop(server: Server, kill: bool) -> Result<()> {
    let (ours, service) = ours_running(server)?;
    stop_ours(&ours, service, kill)?;
    say!("{} {}", how(kill), ours.name(service));
    Ok(())
}

/// Starts a server again that `up` has started once.
pub fn start(server: Server) -> Result<()> {
    let (ours, service) = ours_named(server)?;
    let name = ours.name(service);
    if !ours.is_cluster() && ours.is_running(service) {
        say!("{name} runs already");
        return Ok(());
    }
    ours.start(&[service], &Tasks::quiet())?;
    say!("Started {name}");
    Ok(())
}

/// Makes a server stop answering, or ends that.
pub fn pause(server: Server, pause: bool) -> Result<()> {
    let (ours, service) = ours_running(server)?;
    match pause {
        true => ours.pause(service)?,
        false => ours.resume(service)?,
    }
    say!("{} {}", if pause { "Paused" } else { "Resumed" }, ours.name(service));
    Ok(())
}

/// Deletes all queues, exchanges, policies and tables, so that a page can be followed again.
pub fn reset() -> Result<()> {
    let ours = ours().filter(|ours| Service::ALL.iter().any(|&service| ours.is_running(service)));
    let ours = ours.with_context(|| none("server"))?;
    if ours.is_running(Service::Rabbitmq) {
        let management = ours.management();
        management.delete("vhosts/%2F")?;
        management.put("vhosts/%2F")?; // who creates it may do everything in it
        say!("{}: deleted all queues, exchanges and policies", Service::Rabbitmq.name());
    }
    if ours.is_running(Service::Mysql) {
        let url = Url::parse(&ours.mysql_url()).context("no address of MySQL")?;
        let client = ours.mysql(&url).context("there is no client of MySQL on this machine")?;
        ensure!(run_mysql(client, EMPTY)? == 0, "MySQL has not deleted its tables");
        say!("{}: deleted all tables", Service::Mysql.name());
    }
    Ok(())
}

/// Runs one of RabbitMQ's own command line tools against our RabbitMQ; its exit code. A node may be
/// named as the lab names it: `-n rabbit2`.
pub fn rabbitmq_tool(tool: &str, arguments: &[String]) -> Result<i32> {
    let (ours, _) = ours_running(Server::All(Service::Rabbitmq))?;
    let nodes = ours.nodes();
    let mut arguments = arguments.to_vec();
    for index in 1..arguments.len() {
        let before = arguments[index - 1].as_str();
        let named = nodes.iter().find(|node| node.name(Service::Rabbitmq) == arguments[index]);
        if let Some(node) = named.filter(|_| ["-n", "--node"].contains(&before)) {
            arguments[index] = node.node_name();
        }
    }
    let mut command = ours.rabbitmqctl()?;
    if tool != "rabbitmqctl" {
        command.args(["--script-name", tool]);
    }
    if io::stdin().is_terminal() {
        command.stdin(Stdio::null()); // or it swallows what is typed behind this command
    }
    let status = command.args(arguments).status()?;
    Ok(status.code().unwrap_or(1))
}

/// Runs MySQL's own command line tool against our MySQL, or that which `MYSQL_URL` names.
pub fn mysql(statement: &str) -> Result<i32> {
    let url = Place::first(Service::Mysql)?.url;
    let client = mysql_client(&url);
    let client = client.context("there is no `mysql` or `mariadb` client on this machine")?;
    run_mysql(client, statement)
}

fn run_mysql(mut client: Command, statement: &str) -> Result<i32> {
    let status = client.args(["-e", statement]).status()?;
    Ok(status.code().unwrap_or(1))
}
