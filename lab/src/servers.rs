//! The servers for working by hand: found where they run already, or started.

use std::env;
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;

use crate::instance::{Backend, Instance, Ports, Service, docker_answers, management};
use crate::play::INSTANCE;
use crate::probe::{self, Answer};
use crate::process::{find_program, run};
use crate::progress::Tasks;
use crate::root;
use crate::url::Url;

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
            Service::Mysql => probe::mysql(&self.url),
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
                 Set {variable}={form} to what it accepts"
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

/// Whether the server that is meant is one that the lab has started: `AMQP_URL` may name another one
/// while ours runs.
fn is_ours(place: &Place) -> bool {
    ours().is_some_and(|ours| {
        ["localhost", "127.0.0.1"].contains(&place.url.host.as_str())
            && place.url.port == ours.port(place.service)
            && ours.is_running(place.service)
    })
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
        _ if docker_answers() => Backend::Docker,
        _ => Backend::Local,
    };
    if backend == Backend::Local {
        let packages: Vec<_> = missing.iter().copied().map(Package::of).collect();
        install(&packages, tasks)?;
    }
    Instance::of_checkout(backend).start(&missing, tasks)?;
    for service in missing {
        let place = Place::of(service)?;
        let name = place
            .find()?
            .with_context(|| format!("{} has ended again", service.name()))?;
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
            format!(
                "; management page: http://localhost:{} (guest, guest)",
                ours.ports.management
            )
        }
        _ => String::new(),
    };
    format!("{name} at {}, {whose}{page}", place.url.address())
}

