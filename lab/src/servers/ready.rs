//! When a server is ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::wait_until;
use crate::servers::probe::{self, Answer};
use crate::servers::{Backend, Instance, Service};
use crate::url::Url;

/// RabbitMQ starts in 5 to 10 seconds on two cores; a machine that is busy needs longer.
pub(super) const START_LIMIT: Duration = Duration::from_secs(120);

impl Instance {
    /// What answers: name and version.
    pub fn probe(&self, service: Service) -> Answer {
        match service {
            Service::Rabbitmq => {
                let url = self.spokesman().amqp_url();
                Url::parse(&url).map_or(Answer::Nothing, |url| probe::rabbitmq(&url))
            }
            Service::Mysql => Url::parse(&self.mysql_url())
                .map_or(Answer::Nothing, |url| probe::mysql(&url, self.mysql(&url))),
        }
    }

    pub(super) fn title(&self, service: Service) -> String {
        let name = match (service, self.number()) {
            (Service::Rabbitmq, None) => "RabbitMQ".to_owned(),
            (Service::Rabbitmq, Some(number)) => format!("RabbitMQ, node {number}"),
            (Service::Mysql, _) if self.backend == Backend::Docker => "MySQL".to_owned(),
            (Service::Mysql, _) => "MySQL or MariaDB".to_owned(),
        };
        name + if self.backend == Backend::Docker { " with Docker" } else { "" }
    }

    /// Waits until the service lets us in, and its management page too; says its name and version.
    pub(super) fn wait_for(&self, service: Service) -> Result<String> {
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
            let page = || service == Service::Mysql || self.management().get("overview").is_ok();
            name.is_ok() && page()
        });
        name.and_then(|name| up.map(|()| name)).with_context(|| {
            let log = self.log(service);
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            format!("{} did not start; the end of its log:\n{end}\n", self.title(service))
        })
    }
}
