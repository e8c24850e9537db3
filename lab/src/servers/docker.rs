//! The servers of docker-compose.yml: <https://docs.docker.com/reference/cli/docker/compose/>.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use crate::process::{Group, run as run_task, run_in_group, wait_until};
use crate::progress::Tasks;
use crate::root;
use crate::servers::mysql::users_of_tests;
use crate::servers::rabbitmq::tls;
use crate::servers::{Instance, Ports, Service};
use crate::url::Url;

/// The first that knows a `config` whose content stands in the file itself.
const OLDEST_COMPOSE: [u32; 3] = [2, 23, 1];

/// Pulls the images that are not there. `Err` if Docker cannot give the servers: why, in a few
/// words.
pub fn ready(tasks: &Tasks) -> Result<(), String> {
    let version = said(docker(&["compose", "version", "--short"]))
        .map_err(|_| "there is no `docker compose`".to_owned())?;
    if numbers(&version) < OLDEST_COMPOSE {
        return Err(format!("Docker Compose {version} is older than 2.23.1"));
    }
    let host = ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"];
    let here = ["unix:", "tcp://localhost:", "tcp://127.0.0.1:"];
    if let Ok(host) = said(docker(&host))
        && !here.iter().any(|start| host.starts_with(start))
    {
        return Err(format!("its engine, {host}, may be on another machine"));
    }
    said(docker(&["version", "--format", "{{.Server.Version}}"]))
        .map_err(|why| format!("its engine does not answer ({why})"))?;

    let file = root().join("docker-compose.yml");
    let mut compose = docker(&["compose", "--file"]);
    compose.arg(&file).args(["config", "--images"]);
    let images = said(compose)?;
    let missing = |image: &&str| said(docker(&["image", "inspect", image])).is_err();
    let missing: Vec<&str> = images.lines().filter(missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" and ");
    let task = tasks.start(format!("Pulling {names}"));
    let mut pull = docker(&["compose", "--file"]);
    pull.arg(&file).arg("pull");
    match run_task(&task, pull) {
        Ok(()) => task.done(&format!("Pulled {names}")),
        Err(error) => {
            let said = error.to_string();
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(format!("{names} cannot be pulled ({})", last.trim()));
        }
    }
    Ok(())
}

fn docker(arguments: &[&str]) -> Command {
    let mut docker = Command::new("docker");
    docker.args(arguments);
    docker
}

/// Runs a command that takes a moment: what it prints, or else the last line of its error.
fn said(mut command: Command) -> Result<String, String> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    if wait_until(Duration::from_secs(20), || !matches!(child.try_wait(), Ok(None))).is_err() {
        let _ = child.kill();
        let _ = child.wait();
        return Err("no answer within 20 s".to_owned());
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr).lines().next_back().unwrap_or_default().to_owned()),
    }
}

/// `[2, 26, 1]` of `v2.26.1-4`.
fn numbers(version: &str) -> [u32; 3] {
    let mut numbers = version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok());
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// `docker compose` for these servers.
fn compose(instance: &Instance) -> Command {
    let mut compose = docker(&["compose", "--file"]);
    compose.arg(root().join("docker-compose.yml"));
    // Always, so that `down` finds the volumes of nodes that were there before.
    compose.arg("--file").arg(root().join("10-cluster/docker-compose.yml"));
    let more = instance.whole().join("compose.json");
    if more.exists() {
        compose.arg("--file").arg(more);
    }
    for node in instance.nodes().iter().chain([instance]) {
        if let Some(number) = node.number() {
            let Ports { amqp, management, .. } = node.ports;
            compose
                .env(format!("RABBIT{number}_PORT"), amqp.to_string())
                .env(format!("RABBIT{number}_MANAGEMENT_PORT"), management.to_string());
        }
    }
    let Ports { amqp, management, stream, mysql, .. } = instance.ports;
    compose
        .args(["--project-name", &project(instance)])
        .env("RABBITMQ_PORT", amqp.to_string())
        .env("RABBITMQ_MANAGEMENT_PORT", management.to_string())
        .env("RABBITMQ_STREAM_PORT", stream.to_string())
        .env("MYSQL_PORT", mysql.to_string());
    for user in ["RABBITMQ_USER", "RABBITMQ_PASSWORD", "MYSQL_USER", "MYSQL_PASSWORD"] {
        compose.env(user, "guest"); // whatever the reader has set for servers of their own
    }
    compose
}

/// A name that no other checkout and no other temporary folder has: the folder's path, in the small
/// letters, digits, `-` and `_` that Compose takes.
pub fn project(instance: &Instance) -> String {
    let folder = instance.whole();
    let folder = fs::canonicalize(folder).unwrap_or(folder.to_owned());
    let path = folder.to_string_lossy().into_owned();
    let name = path.chars().map(|character| match character {
        'a'..='z' | '0'..='9' => character.to_string(),
        '/' => "-".to_owned(),
        other => format!("_{:x}", u32::from(other)),
    });
    format!("lab{}", name.collect::<String>())
}