/// Something that the lab installs where it is missing.
pub struct Package {
    name: &'static str,
    /// Its names for apt, dnf and brew.
    names: [&'static str; 3],
    is_installed: fn() -> bool,
}

const RABBITMQ: Package = Package {
    name: "RabbitMQ",
    names: ["rabbitmq-server", "rabbitmq-server", "rabbitmq"],
    is_installed: || Service::Rabbitmq.program().is_some(),
};

const MYSQL: Package = Package {
    name: "MySQL",
    names: ["mariadb-server", "mariadb-server", "mariadb"],
    is_installed: || Service::Mysql.program().is_some(),
};

/// Python's package manager: tests and benchmarks set programs in Python beside those of the lessons.
const PIP: Package = Package {
    name: "Python's pip",
    names: ["python3-pip", "python3-pip", "python"],
    is_installed: || {
        Command::new("python3")
            .args(["-m", "pip", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    },
};

/// The READMEs speak HTTP with it.
const CURL: Package = Package {
    name: "curl",
    names: ["curl", "curl", "curl"],
    is_installed: || find_program(&[], &["curl"]).is_some(),
};

/// What the lessons need: where Docker runs the servers, and elsewhere.
pub const WITH_DOCKER: [Package; 1] = [CURL];
pub const WITHOUT_DOCKER: [Package; 3] = [RABBITMQ, MYSQL, CURL];

/// For a client of RabbitMQ in another language, which benchmarks set beside ours.
const NPM: Package = Package {
    name: "npm",
    names: ["npm", "nodejs-npm", "node"],
    is_installed: || find_program(&[], &["npm"]).is_some(),
};

/// What the fault suite needs.
pub const FAULTS: [Package; 3] = [RABBITMQ, MYSQL, PIP];

/// What benchmarks need.
pub const BENCHMARKS: [Package; 4] = [RABBITMQ, MYSQL, PIP, NPM];

/// A browser without a window, and what drives it: a test looks at the pages of lesson 6.
const CHROMIUM: Package = Package {
    name: "Chromium",
    names: ["chromium", "chromium", "chromium"],
    is_installed: || find_program(&[], &["chromium", "chromium-browser"]).is_some(),
};
const CHROMEDRIVER: Package = Package {
    name: "ChromeDriver",
    names: ["chromium-driver", "chromedriver", "chromedriver"],
    is_installed: || find_program(&[], &["chromedriver"]).is_some(),
};

/// What the tests need.
pub const TESTS: [Package; 6] = [RABBITMQ, MYSQL, CURL, PIP, CHROMIUM, CHROMEDRIVER];

impl Package {
    fn of(service: Service) -> Self {
        match service {
            Service::Rabbitmq => RABBITMQ,
            Service::Mysql => MYSQL,
        }
    }
}

/// Installs what is missing, with the system's package manager.
pub fn install(packages: &[Package], tasks: &Tasks) -> Result<()> {
    let missing: Vec<&Package> = packages
        .iter()
        .filter(|package| !(package.is_installed)())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let found = |name: &str| find_program(&[], &[name]).is_some();
    let managers = [
        ("apt-get", APT),
        ("dnf", "dnf install -y \"$@\""),
        ("brew", "brew install \"$@\""),
    ];
    let Some(index) = managers.iter().position(|(manager, _)| found(manager)) else {
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        bail!(
            "{} is not installed, and there is no package manager that the lab knows (apt, dnf, brew). \
             Install it, or Docker, and try again",
            names.join(" and ")
        );
    };
    let (manager, script) = managers[index];
    let packages: Vec<_> = missing.iter().map(|package| package.names[index]).collect();
    let names = packages.join(" and ");
    let sudo = manager != "brew" && !Uid::effective().is_root();
    ensure!(
        !sudo || found("sudo"),
        "{names} must be installed, which needs root. As root: {manager} install {}",
        packages.join(" ")
    );
    let task = tasks.start(format!("Installing {names} with {manager}"));
    let mut command = Command::new(if sudo { "sudo" } else { "sh" });
    if sudo {
        command.arg("sh");
    }
    command.args(["-c", script, "sh"]).args(&packages);
    run(&task, command)?;
    for package in missing {
        ensure!(
            (package.is_installed)(),
            "{manager} installed {names}, but {} is not to be found",
            package.name
        );
    }
    task.done(&format!("Installed {names} with {manager}"));
    Ok(())
}

/// Debian's packages also start a service at once and at each boot. The lab runs servers of its own, so
/// both are prevented: https://www.debian.org/doc/debian-policy/ch-opersys.html#running-initscripts
const APT: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
if command -v systemctl > /dev/null; then
    systemctl disable rabbitmq-server.service mariadb.service epmd.socket > /dev/null 2>&1 || true
fi
"#;

/// Stops what `up` has started in this checkout.
pub fn down(wipe: bool) -> Result<()> {
    let Some(ours) = ours() else {
        println!("Nothing to stop: the lab has started no server for this checkout");
        return Ok(());
    };
    let running: Vec<_> = Service::ALL
        .iter()
        .filter(|&&service| ours.is_running(service))
        .collect();
    ours.stop_all(false)?;
    for service in running {
        println!("Stopped {}", service.name());
    }
    if wipe {
        ours.wipe()?;
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
        command.stdin(Stdio::null()); // it would swallow the commands that are typed behind this one
    }
    let status = command.args(arguments).status()?;
    Ok(status.code().unwrap_or(1))
}

/// Runs MySQL's own command line tool against our MySQL, or that which `MYSQL_URL` names.
pub fn mysql(statement: &str) -> Result<i32> {
    let url = Place::of(Service::Mysql)?.url;
    let client = probe::mysql_client(&url).or_else(|| ours_running(Service::Mysql).ok()?.mysql());
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
            for [name, messages, consumers] in queues {
                println!("{name:<30} {messages:>9} {consumers:>9}");
            }
        }
    }
    Ok(())
}

/// Each queue of the virtual host with its messages and consumers; `None` if there is no RabbitMQ.
fn queues() -> Result<Option<Vec<[String; 3]>>> {
    let place = Place::of(Service::Rabbitmq)?;
    if !matches!(place.probe(), Answer::Server(_)) {
        return Ok(None);
    }
    let list = if is_ours(&place) {
        let output = ours_running(Service::Rabbitmq)?
            .rabbitmqctl()?
            .args(["--quiet", "--formatter", "json", "--vhost", &place.url.path])
            .args(["list_queues", "name", "messages", "consumers"])
            .output()?;
        serde_json::from_slice(&output.stdout)
            .context("rabbitmqctl says something else than its queues")?
    } else {
        // The figures of the management page are a few seconds old.
        let vhost: String = place
            .url
            .path
            .bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect();
        let Url {
            host,
            user,
            password,
            ..
        } = &place.url;
        match management(
            "GET",
            host,
            Ports::DEFAULT.management,
            user,
            password,
            &format!("queues/{vhost}"),
        ) {
            Ok(list) => list,
            Err(error) => {
                println!("No list of queues: no management page at http://{host}:15672 ({error})");
                return Ok(None);
            }
        }
    };
    let text = |queue: &serde_json::Value, key: &str| match &queue[key] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let list = list.as_array().context("no list of queues")?;
    let row = |queue| {
        [
            text(queue, "name"),
            text(queue, "messages"),
            text(queue, "consumers"),
        ]
    };
    let mut rows: Vec<_> = list.iter().map(row).collect();
    rows.sort();
    Ok(Some(rows))
}
