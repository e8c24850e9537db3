//! A RabbitMQ and a MySQL of our own: their own folder, ports and names, on this machine's loopback
//! interface only, away from whatever else runs here.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, process, thread};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::process::{Group, find_program, run, wait_until};
use crate::progress::{Task, Tasks};
use crate::url::Url;
use crate::{probe, root};

/// RabbitMQ starts in 5 to 10 seconds on two cores; a machine that is busy needs longer.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    Rabbitmq,
    Mysql,
}

impl Service {
    pub const ALL: [Self; 2] = [Self::Rabbitmq, Self::Mysql];

    /// Its name in docker-compose.yml and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rabbitmq => "rabbitmq",
            Self::Mysql => "mysql",
        }
    }

    pub fn all_installed() -> bool {
        Self::ALL.iter().all(|service| service.program().is_some())
    }

    /// Its program on this machine, if it is installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            // The first two: Debian's and Fedora's rabbitmq-server in PATH insists on root.
            Self::Rabbitmq => find_program(
                &[
                    "/usr/lib/rabbitmq/bin",
                    "/opt/homebrew/sbin",
                    "/usr/local/sbin",
                ],
                &["rabbitmq-server"],
            ),
            Self::Mysql => find_program(
                &["/usr/sbin", "/usr/libexec", "/opt/homebrew/bin"],
                &["mariadbd", "mysqld"],
            ),
        }
    }
}

/// What runs the servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Backend {
    /// Programs installed on this machine.
    Local,
    /// docker-compose.yml.
    Docker,
}

impl Backend {
    /// What runs the servers of a play: Docker, if that saves installing them.
    pub fn for_playing() -> Self {
        match Service::all_installed() || !docker_answers() {
            true => Self::Local,
            false => Self::Docker,
        }
    }
}

