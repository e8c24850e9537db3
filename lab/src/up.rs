//! The servers for working by hand: found where they run already, or started.

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::install::{self, install};
use crate::play::INSTANCE;
use crate::progress::Tasks;
use crate::root;
use crate::say;
use crate::servers::probe::{self, Answer};
use crate::servers::{Backend, Instance, NODES, Ports, SERVERS, Service};
use crate::url::Url;

/// Where a service is to be looked for.
pub(crate) struct Place {
    pub service: Service,
    pub url: Url,
    /// Whether the URL is from the environment.
    given: bool,
}

impl Place {
    /// What the environment names, or else the nodes that we have started, or the default port.
    pub fn all(service: Service) -> Result<Vec<Self>> {
        let (schemes, default): (&[&str], _) = match service {
            Service::Rabbitmq => (&["amqp", "amqps"], "amqp://guest:guest@localhost:5672/%2f"),
            Service::Mysql => (&["mysql"], "mysql://guest:guest@localhost:3306/test"),
        };
        let given = Url::from_env(Self::variable(service), schemes)?;
        let is_given = given.is_some();
        let default = match (service, ours()) {
            (Service::Rabbitmq, Some(ours)) if ours.is_cluster() => ours.amqp_url(),
            _ => default.to_owned(),
        };
        let urls = given.or_else(|| default.split(',').map(Url::parse).collect());
        let place = |url| Self { service, url, given: is_given };
        Ok(urls.context("no URL")?.into_iter().map(place).collect())
    }

    /// The first of them that answers, or else the first.
    pub fn first(service: Service) -> Result<Self> {
        let mut places = Self::all(service)?;
        let answers = |place: &Self| matches!(place.probe(), Answer::Server(_));
        let first = match places.len() {
            1 => 0,
            _ => places.iter().position(answers).unwrap_or(0),
        };
        Ok(places.swap_remove(first))
    }

    fn variable(service: Service) -> &'static str {
        match service {
            Service::Rabbitmq => "AMQP_URL",
            Service::Mysql => "MYSQL_URL",
        }
    }

    pub fn probe(&self) -> Answer {
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
    pub fn find(&self) -> Result<Option<String>> {
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
            Answer::Other(what) => {
                if let Some(ours) = ours_at(self.service, &self.url) {
                    let name = ours.name(self.service);
                    bail!(
                        "{name} at {address} runs, but cannot be used: {what}. If it is paused, \
                         `cargo lab resume {name}` lets it go on"
                    );
                }
                bail!(
                    "port {} is taken, but not by {kind} ({what}). \
                     Stop what listens there, or start {kind} elsewhere and set {variable}={form}",
                    self.url.port
                )
            }
        }
    }
}

/// The servers that the lab has started: those of the README that is played, or of this checkout.
pub fn ours() -> Option<Instance> {
    let folder = env::var_os(INSTANCE).map_or_else(|| root().join(".lab"), PathBuf::from);
    Instance::load(&folder)
}

/// Our own server, or node, that has this address, whether it runs or not.
pub(crate) fn ours_of(service: Service, url: &Url) -> Option<Instance> {
    let local = ["localhost", "127.0.0.1"].contains(&url.host.as_str());
    let mut parts = ours().filter(|_| local)?.parts(service).into_iter();
    parts.find(|part| url.port == part.port(service))
}

/// Our own server, or node, at this address: `AMQP_URL` may name another one while ours runs.
pub(crate) fn ours_at(service: Service, url: &Url) -> Option<Instance> {
    ours_of(service, url).filter(|ours| ours.is_running(service))
}

/// MySQL's own command line tool for this database: this machine's, or that in our container.
pub(crate) fn mysql_client(url: &Url) -> Option<Command> {
    probe::mysql_client(url).or_else(|| ours_at(Service::Mysql, url)?.mysql(url))
}

/// Finds or starts RabbitMQ and MySQL, and says which. With `nodes`, RabbitMQ is a cluster.
pub fn up(nodes: Option<usize>, tasks: &Tasks) -> Result<()> {
    let running = ours().filter(|ours| Service::ALL.iter().any(|&one| ours.is_running(one)));
    let cluster = running.as_ref().is_some_and(Instance::is_cluster);
    let wanted = nodes.map_or(cluster, |nodes| nodes == NODES);
    if let (Some(ours), true) = (&running, nodes.is_some() && wanted != cluster) {
        ensure!(
            !ours.is_running(Service::Rabbitmq),
            "RabbitMQ runs already, with another number of nodes: `cargo lab down` stops it"
        );
    }
    let mut missing = Vec::new();
    for service in Service::ALL {
        let complete = match service {
            Service::Rabbitmq if wanted => find_nodes()?,
            _ => find(service)?,
        };
        if !complete {
            missing.push(service);
        }
    }
    if !missing.is_empty() {
        let backend = match running {
            Some(ours) => ours.backend,
            None if env::var_os(SERVERS).is_some() => Backend::choose(tasks)?,
            None => Backend::docker_or_local(tasks),
        };
        if backend == Backend::Local {
            let packages: Vec<_> = missing.iter().copied().map(install::server).collect();
            install(&packages, tasks)?;
        }
        let servers = Instance::of_checkout(backend);
        let servers = if wanted { servers.with_nodes()? } else { servers };
        servers.start(&missing, tasks)?;
        for service in missing {
            let found = find(service)?;
            ensure!(found, "{} has ended again", service.name());
        }
    }
    if let Some(ours) = ours().filter(|_| wanted) {
        say!("So that programs find all nodes:\nexport AMQP_URL={}", ours.amqp_url());
    }
    Ok(())
}

