//! Several nodes of RabbitMQ that are one broker. Each is an [`Instance`] of its own, with a folder
//! in that of the whole. Erlang's register of nodes and the secret that the nodes share are there.

use std::collections::hash_map::RandomState;
use std::fs::{self, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::process::wait_until;
use crate::servers::probe::Answer;
use crate::servers::ready::START_LIMIT;
use crate::servers::{Backend, Instance, Ports, Service};

/// How many nodes a cluster of the course has.
pub const NODES: usize = 3;

/// Which node of a cluster an instance is.
#[derive(Clone, Debug)]
pub struct Node {
    /// From 1.
    number: usize,
    /// The folder of the cluster.
    whole: PathBuf,
}

/// A server as a reader names it: `rabbitmq`, `mysql`, or a node, `rabbit2`. RabbitMQ's own tools
/// add the host to that.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    All(Service),
    Node(usize),
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.split_once('@').map_or(text, |(name, _host)| name);
        let node = || name.strip_prefix("rabbit")?.parse().ok();
        match Service::ALL.into_iter().find(|service| service.name() == name) {
            Some(service) => Ok(Self::All(service)),
            None => match node() {
                Some(node @ 1..=NODES) => Ok(Self::Node(node)),
                _ => Err("there are rabbitmq, mysql, and of a cluster rabbit1 to rabbit3".into()),
            },
        }
    }
}

impl Instance {
    /// The same, with a RabbitMQ of [`NODES`] nodes, which has data of its own.
    pub fn with_nodes(self) -> Result<Self> {
        let temporary = self.is_temporary();
        let ports = |number| if temporary { Ports::free() } else { Ok(Ports::of_node(number)) };
        let others = (2..=NODES).map(ports).collect::<Result<_>>()?;
        Ok(Self { others, ..self })
    }

    /// The same, with one RabbitMQ.
    pub fn without_nodes(self) -> Self {
        Self { others: Vec::new(), ..self }
    }

    pub fn is_cluster(&self) -> bool {
        !self.others.is_empty()
    }

    /// The nodes of a cluster; of any other instance, none.
    pub fn nodes(&self) -> Vec<Self> {
        let ports = [self.ports].into_iter().chain(self.others.iter().copied());
        let ports = ports.take_while(|_| self.is_cluster());
        let nodes = ports.zip(1..).map(|(ports, number)| Self {
            folder: self.folder.join(format!("rabbit{number}")),
            ports: Ports { epmd: self.ports.epmd, ..ports },
            others: Vec::new(),
            node: Some(Node { number, whole: self.folder.clone() }),
            ..self.clone()
        });
        nodes.collect()
    }

    /// Node 1, 2 or 3.
    pub fn node(&self, number: usize) -> Result<Self> {
        let mut nodes = self.nodes().into_iter();
        nodes.nth(number - 1).context("these servers are no cluster: `cargo lab up --nodes 3`")
    }

    /// Which instances run a service: the nodes, or this one.
    pub(crate) fn parts(&self, service: Service) -> Vec<Self> {
        match service {
            Service::Rabbitmq if self.is_cluster() => self.nodes(),
            _ => vec![self.clone()],
        }
    }

    /// One to be asked for what all of them know: one that answers, or else one that runs.
    pub(super) fn spokesman(&self) -> Self {
        let mut parts = self.parts(Service::Rabbitmq);
        let answers = |node: &Self| matches!(node.probe(Service::Rabbitmq), Answer::Server(_));
        let best = match parts.len() {
            1 => Some(0),
            _ => parts
                .iter()
                .position(answers)
                .or_else(|| parts.iter().position(|node| node.is_running(Service::Rabbitmq))),
        };
        parts.swap_remove(best.unwrap_or(0))
    }

    /// What a reader calls it, and docker-compose.yml: `mysql`, or `rabbit2`.
    pub fn name(&self, service: Service) -> String {
        match &self.node {
            Some(node) if service == Service::Rabbitmq => format!("rabbit{}", node.number),
            _ => service.name().to_owned(),
        }
    }

    /// What a node calls itself.
    pub(crate) fn node_name(&self) -> String {
        match &self.node {
            Some(Node { number, .. }) if self.backend == Backend::Docker => {
                format!("rabbit{number}@rabbit{number}") // as docker-compose.yml has it
            }
            Some(node) => format!("rabbit{}@localhost", node.number),
            None => format!("lab{}@localhost", self.ports.amqp),
        }
    }

    pub(crate) fn is_node(&self) -> bool {
        self.node.is_some()
    }

    /// If it is a node, its number.
    pub(super) fn number(&self) -> Option<usize> {
        self.node.as_ref().map(|node| node.number)
    }

    /// The folder of the servers that it belongs to.
    pub(super) fn whole(&self) -> &Path {
        self.node.as_ref().map_or(&self.folder, |node| &node.whole)
    }

    /// Lines of rabbitmq.conf: how a node finds the others, and what it does without them.
    pub(super) fn cluster_conf(&self) -> String {
        if self.node.is_none() {
            return String::new();
        }
        let mut conf = "cluster_formation.peer_discovery_backend = classic_config\n\
                        heartbeat = 5\n"
            .to_owned();
        for number in 1..=NODES {
            let name = format!("rabbit{number}@localhost");
            conf += &format!("cluster_formation.classic_config.nodes.{number} = {name}\n");
        }
        conf
    }

    /// The secret that nodes share. Each node would make one, if there is none.
    pub(super) fn write_cookie(&self) -> Result<()> {
        let file = self.whole().join(".erlang.cookie");
        if !file.exists() {
            let random = || RandomState::new().build_hasher().finish();
            fs::write(&file, format!("{:016x}{:016x}", random(), random()))?;
            fs::set_permissions(&file, Permissions::from_mode(0o400))?;
        }
        Ok(())
    }

    /// Waits until each of the nodes knows that all of them run.
    pub(super) fn wait_for_nodes(&self) -> Result<()> {
        let knows_all = |node: &Self| {
            let nodes = node.management().get("nodes").unwrap_or_default();
            let nodes = nodes.as_array().map_or(&[][..], Vec::as_slice);
            nodes.iter().filter(|node| node["running"] == true).count() == NODES
        };
        wait_until(START_LIMIT, || self.nodes().iter().all(knows_all))
            .context("the nodes do not find each other")
    }
}

#[cfg(test)]
mod tests {
    use super::Server;

    #[test]
    fn servers_by_name() {
        let parse = |name: &str| name.parse().ok();
        assert!(matches!(parse("rabbit2"), Some(Server::Node(2))));
        assert!(matches!(parse("rabbit3@localhost"), Some(Server::Node(3))));
        assert!(matches!(parse("rabbitmq"), Some(Server::All(_))));
        for wrong in ["rabbit4", "rabbit0", "rabbit", "mariadb", ""] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
