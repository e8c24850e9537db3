//! Which servers there are, and what runs them.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::process::find_program;
use crate::progress::Tasks;
use crate::servers::docker;

/// Says where the servers come from, if the lab is not to choose: `docker`, or a folder with the
/// programs (`rabbitmq-server`, `rabbitmqctl`, `epmd`, `mysqld`, `mysql`).
pub const SERVERS: &str = "LAB_SERVERS";

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
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
            // The first folders: Debian's and Fedora's rabbitmq-server in PATH insists on root.
            Self::Rabbitmq => server_program(
                &["/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin"],
                &["rabbitmq-server"],
            ),
            Self::Mysql => server_program(
                &["/usr/sbin", "/usr/libexec", "/opt/homebrew/bin"],
                &["mariadbd", "mysqld"],
            ),
        }
    }
}

/// One of the programs that come with the servers: in the folder that [`SERVERS`] names, or else as
/// [`find_program`] finds it.
pub fn server_program(folders: &[&str], names: &[&str]) -> Option<PathBuf> {
    let wanted = env::var_os(SERVERS).map(PathBuf::from);
    let mut there = names.iter().filter_map(|name| Some(wanted.as_ref()?.join(name)));
    there.find(|file| file.is_file()).or_else(|| find_program(folders, names))
}

/// What runs the servers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Backend {
    /// Programs installed on this machine.
    Local,
    /// docker-compose.yml.
    Docker,
}

impl Backend {
    /// What runs servers that play or are tested: Docker, if that saves installing them.
    ///
    /// # Errors
    ///
    /// [`SERVERS`] asks for Docker, which cannot give them.
    pub fn choose(tasks: &Tasks) -> Result<Self> {
        if env::var_os(SERVERS).is_some_and(|wanted| wanted == "docker") {
            docker::ready(tasks)
                .map_err(|why| anyhow::anyhow!("{SERVERS} asks for Docker, but {why}"))?;
            return Ok(Self::Docker);
        }
        if Service::all_installed() {
            return Ok(Self::Local);
        }
        Ok(Self::docker_or_local(tasks))
    }

    /// Docker, where it can really give the servers. Where there is a Docker that cannot, says why.
    pub fn docker_or_local(tasks: &Tasks) -> Self {
        match docker::ready(tasks) {
            Ok(()) => Self::Docker,
            Err(why) => {
                if find_program(&[], &["docker"]).is_some() {
                    tasks.note(&format!("Not with Docker: {why}"));
                }
                Self::Local
            }
        }
    }
}