/// What servers of a test need beside what stands in docker-compose.yml.
fn write_more(instance: &Instance) -> Result<()> {
    // No health checks: we look ourselves, and more often.
    let mut rabbitmq = json!({ "healthcheck": { "disable": true } });
    let mut configs = json!({ "users": { "content": users_of_tests("%") } });
    if let Some(certificate) = &instance.certificate {
        let folder = "/etc/rabbitmq";
        configs["tls"] = json!({ "content": tls("5671", folder) });
        let mut mounts =
            vec![json!({ "source": "tls", "target": "/etc/rabbitmq/conf.d/30-tls.conf" })];
        for (name, content) in certificate.files() {
            configs[name] = json!({ "content": content });
            mounts.push(json!({ "source": name, "target": format!("{folder}/{name}") }));
        }
        rabbitmq["configs"] = mounts.into();
        rabbitmq["ports"] = json!([format!("127.0.0.1:{}:5671", instance.ports.amqps)]);
    }
    let mysql = json!({
        "healthcheck": { "disable": true },
        "configs": [{ "source": "users", "target": "/docker-entrypoint-initdb.d/users.sql" }],
    });
    let mut more = json!({
        "services": { "rabbitmq": rabbitmq, "mysql": mysql },
        "configs": configs,
    });
    for node in instance.nodes() {
        let node = node.name(Service::Rabbitmq);
        more["services"][node] = json!({ "healthcheck": { "disable": true } });
    }
    fs::write(instance.file("compose.json"), serde_json::to_vec(&more)?)?;
    Ok(())
}

/// Creates and starts the containers of these services, all with one command.
pub fn up(instance: &Instance, services: &[Service], tasks: &Tasks) -> Result<()> {
    if instance.is_temporary() && instance.number().is_none() {
        write_more(instance)?;
    }
    let task = tasks.start("Starting containers");
    let mut up = compose(instance);
    let names = services.iter().flat_map(|&service| {
        instance.parts(service).into_iter().map(move |part| part.name(service))
    });
    up.args(["up", "--detach"]).args(names);
    if !instance.is_temporary() {
        return run_task(&task, up);
    }
    // In a group of its own: `down` ends it first, should we be ended in the middle of it.
    run_in_group(&task, up, &instance.whole().join("compose.pid"))
}

pub fn is_running(instance: &Instance, service: Service) -> bool {
    let mut ps = compose(instance);
    ps.args(["ps", "--quiet", "--status", "running", "--status", "paused"])
        .arg(instance.name(service));
    ps.output().is_ok_and(|output| !output.stdout.is_empty())
}

/// Runs a command of `docker compose` that takes a moment.
pub fn run(instance: &Instance, arguments: &[&str]) -> Result<()> {
    let output = compose(instance).args(arguments).output().context("cannot run docker")?;
    ensure!(
        output.status.success(),
        "docker compose {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Ends and removes all containers, cleanly or at once, and their network; their data, too, if
/// asked.
pub fn down(instance: &Instance, kill: bool, wipe: bool) -> Result<()> {
    if let Some(up) = Group::find(&instance.pid_file("compose")) {
        up.end(Signal::KILL, Duration::from_secs(10))?;
    }
    let mut arguments = vec!["down", "--remove-orphans"];
    arguments.extend(wipe.then_some("--volumes"));
    arguments.extend(kill.then_some(["--timeout", "0"]).into_iter().flatten());
    // An `up` that was ended in the middle may have left the engine something to create.
    for _ in 0..10 {
        run(instance, &arguments)?;
        if !kill || (nothing_left(instance, wipe)? && later(|| nothing_left(instance, wipe))?) {
            return Ok(());
        }
    }
    bail!("something of {} is left", project(instance))
}

fn later<T>(what: impl FnOnce() -> T) -> T {
    thread::sleep(Duration::from_millis(300));
    what()
}

/// Whether the engine has nothing of this project, except, perhaps, its data.
pub fn nothing_left(instance: &Instance, data: bool) -> Result<bool> {
    let label = format!("label=com.docker.compose.project={}", project(instance));
    let lists = [&["ps", "--all"][..], &["network", "ls"], &["volume", "ls"]];
    for list in &lists[..if data { 3 } else { 2 }] {
        let mut list = docker(list);
        list.args(["--quiet", "--filter", &label]);
        if !said(list).map_err(anyhow::Error::msg)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn log(instance: &Instance, service: Service) -> Vec<u8> {
    let mut logs = compose(instance);
    logs.args(["logs", "--no-color", "--no-log-prefix", &instance.name(service)]);
    logs.output().map(|output| output.stdout).unwrap_or_default()
}

pub fn rabbitmqctl(instance: &Instance) -> Command {
    let mut exec = compose(instance);
    exec.args(["exec", "--no-TTY", &instance.name(Service::Rabbitmq), "rabbitmqctl"]);
    exec
}

pub fn mysql(instance: &Instance, url: &Url) -> Command {
    let mut exec = compose(instance);
    exec.env("MYSQL_PWD", &url.password) // not in the list of processes
        .args(["exec", "--no-TTY", "--env", "MYSQL_PWD", "mysql"])
        .args(["mysql", "--batch", "-u", &url.user, "-D", &url.path]);
    exec
}

#[cfg(test)]
mod tests {
    use super::{OLDEST_COMPOSE, numbers};

    #[test]
    fn versions_of_compose() {
        assert_eq!(numbers("v2.26.1-4"), [2, 26, 1]);
        for old in ["1.29.2", "2.23.0", "v2.3.3", ""] {
            assert!(numbers(old) < OLDEST_COMPOSE, "{old}");
        }
        for new in ["2.23.1", "v2.24.0-desktop.1", "5.0.0"] {
            assert!(numbers(new) >= OLDEST_COMPOSE, "{new}");
        }
    }
}
