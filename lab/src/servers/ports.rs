//! Where the servers listen.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ports {
    pub amqp: u16,
    /// AMQP over TLS, if the instance has a [`Certificate`].
    pub amqps: u16,
    pub management: u16,
    /// The stream protocol of RabbitMQ.
    pub stream: u16,
    pub mysql: u16,
    /// Not the lab's own: the services of lesson 6 listen there.
    pub admin: u16,
    pub main: u16,
    #[serde(default)] // a file of an older lab does not have it
    pub feedback: u16,
    /// That of lesson 11.
    #[serde(default)]
    pub health: u16,
    pub(super) epmd: u16,
    pub(super) distribution: u16,
}

impl Ports {
    /// The default ports of RabbitMQ and MySQL, except for Erlang's own two: those of the system's
    /// RabbitMQ stay free.
    pub const DEFAULT: Self = Self {
        amqp: 5672,
        amqps: 5671,
        management: 15672,
        stream: 5552,
        mysql: 3306,
        admin: 8000,
        main: 8001,
        feedback: 8002,
        health: 9000,
        epmd: 5669,
        distribution: 25669,
    };

    /// Those of a node of a cluster: beside the default ones of node 1.
    pub(crate) const fn of_node(number: usize) -> Self {
        let Self { amqp, management, stream, distribution, .. } = Self::DEFAULT;
        let more = number as u16 - 1;
        Self {
            amqp: amqp + more,
            management: management + more,
            stream: stream + more,
            distribution: distribution + more,
            ..Self::DEFAULT
        }
    }

    /// Free ports below those that a system gives to outgoing connections (from 32768 on Linux):
    /// nothing takes the port of a server that is down for a moment.
    ///
    /// No two calls give the same port: it takes a server some seconds to listen there.
    pub(super) fn free() -> Result<Self> {
        static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sockets: Vec<TcpListener> = Vec::new();
        for _ in 0..1000 {
            let port = 10_000 + (RandomState::new().build_hasher().finish() % 20_000) as u16;
            if given.insert(port) {
                sockets.extend(TcpListener::bind(("127.0.0.1", port)));
            }
            if let [
                amqp,
                amqps,
                management,
                stream,
                mysql,
                admin,
                main,
                feedback,
                health,
                epmd,
                distribution,
            ] = &sockets[..]
            {
                let port =
                    |socket: &TcpListener| Ok::<_, std::io::Error>(socket.local_addr()?.port());
                return Ok(Self {
                    amqp: port(amqp)?,
                    amqps: port(amqps)?,
                    management: port(management)?,
                    stream: port(stream)?,
                    mysql: port(mysql)?,
                    admin: port(admin)?,
                    main: port(main)?,
                    feedback: port(feedback)?,
                    health: port(health)?,
                    epmd: port(epmd)?,
                    distribution: port(distribution)?,
                });
            }
        }
        bail!("no free ports between 10000 and 30000")
    }
}