/// Whether a Docker engine answers, and `docker compose` with it.
pub fn docker_answers() -> bool {
    let succeeds = |args: &[&str]| {
        Command::new("docker")
            .args(args)
            .output()
            .is_ok_and(|output| output.status.success())
    };
    succeeds(&["compose", "version"]) && succeeds(&["info"])
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ports {
    pub amqp: u16,
    pub management: u16,
    pub mysql: u16,
    /// Not the lab's own: the services of lesson 6 listen there.
    pub admin: u16,
    pub main: u16,
    epmd: u16,
    distribution: u16,
}

impl Ports {
    /// The default ports of RabbitMQ and MySQL, except for Erlang's own two: those of the system's
    /// RabbitMQ stay free.
    pub const DEFAULT: Self = Self {
        amqp: 5672,
        management: 15672,
        mysql: 3306,
        admin: 8000,
        main: 8001,
        epmd: 5669,
        distribution: 25669,
    };

    fn free() -> Result<Self> {
        // All are held at the same time, so that they differ.
        let sockets = (0..7)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<Vec<_>, _>>()?;
        let port = |index: usize| Ok::<u16, std::io::Error>(sockets[index].local_addr()?.port());
        Ok(Self {
            amqp: port(0)?,
            management: port(1)?,
            mysql: port(2)?,
            admin: port(3)?,
            main: port(4)?,
            epmd: port(5)?,
            distribution: port(6)?,
        })
    }
}

#[derive(Clone, Debug)]
pub struct Instance {
    /// Everything about these servers: configuration, data, logs, numbers of processes.
    pub folder: PathBuf,
    pub backend: Backend,
    pub ports: Ports,
    /// More lines for rabbitmq.conf.
    pub rabbitmq_conf: String,
}

impl Instance {
    /// The servers of this checkout, at the default ports; they stay until `cargo lab down`.
    pub fn of_checkout(backend: Backend) -> Self {
        Self {
            folder: root().join(".lab"),
            backend,
            ports: Ports::DEFAULT,
            rabbitmq_conf: String::new(),
        }
    }

    /// Servers at free ports with a new folder among the temporary files. [`crate::guard::Guard`]
    /// sees to it that they go again.
    pub fn temporary(backend: Backend) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rabbitmq-course-{}-{number}", process::id());
        Ok(Self {
            folder: env::temp_dir().join(name),
            backend,
            ports: Ports::free()?,
            rabbitmq_conf: String::new(),
        })
    }

    /// The servers that live in a folder, whoever started them.
    pub fn load(folder: &Path) -> Option<Self> {
        let state: Value =
            serde_json::from_slice(&fs::read(folder.join("instance.json")).ok()?).ok()?;
        let port = |name: &str| u16::try_from(state["ports"][name].as_u64()?).ok();
        Some(Self {
            folder: folder.to_owned(),
            backend: match state["backend"].as_str()? {
                "docker" => Backend::Docker,
                _ => Backend::Local,
            },
            ports: Ports {
                amqp: port("amqp")?,
                management: port("management")?,
                mysql: port("mysql")?,
                admin: port("admin").unwrap_or(Ports::DEFAULT.admin),
                main: port("main").unwrap_or(Ports::DEFAULT.main),
                epmd: port("epmd")?,
                distribution: port("distribution")?,
            },
            rabbitmq_conf: state["rabbitmq_conf"].as_str()?.to_owned(),
        })
    }

    fn save(&self) -> Result<()> {
        let state = json!({
            "backend": if self.backend == Backend::Docker { "docker" } else { "local" },
            "ports": {
                "amqp": self.ports.amqp,
                "management": self.ports.management,
                "mysql": self.ports.mysql,
                "admin": self.ports.admin,
                "main": self.ports.main,
                "epmd": self.ports.epmd,
                "distribution": self.ports.distribution,
            },
            "rabbitmq_conf": self.rabbitmq_conf,
        });
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        fs::write(self.folder.join("instance.json"), state.to_string())?;
        Ok(())
    }

    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@localhost:{}/%2f", self.ports.amqp)
    }

    pub fn mysql_url(&self) -> String {
        format!("mysql://guest:guest@localhost:{}/test", self.ports.mysql)
    }

    pub fn log(&self, service: Service) -> PathBuf {
        self.folder.join(format!("{}.log", service.name()))
    }

    /// Whether we have started it and it still runs.
    pub fn is_running(&self, service: Service) -> bool {
        match self.backend {
            Backend::Local => self.group(service).is_some(),
            Backend::Docker => self
                .compose()
                .args(["ps", "-q", service.name()])
                .output()
                .is_ok_and(|output| !output.stdout.is_empty()),
        }
    }

    fn group(&self, service: Service) -> Option<Group> {
        Group::find(&self.pid_file(service.name()))
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pid"))
    }

    /// What answers: name and version.
    pub fn probe(&self, service: Service) -> probe::Answer {
        let (url, probe): (_, fn(&Url) -> probe::Answer) = match service {
            Service::Rabbitmq => (self.amqp_url(), probe::rabbitmq),
            Service::Mysql => (self.mysql_url(), probe::mysql),
        };
        Url::parse(&url).map_or(probe::Answer::Nothing, |url| probe(&url))
    }

    /// Starts those of the services that do not run yet, side by side, and waits until they answer.
    pub fn start(&self, services: &[Service], tasks: &Tasks) -> Result<()> {
        self.save()?;
        let start = |service: Service| {
            let task = tasks.start(format!("Starting {}", self.title(service)));
            match self.backend {
                Backend::Docker => {
                    let mut up = self.compose();
                    up.args(["up", "--detach", "--wait", service.name()]);
                    run(&task, up)?;
                }
                Backend::Local if self.is_running(service) => {}
                Backend::Local => match service {
                    Service::Rabbitmq => self.start_rabbitmq(&task)?,
                    Service::Mysql => self.start_mysql(&task)?,
                },
            }
            let name = self.wait_for(service)?;
            let port = self.port(service);
            task.done(&format!("{name} runs at localhost:{port}"));
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = services
                .iter()
                .map(|&service| scope.spawn(move || start(service)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| match thread.join() {
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

    pub fn port(&self, service: Service) -> u16 {
        match service {
            Service::Rabbitmq => self.ports.amqp,
            Service::Mysql => self.ports.mysql,
        }
    }

    /// Waits until the service lets us in, and its management page too; says its name and version.
    fn wait_for(&self, service: Service) -> Result<String> {
        let mut name = Err(anyhow::anyhow!("it does not answer"));
        let up = wait_until(START_LIMIT, || {
            let gone = self.backend == Backend::Local && self.group(service).is_none();
            name = match self.probe(service) {
                probe::Answer::Server(name) => Ok(name),
                probe::Answer::Refused(reason) => Err(anyhow::anyhow!("it refuses us: {reason}")),
                _ => Err(anyhow::anyhow!(if gone {
                    "it has ended"
                } else {
                    "it does not answer"
                })),
            };
            let page = service == Service::Mysql || self.management("overview").is_ok();
            gone || (name.is_ok() && page)
        });
        name.and_then(|name| up.map(|()| name)).with_context(|| {
            let log = fs::read(self.log(service)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            format!(
                "{} did not start; the end of its log:\n{end}\n",
                self.title(service)
            )
        })
    }

    /// Asks the management plugin: <https://www.rabbitmq.com/docs/http-api-reference>.
    pub fn management(&self, path: &str) -> Result<Value> {
        management(
            "GET",
            "localhost",
            self.ports.management,
            "guest",
            "guest",
            path,
        )
    }

    /// A virtual host of this name, with everything allowed to `guest`; its URL.
    pub fn create_vhost(&self, name: &str) -> Result<String> {
        let port = self.ports.management;
        management(
            "PUT",
            "localhost",
            port,
            "guest",
            "guest",
            &format!("vhosts/{name}"),
        )?;
        Ok(format!(
            "amqp://guest:guest@localhost:{}/{name}",
            self.ports.amqp
        ))
    }

    /// Signals a program of ours on this machine: SIGSTOP, for one, to make it stop answering.
    pub fn signal(&self, service: Service, signal: Signal) {
        if let Some(group) = self.group(service) {
            group.signal(signal);
        }
    }

    /// Stops a service: cleanly, or as a power failure would.
    pub fn stop(&self, service: Service, kill: bool) -> Result<()> {
        match self.backend {
            Backend::Docker => {
                let mut compose = self.compose();
                compose.args([if kill { "kill" } else { "stop" }, service.name()]);
                let status = compose.output().context("cannot run docker")?.status;
                ensure!(
                    status.success(),
                    "docker compose could not stop {}",
                    service.name()
                );
            }
            Backend::Local => {
                if let Some(group) = self.group(service) {
                    group.end(
                        if kill {
                            Signal::SIGKILL
                        } else {
                            Signal::SIGTERM
                        },
                        STOP_LIMIT,
                    )?;
                }
                // The group's leader is a shell, and its child the broker.
                if service == Service::Rabbitmq {
                    let url = Url::parse(&self.amqp_url()).context("no URL")?;
                    wait_until(STOP_LIMIT, || {
                        probe::rabbitmq(&url) == probe::Answer::Nothing
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Restarts RabbitMQ if a quorum queue has lost its process, and says whether this was so. After a
    /// kill it may happen with RabbitMQ 3.10, and then only a restart brings the queue back. Its log looks
    /// as in <https://github.com/rabbitmq/rabbitmq-server/issues/12635>.
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

    /// Stops everything, cleanly or at once.
    pub fn stop_all(&self, kill: bool) -> Result<()> {
        for service in Service::ALL {
            self.stop(service, kill)?;
        }
        if let Some(epmd) = Group::find(&self.pid_file("epmd")) {
            epmd.end(Signal::SIGKILL, STOP_LIMIT)?;
        }
        if self.backend == Backend::Docker {
            self.compose()
                .arg("down")
                .output()
                .context("cannot run docker")?;
        }
        Ok(())
    }

    /// Forgets the data of servers that have been stopped.
    pub fn wipe(&self) -> Result<()> {
        if self.backend == Backend::Docker {
            self.compose()
                .args(["down", "--volumes"])
                .output()
                .context("cannot run docker")?;
        }
        self.remove_mysql_socket();
        match fs::remove_dir_all(&self.folder) {
            Err(error) if self.folder.exists() => {
                Err(error).with_context(|| format!("cannot remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// `docker compose` for these servers.
    fn compose(&self) -> Command {
        let mut compose = Command::new("docker");
        compose
            .arg("compose")
            .arg("--file")
            .arg(root().join("docker-compose.yml"));
        if self.ports != Ports::DEFAULT {
            let project = self.folder.file_name().unwrap_or_default();
            compose.arg("--project-name").arg(project);
        }
        compose
            .env("RABBITMQ_PORT", self.ports.amqp.to_string())
            .env(
                "RABBITMQ_MANAGEMENT_PORT",
                self.ports.management.to_string(),
            )
            .env("MYSQL_PORT", self.ports.mysql.to_string());
        compose
    }

    /// RabbitMQ's own command line tool, speaking to this RabbitMQ.
    pub fn rabbitmqctl(&self) -> Result<Command> {
        if self.backend == Backend::Docker {
            let mut compose = self.compose();
            compose.args(["exec", "--no-TTY", "rabbitmq", "rabbitmqctl"]);
            return Ok(compose);
        }
        let server = Service::Rabbitmq
            .program()
            .context("RabbitMQ is not installed")?;
        let mut command = Command::new(server.with_file_name("rabbitmqctl"));
        self.rabbitmq_environment(&mut command);
        Ok(command)
    }

    /// MySQL's own command line tool, where it is in the container.
    pub fn mysql(&self) -> Option<Command> {
        if self.backend == Backend::Local {
            return None;
        }
        let mut compose = self.compose();
        compose
            .args(["exec", "--no-TTY", "--env", "MYSQL_PWD=guest", "mysql"])
            .args(["mysql", "--batch", "-u", "guest", "test"]);
        Some(compose)
    }

    /// <https://www.rabbitmq.com/docs/configure#supported-environment-variables>
    fn rabbitmq_environment(&self, command: &mut Command) {
        let file = |name: &str| self.folder.join(name);
        command
            .env("HOME", &self.folder) // the secret that Erlang's nodes share is kept there
            .env(
                "RABBITMQ_NODENAME",
                format!("lab{}@localhost", self.ports.amqp),
            )
            .env("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", file("conf.d"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", file("generated"))
            .env("RABBITMQ_SCHEMA_DIR", file("schema"))
            .env("RABBITMQ_MNESIA_BASE", file("rabbitmq"))
            .env("RABBITMQ_LOG_BASE", &self.folder)
            .env("RABBITMQ_LOGS", "-") // into the log that we give it
            .env("RABBITMQ_PID_FILE", file("beam.pid"))
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            );
    }

    fn start_rabbitmq(&self, task: &Task) -> Result<()> {
        let server = Service::Rabbitmq
            .program()
            .context("RabbitMQ is not installed")?;
        let Ports {
            amqp,
            management,
            epmd,
            ..
        } = self.ports;
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n{}",
            self.rabbitmq_conf
        );
        fs::write(self.folder.join("rabbitmq.conf"), conf)?;
        fs::write(self.folder.join("rabbitmq-env.conf"), "")?;
        fs::write(
            self.folder.join("enabled_plugins"),
            "[rabbitmq_management].\n",
        )?;

        // How often a quorum queue counts its messages for `list_queues`, in milliseconds. With the
        // default, 5 seconds, a reader would see the figures of before the last command.
        fs::write(
            self.folder.join("advanced.config"),
            "[{rabbit, [{quorum_tick_interval, 100}]}].\n",
        )?;

        // Erlang's register of nodes. RabbitMQ would start one itself, and leave it behind.
        if Group::find(&self.pid_file("epmd")).is_none() {
            let program =
                find_program(&["/usr/lib/erlang/bin", "/usr/lib64/erlang/bin"], &["epmd"])
                    .context("Erlang's `epmd` is not installed")?;
            let mut command = Command::new(program);
            command.args(["-port", &epmd.to_string(), "-address", "127.0.0.1"]);
            Group::start(
                command,
                &self.folder.join("epmd.log"),
                &self.pid_file("epmd"),
            )?;
        }

        let mut command = Command::new(server);
        self.rabbitmq_environment(&mut command);
        Group::start(
            command,
            &self.log(Service::Rabbitmq),
            &self.pid_file("rabbitmq"),
        )?;
        task.say("waiting for it to answer");
        Ok(())
    }

    fn mysql_socket(&self) -> PathBuf {
        // Not in the folder: the path of a socket may have about a hundred characters.
        env::temp_dir().join(format!("lab-mysql-{}.sock", self.ports.mysql))
    }

    fn remove_mysql_socket(&self) {
        let socket = self.mysql_socket();
        for file in [socket.with_extension("sock.lock"), socket] {
            let _ = fs::remove_file(file); // they are left by a server that was killed
        }
    }

    fn start_mysql(&self, task: &Task) -> Result<()> {
        let server = Service::Mysql
            .program()
            .context("MySQL or MariaDB is not installed")?;
        let version = Command::new(&server).arg("--version").output()?.stdout;
        let mariadb = String::from_utf8_lossy(&version).contains("MariaDB");
        let data = self.folder.join("mysql");
        // Not /tmp: a server that starts removes there what another has in use.
        let temporary = self.folder.join("tmp");
        fs::create_dir_all(&temporary)?;
        let mut common = vec![
            format!("--datadir={}", data.display()),
            format!("--tmpdir={}", temporary.display()),
        ];
        if Uid::effective().is_root() {
            common.push("--user=root".to_owned());
        }

        if !data.exists() {
            task.say("preparing its data");
            let mut install = if mariadb {
                let program = find_program(&["/usr/bin"], &["mariadb-install-db"])
                    .context("`mariadb-install-db` is not installed")?;
                let mut install = Command::new(program);
                install.args([
                    "--no-defaults",
                    "--skip-test-db",
                    "--auth-root-authentication-method=socket",
                ]);
                install
            } else {
                let mut install = Command::new(&server);
                install.args(["--no-defaults", "--initialize-insecure"]);
                install
            };
            install.args(&common);
            run(task, install).inspect_err(|_| drop(fs::remove_dir_all(&data)))?;
        }

        // Run at each start. `test%` takes in the databases of the lab's tests, and `reader` is for one
        // of them: a user who may not write. MySQL's root has no
        // password after `--initialize-insecure`, so nobody may use it.
        let lock_root = if mariadb {
            ""
        } else {
            "ALTER USER root@localhost ACCOUNT LOCK;\n"
        };
        let sql = format!(
            "CREATE DATABASE IF NOT EXISTS test;\n\
             CREATE USER IF NOT EXISTS guest@localhost IDENTIFIED BY 'guest';\n\
             CREATE USER IF NOT EXISTS guest@'%' IDENTIFIED BY 'guest';\n\
             GRANT ALL ON `test%`.* TO guest@localhost;\n\
             GRANT ALL ON `test%`.* TO guest@'%';\n\
             CREATE USER IF NOT EXISTS reader@localhost IDENTIFIED BY 'reader';\n\
             GRANT SELECT ON `test%`.* TO reader@localhost;\n{lock_root}"
        );
        let init = self.folder.join("mysql.sql");
        fs::write(&init, sql)?;
        let mut command = Command::new(&server);
        command
            .args(["--no-defaults", "--bind-address=127.0.0.1"])
            .args(common)
            .arg(format!("--port={}", self.ports.mysql))
            .arg(format!("--socket={}", self.mysql_socket().display()))
            .arg(format!(
                "--pid-file={}",
                self.folder.join("mysqld.pid").display()
            ))
            .arg(format!("--init-file={}", init.display()));
        if !mariadb {
            command.arg("--mysqlx=OFF"); // a second protocol, on a port of its own
        }
        self.remove_mysql_socket();
        Group::start(command, &self.log(Service::Mysql), &self.pid_file("mysql"))?;
        task.say("waiting for it to answer");
        Ok(())
    }
}

/// Asks the management plugin of a RabbitMQ.
pub fn management(
    method: &str,
    host: &str,
    port: u16,
    user: &str,
    password: &str,
    path: &str,
) -> Result<Value> {
    let url = format!("http://{user}:{password}@{host}:{port}/api/{path}");
    let mut response = match method {
        "PUT" => ureq::put(url).send_empty()?,
        _ => ureq::get(url).call()?,
    };
    let body = response.body_mut().read_to_string()?;
    Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
}