/// Says what answers. Whether something does; what is missing must be startable.
fn find(service: Service) -> Result<bool> {
    let places = Place::all(service)?;
    let mut unanswered = Vec::new();
    for place in &places {
        match places.len() {
            1 => match place.find()? {
                Some(name) => say!("{}", describe(place, &name)),
                None => unanswered.push(place),
            },
            _ => match place.probe() {
                Answer::Nothing => unanswered.push(place),
                _ => say!("{}", describe(place, &place.find()?.unwrap_or_default())),
            },
        }
    }
    if unanswered.len() < places.len() {
        for place in unanswered {
            say!("Nothing at {}", place.url.address());
        }
        return Ok(true);
    }
    for place in unanswered {
        place.find()?; // an error, if the environment names it
    }
    if service == Service::Rabbitmq {
        is_free(Ports::DEFAULT.management)?;
    }
    Ok(false)
}

fn is_free(port: u16) -> Result<()> {
    TcpListener::bind(("127.0.0.1", port)).map(drop).with_context(|| {
        format!("RabbitMQ or its management page needs port {port}, which is in use. Stop what listens there")
    })
}

/// Says which nodes of ours there are. Whether all of them run; what is missing must be startable.
fn find_nodes() -> Result<bool> {
    let servers = match ours().filter(Instance::is_cluster) {
        Some(ours) => ours,
        None => Instance::of_checkout(Backend::Local).with_nodes()?,
    };
    let nodes = servers.nodes();
    let ours = |url: &Url| {
        let ports = nodes.iter().any(|node| node.ports.amqp == url.port);
        ports && ["localhost", "127.0.0.1"].contains(&url.host.as_str())
    };
    let given = Place::all(Service::Rabbitmq)?;
    ensure!(
        given.iter().all(|place| !place.given || ours(&place.url)),
        "AMQP_URL names other servers than the nodes, which are at {}: unset it",
        servers.amqp_url()
    );
    let running = |node: &&Instance| node.is_running(Service::Rabbitmq);
    if nodes.iter().filter(running).count() == NODES {
        return find(Service::Rabbitmq);
    }
    for node in nodes.iter().filter(|node| !running(node)) {
        is_free(node.ports.amqp)?;
        is_free(node.ports.management)?;
    }
    Ok(false)
}

pub(crate) fn describe(place: &Place, name: &str) -> String {
    let ours = ours_at(place.service, &place.url);
    let node = ours.as_ref().filter(|ours| ours.is_node());
    let node = node.map_or(String::new(), |node| format!("{}: ", node.name(place.service)));
    let whose = match (&ours, place.given) {
        (Some(_), _) => "started by the lab",
        (None, true) => match place.service {
            Service::Rabbitmq => "named by AMQP_URL",
            Service::Mysql => "named by MYSQL_URL",
        },
        (None, false) => "not started by the lab",
    };
    let page = match (place.service, &ours) {
        (Service::Rabbitmq, Some(ours)) => {
            format!("; management page: http://localhost:{} (guest, guest)", ours.ports.management)
        }
        _ => String::new(),
    };
    format!("{node}{name} at {}, {whose}{page}", place.url.address())
}

/// Stops what `up` has started in this checkout.
pub fn down(wipe: bool) -> Result<()> {
    let Some(ours) = ours() else {
        say!("Nothing to stop: the lab has started no server for this checkout");
        return Ok(());
    };
    let parts = Service::ALL.into_iter().flat_map(|service| {
        ours.parts(service).into_iter().map(move |part| (part.name(service), part, service))
    });
    let running: Vec<_> = parts.filter(|(_, part, service)| part.is_running(*service)).collect();
    ours.stop_all(false)?;
    for (name, ..) in running {
        say!("Stopped {name}");
    }
    if wipe {
        ours.remove()?;
        say!("Forgot their data");
    }
    Ok(())
}
