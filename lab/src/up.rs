//! The servers for working by hand: found where they run already, or started.

use std::env;
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::install::{self, install};
use crate::play::INSTANCE;
use crate::progress::Tasks;
use crate::root;
use crate::servers::management::Management;
use crate::servers::probe::{self, Answer};
use crate::servers::{Backend, Instance, Ports, Service};
use crate::url::{Url, encode};

/// Where the management page of a RabbitMQ is that we have not started, as docker-compose.yml has
/// it.
const MANAGEMENT_PORT: &str = "RABBITMQ_MANAGEMENT_PORT";

/// Where a service is to be looked for.
struct Place {
    service: Service,
    url: Url,
    /// Whether the URL is from the environment.
    given: bool,
}

impl Place {
    fn of(service: Service) -> Result<Self> {
        let schemes: &[&str] = match service {
            Service::Rabbitmq => &["amqp", "amqps"],
            Service::Mysql => &["mysql"],
        };
        let given = Url::from_env(Self::variable(service), schemes)?;
        let default = match service {
            Service::Rabbitmq => "amqp://guest:guest@localhost:5672/%2f",
            Service::Mysql => "mysql://guest:guest@localhost:3306/test",
        };
        Ok(Self {
            service,
            given: given.is_some(),
            url: given.or_else(|| Url::parse(default)).context("no URL")?,
        })
    }

    fn variable(service: Service) -> &'static str {
        match service {
            Service::Rabbitmq => "AMQP_URL",
            Service::Mysql => "MYSQL_URL",
        }
    }

    fn probe(&self) -> Answer {
        match self.service {
            Service::Rabbitmq => probe::rabbitmq(&self.url),
            Service::Mysql => probe::mysql(&self.url, mysql_client(&self.url)),
        }
    }

    /// The name and version of what answers; `None` if nothing does.
    ///
    /// # Errors
    ///
    /// Something is there that cannot be used: what, and what to set.
    fn find(&self) -> Result<Option<String>> {
        let Url { user, path, .. } = &self.url;
        let address = self.url.address();
        let variable = Self::variable(self.service);
        let (kind, form) = match self.service {
            Service::Rabbitmq => ("RabbitMQ", "amqp://user:password@host:port/vhost"),
            Service::Mysql => ("MySQL", "mysql://user:password@host:port/database"),
        };
        match self.probe() {
            Answer::Server(name) => Ok(Some(name)),
            Answer::Nothing if self.given => {
                bail!(
                    "{variable} names {address}, but nothing answers there. Start that server, or unset {variable}"
                )
            }
            Answer::Nothing => Ok(None),
            Answer::Refused(reason) => bail!(
                "the {kind} at {address} does not let user `{user}` into `{path}`: {reason}. \
                 Set {variable}={form} to what it accepts. With Docker that is the user of the first \
                 start, which the volume keeps until `docker compose down --volumes`"
            ),
            Answer::Other(what) => bail!(
                "port {} is taken, but not by {kind} ({what}). \
                 Stop what listens there, or start {kind} elsewhere and set {variable}={form}",
                self.url.port
            ),
        }
    }
}

/// The servers that the lab has started: those of the README that is played, or of this checkout.
pub fn ours() -> Option<Instance> {
    let folder = env::var_os(INSTANCE).map_or_else(|| root().join(".lab"), PathBuf::from);
    Instance::load(&folder)
}

/// Our own servers, if the server that is meant is one of them: `AMQP_URL` may name another one
/// while ours runs.
fn ours_at(service: Service, url: &Url) -> Option<Instance> {
    ours().filter(|ours| {
        ["localhost", "127.0.0.1"].contains(&url.host.as_str())
            && url.port == ours.port(service)
            && ours.is_running(service)
    })
}

fn is_ours(place: &Place) -> bool {
    ours_at(place.service, &place.url).is_some()
}

/// MySQL's own command line tool for this database: this machine's, or that in our container.
fn mysql_client(url: &Url) -> Option<Command> {
    probe::mysql_client(url).or_else(|| ours_at(Service::Mysql, url)?.mysql(url))
}

