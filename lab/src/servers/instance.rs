//! The servers of a checkout, of a play or of a test: started, stopped and asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::process::{Group, wait_until};
use crate::progress::Tasks;
use crate::root;
use crate::servers::management::Management;
use crate::servers::probe::{self, Answer};
use crate::servers::{Backend, Ports, Service, docker};
use crate::url::Url;

/// RabbitMQ starts in 5 to 10 seconds on two cores; a machine that is busy needs longer.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What RabbitMQ needs to speak TLS, each as PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

impl Certificate {
    pub(super) fn files(&self) -> [(&'static str, &str); 3] {
        [
            ("authority.pem", &self.authority),
            ("server.pem", &self.certificate),
            ("server.key", &self.key),
        ]
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Everything about these servers: configuration, data, logs, numbers of processes.
    #[serde(skip)]
    pub folder: PathBuf,
    pub backend: Backend,
    pub ports: Ports,
    pub certificate: Option<Certificate>,
}

impl Instance {
    /// The servers of this checkout, at the default ports; they stay until `cargo lab down`.
    pub fn of_checkout(backend: Backend) -> Self {
        Self { folder: root().join(".lab"), backend, ports: Ports::DEFAULT, certificate: None }
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
        Ok(Self { folder, backend, ports: Ports::free()?, certificate: None })
    }

    /// Whether these are servers of a play or of tests, and not those of the checkout.
    pub(super) fn is_temporary(&self) -> bool {
        self.folder != root().join(".lab")
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
        fs::write(self.file("instance.json"), serde_json::to_vec(self)?)?;
        Ok(())
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@localhost:{}/%2f", self.ports.amqp)
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
        let log = match self.backend {
            Backend::Local => fs::read(self.log_file(service)).unwrap_or_default(),
            Backend::Docker => docker::log(self, service),
        };
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Whether we have started it and it still runs.
    pub fn is_running(&self, service: Service) -> bool {
        match self.backend {
            Backend::Local => self.group(service).is_some(),
            Backend::Docker => docker::is_running(self, service),
        }
    }

    pub(super) fn group(&self, service: Service) -> Option<Group> {
        Group::find(&self.pid_file(service.name()))
    }

    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.pid"))
    }

    /// What answers: name and version.
    pub fn probe(&self, service: Service) -> Answer {
        match service {
            Service::Rabbitmq => {
                Url::parse(&self.amqp_url()).map_or(Answer::Nothing, |url| probe::rabbitmq(&url))
            }
            Service::Mysql => Url::parse(&self.mysql_url())
                .map_or(Answer::Nothing, |url| probe::mysql(&url, self.mysql(&url))),
        }
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
        if self.backend == Backend::Docker {
            docker::up(self, services, tasks)?;
        }
        let start = |service: Service| {
            let task = tasks.start(format!("Starting {}", self.title(service)));
            if self.backend == Backend::Local && !self.is_running(service) {
                match service {
                    Service::Rabbitmq => self.start_rabbitmq()?,
                    Service::Mysql => self.start_mysql(&task)?,
                }
            }
            task.say("waiting for it to answer");
            let name = self.wait_for(service)?;
            let port = self.port(service);
            task.done(&format!("{name} runs at localhost:{port}"));
            Ok(())
        };
        thread::scope(|scope| {
            let start = |&service| scope.spawn(move || start(service));
            let threads: Vec<_> = services.iter().map(start).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread of the lab has panicked"),
            })
        })
    }

    fn title(&self, service: Service) -> &'static str {
        match (self.backend, service) {
            (Backend::Docker, Service::Rabbitmq) => "RabbitMQ with Docker",
            (Backend::Docker, Service::Mysql) => "MySQL with Docker",
            (_, Service::Rabbitmq) => "RabbitMQ",
            (_, Service::Mysql) => "MySQL or MariaDB",
        }
    }

    /// Waits until the service lets us in, and its management page too; says its name and version.
    fn wait_for(&self, service: Service) -> Result<String> {
        let mut name = Err(anyhow::anyhow!("it does not answer"));
        let mut looked = Instant::now();
        let up = wait_until(START_LIMIT, || {
            name = match self.probe(service) {
                Answer::Server(name) => Ok(name),
                Answer::Refused(reason) => Err(anyhow::anyhow!("it refuses us: {reason}")),
                _ => Err(anyhow::anyhow!("it does not answer")),
            };
            if name.is_err() && looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                if !self.is_running(service) {
                    name = Err(anyhow::anyhow!("it has ended"));
                    return true;
                }
            }
            let page = service == Service::Mysql || self.management().get("overview").is_ok();
            name.is_ok() && page
        });
        name.and_then(|name| up.map(|()| name)).with_context(|| {
            let log = self.log(service);
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            format!("{} did not start; the end of its log:\n{end}\n", self.title(service))
        })
    }

    /// RabbitMQ's management plugin.
    pub fn management(&self) -> Management {
        Management {
            host: "localhost".to_owned(),
            port: self.ports.management,
            user: "guest".to_owned(),
            password: "guest".to_owned(),
        }
    }

    /// A virtual host of this name, with everything allowed to `guest`; its URL.
    pub fn create_vhost(&self, name: &str) -> Result<String> {
        self.management().put(&format!("vhosts/{name}"))?;
        Ok(format!("amqp://guest:guest@localhost:{}/{name}", self.ports.amqp))
    }

    /// Makes a service stop answering: it is not gone, and does nothing any more.
    pub fn pause(&self, service: Service) -> Result<()> {
        match self.backend {
            Backend::Local => self.signal(service, Signal::SIGSTOP),
            Backend::Docker => docker::run(self, &["pause", service.name()])?,
        }
        Ok(())
    }

    /// Ends a [`Self::pause`].
    pub fn resume(&self, service: Service) -> Result<()> {
        match self.backend {
            Backend::Local => self.signal(service, Signal::SIGCONT),
            Backend::Docker => docker::run(self, &["unpause", service.name()])?,
        }
        Ok(())
    }

    fn signal(&self, service: Service, signal: Signal) {
        if let Some(group) = self.group(service) {
            group.signal(signal);
        }
    }

    /// Stops a service: cleanly, or as a power failure would.
    pub fn stop(&self, service: Service, kill: bool) -> Result<()> {
        if self.backend == Backend::Docker {
            return docker::run(self, &[if kill { "kill" } else { "stop" }, service.name()]);
        }
        if let Some(group) = self.group(service) {
            group.end(if kill { Signal::SIGKILL } else { Signal::SIGTERM }, STOP_LIMIT)?;
        }
        // The group's leader is a shell, and its child the broker.
        if service == Service::Rabbitmq {
            wait_until(STOP_LIMIT, || self.probe(service) == Answer::Nothing)?;
        }
        Ok(())
    }

    /// Stops everything, cleanly or at once; its data stay.
    pub fn stop_all(&self, kill: bool) -> Result<()> {
        if self.backend == Backend::Docker {
            return docker::down(self, kill, false);
        }
        for service in Service::ALL {
            self.stop(service, kill)?;
        }
        if let Some(epmd) = Group::find(&self.pid_file("epmd")) {
            epmd.end(Signal::SIGKILL, STOP_LIMIT)?;
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
            Backend::Local => self.local_rabbitmqctl(),
            Backend::Docker => Ok(docker::rabbitmqctl(self)),
        }
    }
}
