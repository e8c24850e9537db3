//! What runs where, and what waits in the queues.

use std::io::{IsTerminal, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result};
use serde::Deserialize;
use signal_hook::{consts::SIGINT, flag};

use crate::say;
use crate::servers::management::Management;
use crate::servers::probe::Answer;
use crate::servers::{Instance, Ports, Service};
use crate::up::{Place, describe, ours_at, ours_of};
use crate::url::{Url, encode};

/// Where the management page of a RabbitMQ is that we have not started, as docker-compose.yml has
/// it.
const MANAGEMENT_PORT: &str = "RABBITMQ_MANAGEMENT_PORT";

/// What runs where, and the queues.
pub fn status() -> Result<()> {
    for service in Service::ALL {
        for place in Place::all(service)? {
            match place.find() {
                Ok(Some(name)) => say!("{}", describe(&place, &name)),
                answer => say!("{}", missing(&place, answer.err())),
            }
        }
    }
    match queues()? {
        None => {}
        Some(queues) if queues.is_empty() => say!("No queues"),
        Some(queues) => {
            say!("{:<30} {:>9} {:>9}", "Queue", "Messages", "Consumers");
            let count =
                |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
            for queue in queues {
                let (messages, consumers) = (count(queue.messages), count(queue.consumers));
                say!("{:<30} {messages:>9} {consumers:>9}", queue.name);
            }
        }
    }
    Ok(())
}

/// The same again each second, until Ctrl-C. On a terminal, in the place of the one before.
pub fn watch() -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, Arc::clone(&stop))?;
    while !stop.load(Ordering::Relaxed) {
        if stdout().is_terminal() {
            say!("\x1b[2J\x1b[HEach second; Ctrl-C ends it");
        }
        // Ctrl-C ends what we have started just then, too.
        status().or_else(|error| stop.load(Ordering::Relaxed).then_some(()).ok_or(error))?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// What there is to say of a server that cannot be used, and why, if that is known.
fn missing(place: &Place, error: Option<anyhow::Error>) -> String {
    let (service, address) = (place.service, place.url.address());
    let node = ours_of(service, &place.url).filter(Instance::is_node);
    match (node, error) {
        (Some(node), _) if node.is_running(service) => {
            format!("{}: does not answer, at {address}", node.name(service))
        }
        (Some(node), _) => {
            let name = node.name(service);
            format!("{name}: stopped, at {address}; `cargo lab start {name}` starts it")
        }
        (None, Some(error)) => error.to_string(),
        (None, None) => format!("No {} at {address}; `cargo lab up` starts one", service.name()),
    }
}

/// What `status` shows of a queue. RabbitMQ leaves out what it does not know, for a queue that is
/// down.
#[derive(Deserialize)]
struct Queue {
    name: String,
    messages: Option<u64>,
    consumers: Option<u64>,
}

/// Each queue of the virtual host; `None` if there is no RabbitMQ to ask.
fn queues() -> Result<Option<Vec<Queue>>> {
    let place = Place::first(Service::Rabbitmq)?;
    if !matches!(place.probe(), Answer::Server(_)) {
        return Ok(None);
    }
    let mut queues: Vec<Queue> = if let Some(ours) = ours_at(place.service, &place.url) {
        let output = ours
            .rabbitmqctl()?
            .args(["--quiet", "--formatter", "json", "--vhost", &place.url.path])
            .args(["list_queues", "name", "messages", "consumers"])
            .output()?;
        if !output.status.success() {
            // "Error:" alone may be the first line
            let error = String::from_utf8_lossy(&output.stderr);
            let error: Vec<&str> = error.lines().filter(|line| !line.is_empty()).take(2).collect();
            say!("No list of queues: rabbitmqctl: {}", error.join(" "));
            return Ok(None);
        }
        serde_json::from_slice(&output.stdout)
            .context("rabbitmqctl says something else than its queues")?
    } else {
        // The figures of the management page are a few seconds old.
        let Url { scheme, host, user, password, path, .. } = place.url;
        if scheme == "amqps" {
            say!("No list of queues: AMQP_URL asks for TLS (amqps), which the lab does not speak");
            return Ok(None);
        }
        let port = match env::var(MANAGEMENT_PORT) {
            Ok(port) => port.parse().with_context(|| format!("{MANAGEMENT_PORT} is not a port"))?,
            Err(_) => Ports::DEFAULT.management,
        };
        let page = format!("http://{host}:{port}");
        match (Management { host, port, user, password }).get(&format!("queues/{}", encode(&path)))
        {
            Ok(list) => serde_json::from_value(list).context("no list of queues")?,
            Err(error) => {
                say!("No list of queues: no management page at {page} ({error})");
                return Ok(None);
            }
        }
    };
    queues.sort_by(|one, other| one.name.cmp(&other.name));
    // Each node lists the queues that it leads. For a queue that moves just now, two of them do.
    queues.dedup_by(|one, other| one.name == other.name);
    Ok(Some(queues))
}