/// Finds or starts RabbitMQ and MySQL, and says which.
pub fn up(tasks: &Tasks) -> Result<()> {
    let mut missing = Vec::new();
    for service in Service::ALL {
        let place = Place::of(service)?;
        match place.find()? {
            Some(name) => println!("{}", describe(&place, &name)),
            None => missing.push(service),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if missing.contains(&Service::Rabbitmq) {
        let port = Ports::DEFAULT.management;
        TcpListener::bind(("127.0.0.1", port)).with_context(|| {
            format!("RabbitMQ's management page needs port {port}, which is in use. Stop what listens there")
        })?;
    }
    let backend = match ours() {
        Some(ours) if Service::ALL.iter().any(|&service| ours.is_running(service)) => ours.backend,
        _ => Backend::docker_or_local(tasks),
    };
    if backend == Backend::Local {
        let packages: Vec<_> = missing.iter().copied().map(install::server).collect();
        install(&packages, tasks)?;
    }
    Instance::of_checkout(backend).start(&missing, tasks)?;
    for service in missing {
        let place = Place::of(service)?;
        let name = place.find()?.with_context(|| format!("{} has ended again", service.name()))?;
        println!("{}", describe(&place, &name));
    }
    Ok(())
}

fn describe(place: &Place, name: &str) -> String {
    let whose = match (is_ours(place), place.given) {
        (true, _) => "started by the lab",
        (false, true) => match place.service {
            Service::Rabbitmq => "named by AMQP_URL",
            Service::Mysql => "named by MYSQL_URL",
        },
        (false, false) => "not started by the lab",
    };
    let page = match (place.service, ours()) {
        (Service::Rabbitmq, Some(ours)) if is_ours(place) => {
            format!("; management page: http://localhost:{} (guest, guest)", ours.ports.management)
        }
        _ => String::new(),
    };
    format!("{name} at {}, {whose}{page}", place.url.address())
}

/// Stops what `up` has started in this checkout.
pub fn down(wipe: bool) -> Result<()> {
    let Some(ours) = ours() else {
        println!("Nothing to stop: the lab has started no server for this checkout");
        return Ok(());
    };
    let running: Vec<_> =
        Service::ALL.iter().filter(|&&service| ours.is_running(service)).collect();
    ours.stop_all(false)?;
    for service in running {
        println!("Stopped {}", service.name());
    }
    if wipe {
        ours.remove()?;
        println!("Forgot their data");
    }
    Ok(())
}

/// Our own instance, with this service running in it.
fn ours_running(service: Service) -> Result<Instance> {
    ours().filter(|ours| ours.is_running(service)).with_context(|| {
        format!(
            "no {} that the lab has started runs here; `cargo lab up` starts one, `cargo lab status` shows what there is",
            service.name()
        )
    })
}

/// Stops a server and starts it again.
pub fn restart(service: Service, kill: bool) -> Result<()> {
    let ours = ours_running(service)?;
    ours.stop(service, kill)?;
    ours.start(&[service], &Tasks::quiet())?;
    let how = if kill { "Killed" } else { "Stopped" };
    println!("{how} {} and started it again", service.name());
    Ok(())
}

/// Runs RabbitMQ's own command line tool against our RabbitMQ; its exit code.
pub fn rabbitmqctl(arguments: &[String]) -> Result<i32> {
    let mut command = ours_running(Service::Rabbitmq)?.rabbitmqctl()?;
    if io::stdin().is_terminal() {
        command.stdin(Stdio::null()); // or it swallows what is typed behind this command
    }
    let status = command.args(arguments).status()?;
    Ok(status.code().unwrap_or(1))
}

/// Runs MySQL's own command line tool against our MySQL, or that which `MYSQL_URL` names.
pub fn mysql(statement: &str) -> Result<i32> {
    let url = Place::of(Service::Mysql)?.url;
    let client = mysql_client(&url);
    let mut client = client.context("there is no `mysql` or `mariadb` client on this machine")?;
    let status = client.args(["-e", statement]).status()?;
    Ok(status.code().unwrap_or(1))
}

/// What runs where, and the queues.
pub fn status() -> Result<()> {
    for service in Service::ALL {
        let place = Place::of(service)?;
        match place.find() {
            Ok(Some(name)) => println!("{}", describe(&place, &name)),
            Ok(None) => println!(
                "No {} at {}; `cargo lab up` starts one",
                service.name(),
                place.url.address()
            ),
            Err(error) => println!("{error}"),
        }
    }
    match queues()? {
        None => {}
        Some(queues) if queues.is_empty() => println!("No queues"),
        Some(queues) => {
            println!("{:<30} {:>9} {:>9}", "Queue", "Messages", "Consumers");
            let count =
                |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
            for queue in queues {
                let (messages, consumers) = (count(queue.messages), count(queue.consumers));
                println!("{:<30} {messages:>9} {consumers:>9}", queue.name);
            }
        }
    }
    Ok(())
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
    let place = Place::of(Service::Rabbitmq)?;
    if !matches!(place.probe(), Answer::Server(_)) {
        return Ok(None);
    }
    let mut queues: Vec<Queue> = if let Some(ours) = ours_at(place.service, &place.url) {
        let output = ours
            .rabbitmqctl()?
            .args(["--quiet", "--formatter", "json", "--vhost", &place.url.path])
            .args(["list_queues", "name", "messages", "consumers"])
            .output()?;
        serde_json::from_slice(&output.stdout)
            .context("rabbitmqctl says something else than its queues")?
    } else {
        // The figures of the management page are a few seconds old.
        let Url { host, user, password, path, .. } = place.url;
        let port = match env::var(MANAGEMENT_PORT) {
            Ok(port) => port.parse().with_context(|| format!("{MANAGEMENT_PORT} is not a port"))?,
            Err(_) => Ports::DEFAULT.management,
        };
        let page = format!("http://{host}:{port}");
        match (Management { host, port, user, password }).get(&format!("queues/{}", encode(&path)))
        {
            Ok(list) => serde_json::from_value(list).context("no list of queues")?,
            Err(error) => {
                println!("No list of queues: no management page at {page} ({error})");
                return Ok(None);
            }
        }
    };
    queues.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Some(queues))
}
