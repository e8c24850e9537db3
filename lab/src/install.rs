//! What the lab installs where it is missing, with the system's package manager.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use rustix::process::geteuid;

use crate::process::{find_program, run};
use crate::progress::Tasks;
use crate::servers::{Backend, Service};

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

/// Python's package manager: tests and benchmarks set programs in Python beside those of the
/// lessons.
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

/// For a client of RabbitMQ in another language, which benchmarks set beside ours.
const NPM: Package = Package {
    name: "npm",
    names: ["npm", "nodejs-npm", "node"],
    is_installed: || find_program(&[], &["npm"]).is_some(),
};

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

/// What is needed beside the servers.
pub const LESSONS: &[Package] = &[CURL];
pub const TESTS: &[Package] = &[CURL, PIP, CHROMIUM, CHROMEDRIVER];
pub const FAULTS: &[Package] = &[PIP];
pub const BENCHMARKS: &[Package] = &[PIP, NPM];

/// The servers, where Docker does not give them.
pub fn servers(backend: Backend) -> &'static [Package] {
    match backend {
        Backend::Docker => &[],
        Backend::Local => &[RABBITMQ, MYSQL],
    }
}

pub fn server(service: Service) -> Package {
    match service {
        Service::Rabbitmq => RABBITMQ,
        Service::Mysql => MYSQL,
    }
}

/// Installs what is missing, with the system's package manager.
pub fn install<'a>(packages: impl IntoIterator<Item = &'a Package>, tasks: &Tasks) -> Result<()> {
    let missing: Vec<_> =
        packages.into_iter().filter(|package| !(package.is_installed)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let found = |name: &str| find_program(&[], &[name]).is_some();
    let managers =
        [("apt-get", APT), ("dnf", "dnf install -y \"$@\""), ("brew", "brew install \"$@\"")];
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
    let sudo = manager != "brew" && !geteuid().is_root();
    ensure!(
        !sudo || found("sudo"),
        "{names} must be installed, which needs root. As root: {manager} install {}",
        packages.join(" ")
    );
    if sudo {
        tasks.note(&format!(
            "{names} must be installed, which needs root: sudo may ask for a password"
        ));
        let asked = tasks.suspend(|| Command::new("sudo").arg("true").status())?;
        ensure!(asked.success(), "sudo refuses. As root: {manager} install {}", packages.join(" "));
    }
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

/// Debian's packages also start a service at once and at each boot. The lab runs servers of its
/// own, so both are prevented:
/// https://www.debian.org/doc/debian-policy/ch-opersys.html#running-initscripts
const APT: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 1' HUP INT QUIT TERM # dash would not come to its EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
new=
for unit in rabbitmq-server.service mariadb.service epmd.socket; do
    systemctl cat $unit > /dev/null 2>&1 || new="$new $unit"
done
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --no-remove "$@"
[ -z "$new" ] || systemctl disable $new > /dev/null 2>&1 || true
"#;
