//! The servers of a checkout, of a play or of a test: started, stopped and asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, process, thread};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::process::{Group, wait_until};
use crate::progress::Tasks;
use crate::root;
use crate::servers::cluster::Node;
use crate::servers::management::Management;
use crate::servers::probe::{self, Answer};
use crate::servers::{Backend, Certificate, Ports, Service, docker};
use crate::url::Url;

const STOP_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Everything about these servers: configuration, data, logs, numbers of processes.
    #[serde(skip)]
    pub folder: PathBuf,
    pub backend: Backend,
    pub ports: Ports,
    pub certificate: Option<Certificate>,
    /// Where the nodes listen, but the first, if RabbitMQ is a cluster.
    #[serde(default)]
    pub others: Vec<Ports>,
    /// If it is a node of a cluster: which.
    #[serde(skip)]
    pub(super) node: Option<Node>,
}

impl Instance {
    /// The servers of this checkout, at the default ports; they stay until `cargo lab down`.
    pub fn of_checkout(backend: Backend) -> Self {
        Self::new(root().join(".lab"), backend, Ports::DEFAULT)
    }

    fn new(folder: PathBuf, backend: Backend, ports: Ports) -> Self {
        Self { folder, backend, ports, certificate: None, others: Vec::new(), node: None }
    }

