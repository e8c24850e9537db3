//! RabbitMQ's management plugin: <https://www.rabbitmq.com/docs/http-api-reference>.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;
use ureq::Agent;

/// Where it is, and who asks.
pub struct Management {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
}

impl Management {
    pub fn get(&self, path: &str) -> Result<Value> {
        let request = agent().get(self.url(path)).header("Authorization", self.authorization());
        Ok(serde_json::from_str(&request.call()?.body_mut().read_to_string()?)?)
    }

    /// The version of RabbitMQ: major and minor.
    pub fn version(&self) -> Result<(u32, u32)> {
        let overview = self.get("overview")?;
        let version = overview["rabbitmq_version"].as_str().context("it tells no version")?;
        let mut numbers = version.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => bail!("not a version: {version}"),
        }
    }

    /// Creates what has no properties, a virtual host for instance.
    pub fn put(&self, path: &str) -> Result<()> {
        let request = agent().put(self.url(path)).header("Authorization", self.authorization());
        request.send_empty()?;
        Ok(())
    }

    /// Deletes what may be gone already.
    pub fn delete(&self, path: &str) -> Result<()> {
        let request = agent().delete(self.url(path)).header("Authorization", self.authorization());
        match request.call() {
            Ok(_) | Err(ureq::Error::StatusCode(404)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn url(&self, path: &str) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("http://{host}:{}/api/{path}", self.port)
    }

    /// Not in the URL: user and password may have any character.
    fn authorization(&self) -> String {
        let credentials = format!("{}:{}", self.user, self.password);
        format!("Basic {}", BASE64_STANDARD.encode(credentials))
    }
}

/// It asks nobody else's proxy for what is on this machine, whatever `HTTP_PROXY` says. It does not
/// wait for ever.
fn agent() -> Agent {
    Agent::config_builder()
        .proxy(None)
        .timeout_connect(Some(Duration::from_secs(3)))
        .timeout_global(Some(Duration::from_secs(120)))
        .build()
        .into()
}
