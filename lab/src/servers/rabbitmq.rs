//! A RabbitMQ that is installed on this machine, started with settings of our own only.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::Group;
use crate::servers::probe::Answer;
use crate::servers::{Instance, Service, server_program};

/// The settings that RabbitMQ has in the course, here as in docker-compose.yml.
const ADVANCED: &str = include_str!("../../rabbitmq/advanced.config");
const PLUGINS: &str = include_str!("../../rabbitmq/enabled_plugins");

impl Instance {
    /// <https://www.rabbitmq.com/docs/configure#supported-environment-variables>
    fn rabbitmq_environment(&self, command: &mut Command) {
        command
            .env("HOME", self.whole()) // the secret that Erlang's nodes share is kept there
            .env("RABBITMQ_NODENAME", self.node_name())
            .env("RABBITMQ_CONF_ENV_FILE", self.file("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", self.file("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", self.file("conf.d"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", self.file("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.file("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", self.file("generated"))
            .env("RABBITMQ_SCHEMA_DIR", self.file("schema"))
            .env("RABBITMQ_MNESIA_BASE", self.file("rabbitmq"))
            .env("RABBITMQ_LOG_BASE", &self.folder)
            .env("RABBITMQ_LOGS", "-") // into the log that we give it
            .env("RABBITMQ_PID_FILE", self.file("beam.pid"))
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                // Nodes miss each other after ten seconds, and not after a minute.
                "-kernel inet_dist_use_interface {127,0,0,1} -kernel net_ticktime 10",
            );
    }

    pub(super) fn local_rabbitmqctl(&self) -> Result<Command> {
        let server = Service::Rabbitmq.program().context("RabbitMQ is not installed")?;
        let mut command = Command::new(server.with_file_name("rabbitmqctl"));
        self.rabbitmq_environment(&mut command);
        Ok(command)
    }

    /// Before a clean stop. RabbitMQ 3.10 would wait five seconds in it: as the management plugin's
    /// handler of statistics ends, it asks the process that waits for its end. This takes half a
    /// second, and more on a busy machine.
    pub(super) fn end_statistics(&self) {
        match self.probe(Service::Rabbitmq) {
            Answer::Other(_) => return, // it stands still
            Answer::Server(name) if !name.starts_with("RabbitMQ 3.") => return,
            _ => {} // a node that is drained does not say what it is
        }
        if let Ok(mut command) = self.local_rabbitmqctl() {
            let end = "gen_event:delete_handler(rabbit_event, rabbit_mgmt_db_handler, []).";
            // if this fails, the stop takes longer
            let _ = command.args(["--quiet", "--timeout", "5", "eval", end]).output();
        }
    }

    /// What all nodes share.
    pub(super) fn prepare_rabbitmq(&self) -> Result<()> {
        self.write_cookie()?;
        // Erlang's register of nodes. RabbitMQ would start one itself, and leave it behind.
        let pid = self.whole().join("epmd.pid");
        if Group::find(&pid).is_none() {
            let program =
                server_program(&["/usr/lib/erlang/bin", "/usr/lib64/erlang/bin"], &["epmd"])
                    .context("Erlang's `epmd` is not installed")?;
            let mut command = Command::new(program);
            command.args(["-port", &self.ports.epmd.to_string(), "-address", "127.0.0.1"]);
            Group::start(command, &self.whole().join("epmd.log"), &pid)?;
        }
        Ok(())
    }

    pub(super) fn start_rabbitmq(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let server = Service::Rabbitmq.program().context("RabbitMQ is not installed")?;
        let mut conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             stream.listeners.tcp.1 = 127.0.0.1:{stream}\n\
             stream.advertised_host = localhost\n\
             stream.advertised_port = {stream}\n",
            self.ports.amqp,
            self.ports.management,
            stream = self.ports.stream,
        ) + &self.cluster_conf();
        if let Some(certificate) = &self.certificate {
            for (name, content) in certificate.files() {
                fs::write(self.file(name), content)?;
            }
            let folder = self.folder.display().to_string();
            conf += &tls(&format!("127.0.0.1:{}", self.ports.amqps), &folder);
        }
        fs::write(self.file("rabbitmq.conf"), conf)?;
        fs::write(self.file("rabbitmq-env.conf"), "")?;
        fs::write(self.file("enabled_plugins"), PLUGINS)?;
        fs::write(self.file("advanced.config"), ADVANCED)?;

        let mut command = Command::new(server);
        self.rabbitmq_environment(&mut command);
        Group::start(command, &self.log_file(Service::Rabbitmq), &self.pid_file("rabbitmq"))?;
        Ok(())
    }
}

/// Lines of rabbitmq.conf for TLS, with the files of a [`super::Certificate`] in this folder.
pub(super) fn tls(listener: &str, folder: &str) -> String {
    format!(
        "listeners.ssl.1 = {listener}\n\
         ssl_options.cacertfile = {folder}/authority.pem\n\
         ssl_options.certfile = {folder}/server.pem\n\
         ssl_options.keyfile = {folder}/server.key\n"
    )
}