    /// A new folder among the temporary files, for servers at free ports.
    /// [`crate::guard::Guard`] sees to it that they go again.
    pub fn temporary_folder() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        env::temp_dir().join(format!("rabbitmq-course-{}-{number}", process::id()))
    }

    /// Servers at free ports, in a folder of [`Self::temporary_folder`].
    pub fn temporary(folder: PathBuf, backend: Backend) -> Result<Self> {
        Ok(Self::new(folder, backend, Ports::free()?))
    }

    /// Whether these are servers of a play or of tests, and not those of the checkout.
    pub(super) fn is_temporary(&self) -> bool {
        self.whole() != root().join(".lab")
    }

    /// The servers that live in a folder, whoever started them.
    pub fn load(folder: &Path) -> Option<Self> {
        let state = fs::read(folder.join("instance.json")).ok()?;
        let state: Self = serde_json::from_slice(&state).ok()?;
        Some(Self { folder: folder.to_owned(), ..state })
    }

    fn save(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        if self.node.is_some() {
            return Ok(()); // the cluster has saved it
        }
        fs::write(self.file("instance.json"), serde_json::to_vec(self)?)?;
        Ok(())
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Of a cluster, a list: the address of each node.
    pub fn amqp_url(&self) -> String {
        self.amqp_url_of("%2f")
    }

    fn amqp_url_of(&self, vhost: &str) -> String {
        let url = |node: Self| format!("amqp://guest:guest@localhost:{}/{vhost}", node.ports.amqp);
        self.parts(Service::Rabbitmq).into_iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// The same broker, for the stream protocol.
    pub fn stream_url(&self) -> String {
        format!("rabbitmq-stream://guest:guest@localhost:{}/%2f", self.ports.stream)
    }

    pub fn mysql_url(&self) -> String {
        format!("mysql://guest:guest@localhost:{}/test", self.ports.mysql)
    }

    pub fn port(&self, service: Service) -> u16 {
        match service {
            Service::Rabbitmq => self.ports.amqp,
            Service::Mysql => self.ports.mysql,
        }
    }

    pub(super) fn log_file(&self, service: Service) -> PathBuf {
        self.file(&format!("{}.log", service.name()))
    }

    /// What a service has said since it was started the last time (with Docker, the first time).
    pub fn log(&self, service: Service) -> String {
        let log = |part: Self| match self.backend {
            Backend::Local => fs::read(part.log_file(service)).unwrap_or_default(),
            Backend::Docker => docker::log(&part, service),
        };
        let logs = self.parts(service).into_iter().map(log);
        String::from_utf8_lossy(&logs.collect::<Vec<_>>().concat()).into_owned()
    }

    /// Whether we have started it and it still runs.
    pub fn is_running(&self, service: Service) -> bool {
        self.parts(service).iter().any(|part| match self.backend {
            Backend::Local => part.group(service).is_some(),
            Backend::Docker => docker::is_running(part, service),
        })
    }

    pub(super) fn group(&self, service: Service) -> Option<Group> {
        Group::find(&self.pid_file(service.name()))
    }

    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.pid"))
    }

    /// MySQL's own command line tool for a database of ours, if there is one.
    pub fn mysql(&self, url: &Url) -> Option<Command> {
        match self.backend {
            Backend::Local => probe::mysql_client(url),
            Backend::Docker => Some(docker::mysql(self, url)),
        }
    }

    /// Starts those of the services that do not run yet, side by side, and waits until they answer.
    pub fn start(&self, services: &[Service], tasks: &Tasks) -> Result<()> {
        self.save()?;
        // Two `docker compose up` side by side would create the project's network twice.
        // Without names it would start all that there are.
        if self.backend == Backend::Docker && !services.is_empty() {
            docker::up(self, services, tasks)?;
        }
        if self.backend == Backend::Local && services.contains(&Service::Rabbitmq) {
            self.prepare_rabbitmq()?;
        }
        self.side_by_side(services, |part, service| {
            let task = tasks.start(format!("Starting {}", part.title(service)));
            if self.backend == Backend::Local && !part.is_running(service) {
                let free = || part.probe(service) == Answer::Nothing;
                wait_until(Duration::from_secs(3), free).with_context(|| {
                    let (name, port) = (part.name(service), part.port(service));
                    format!("{name} needs the port {port}, where something else listens: stop that")
                })?;
                match service {
                    Service::Rabbitmq => part.start_rabbitmq()?,
                    Service::Mysql => part.start_mysql(&task)?,
                }
            }
            task.say("waiting for it to answer");
            let mut answer = part.wait_for(service);
            let local = self.backend == Backend::Local;
            if answer.is_err() && local && part.is_node() && !part.is_running(service) {
                // A node of RabbitMQ 3.10 ends if it asks another one for its feature flags that
                // is just starting, too (seen once, when all three were started after a kill).
                part.start_rabbitmq()?;
                answer = part.wait_for(service);
            }
            let name = answer?;
            let port = part.port(service);
            task.done(&format!("{name} runs at localhost:{port}"));
            Ok(())
        })?;
        match self.is_cluster() && services.contains(&Service::Rabbitmq) {
            true => self.wait_for_nodes(),
            false => Ok(()),
        }
    }

    /// Does something to each of the services, and to each of their nodes, all at once.
    fn side_by_side(
        &self,
        services: &[Service],
        what: impl Fn(&Self, Service) -> Result<()> + Sync,
    ) -> Result<()> {
        let parts =
            |&service: &Service| self.parts(service).into_iter().map(move |part| (part, service));
        let what = &what;
        thread::scope(|scope| {
            let start = |(part, service)| scope.spawn(move || what(&part, service));
            let threads: Vec<_> = services.iter().flat_map(parts).map(start).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread of the lab has panicked"),
            })
        })
    }

    /// RabbitMQ's management plugin.
    pub fn management(&self) -> Management {
        Management {
            host: "localhost".to_owned(),
            port: self.spokesman().ports.management,
            user: "guest".to_owned(),
            password: "guest".to_owned(),
        }
    }

    /// A virtual host of this name, with everything allowed to `guest`; its URL.
    pub fn create_vhost(&self, name: &str) -> Result<String> {
        self.management().put(&format!("vhosts/{name}"))?;
        Ok(self.amqp_url_of(name))
    }

    /// Makes a service stop answering: it is not gone, and does nothing any more.
    pub fn pause(&self, service: Service) -> Result<()> {
        self.signal(service, Signal::STOP, "pause")
    }

    /// Ends a [`Self::pause`].
    pub fn resume(&self, service: Service) -> Result<()> {
        self.signal(service, Signal::CONT, "unpause")
    }

    fn signal(&self, service: Service, signal: Signal, docker: &str) -> Result<()> {
        self.side_by_side(&[service], |part, service| {
            if self.backend == Backend::Docker {
                return docker::run(part, &[docker, &part.name(service)]);
            }
            if let Some(group) = part.group(service) {
                group.signal(signal);
            }
            Ok(())
        })
    }

    /// Stops a service: cleanly, or as a power failure would.
    pub fn stop(&self, service: Service, kill: bool) -> Result<()> {
        self.side_by_side(&[service], |part, service| part.stop_one(service, kill))
    }

    fn stop_one(&self, service: Service, kill: bool) -> Result<()> {
        if self.backend == Backend::Docker {
            return docker::run(self, &[if kill { "kill" } else { "stop" }, &self.name(service)]);
        }
        if let Some(group) = self.group(service) {
            // A single broker is to go away at once, in the middle of what a reader does with it.
            if service == Service::Rabbitmq && !kill && self.is_node() {
                self.end_statistics();
            }
            group.end(if kill { Signal::KILL } else { Signal::TERM }, STOP_LIMIT)?;
            // The group's leader is a shell, and its child the broker.
            if service == Service::Rabbitmq {
                wait_until(STOP_LIMIT, || self.probe(service) == Answer::Nothing)
                    .with_context(|| format!("{} still answers", self.name(service)))?;
            }
        }
        Ok(())
    }

    /// Stops everything, cleanly or at once; its data stay.
    pub fn stop_all(&self, kill: bool) -> Result<()> {
        if self.backend == Backend::Docker {
            return docker::down(self, kill, false);
        }
        if !kill && !self.is_cluster() && self.is_running(Service::Rabbitmq) {
            self.end_statistics();
        }
        for service in Service::ALL {
            self.stop(service, kill)?;
        }
        if let Some(epmd) = Group::find(&self.pid_file("epmd")) {
            epmd.end(Signal::KILL, STOP_LIMIT)?;
        }
        Ok(())
    }

    /// Stops everything at once, and forgets its data and its folder.
    pub fn remove(&self) -> Result<()> {
        match self.backend {
            Backend::Docker => docker::down(self, true, true)?,
            Backend::Local => self.stop_all(true)?,
        }
        self.remove_mysql_socket();
        let removed = fs::remove_dir_all(&self.folder);
        ensure!(
            removed.is_ok() || !self.folder.exists(),
            "cannot remove {}",
            self.folder.display()
        );
        Ok(())
    }

    /// Restarts RabbitMQ if a quorum queue has lost its process, and says whether this was so.
    /// After a kill it may happen with RabbitMQ 3.10, and then only a restart brings the queue
    /// back. Its log looks as in <https://github.com/rabbitmq/rabbitmq-server/issues/12635>.
    pub fn mend_queues(&self) -> Result<bool> {
        let mut list = self.rabbitmqctl()?;
        list.args(["-q", "list_queues", "--no-table-headers", "state"]);
        let states = list.output()?.stdout;
        if !String::from_utf8_lossy(&states).contains("down") {
            return Ok(false);
        }
        self.stop(Service::Rabbitmq, false)?;
        self.start(&[Service::Rabbitmq], &Tasks::quiet())?;
        Ok(true)
    }

    /// RabbitMQ's own command line tool, speaking to this RabbitMQ.
    pub fn rabbitmqctl(&self) -> Result<Command> {
        match self.backend {
            Backend::Local => self.spokesman().local_rabbitmqctl(),
            Backend::Docker => Ok(docker::rabbitmqctl(&self.spokesman())),
        }
    }
}
