//! A database of one's own, and what to do when it is away.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use common::address::{MYSQL_FORM, mysql_url};
use common::mysql::{Away, Outage, advice, explain, help, is_fault_of_data};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Pool, Transaction, TxOpts};
use tokio::time::timeout;

use crate::outbox::DELETE;

/// How long a transaction may take before MySQL counts as away: ten round trips, some of them slow.
const TIMEOUT: Duration = Duration::from_secs(15);

const OUTBOX: &str = "CREATE TABLE IF NOT EXISTS outbox (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    message_id CHAR(36) NOT NULL,
    kind VARCHAR(64) NOT NULL,
    body TEXT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

const INBOX: &str = "CREATE TABLE IF NOT EXISTS inbox (
    message_id VARBINARY(255) NOT NULL PRIMARY KEY,
    received TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    KEY (received)
) ENGINE = InnoDB";

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// MySQL is not there, or does not do it now: the same again later.
    Away(Away),
    /// The data is at fault: it will not work next time either.
    Refused(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) if is_fault_of_data(&error.state, error.code) => {
                Self::Refused(error.message)
            }
            Error::Server(error) => Self::Away(Away { cause: error.message, answered: true }),
            error => {
                let cause = anyhow!(error).root_cause().to_string();
                Self::Away(Away { cause, answered: false })
            }
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

pub struct Database {
    pool: Pool,
}

impl Database {
    /// The database of a service, next to the one that `MYSQL_URL` names: `test_admin` next to
    /// `test`. It is created if it is not there, with these tables, the outbox and the inbox.
    ///
    /// # Errors
    ///
    /// No server there, or it refuses us. The password is in none of the errors.
    pub async fn open(service: &str, tables: &[&str]) -> anyhow::Result<Self> {
        let opts = Opts::from_url(&mysql_url()?).map_err(|_| anyhow!(MYSQL_FORM))?;
        // RabbitMQ's client reads this variable by itself, MySQL's does not.
        let ssl = opts.ssl_opts().cloned().map(|ssl| match env::var_os("SSL_CERT_FILE") {
            Some(file) => ssl.with_root_certs(vec![PathBuf::from(file).into()]),
            None => ssl,
        });
        // An insert that changes nothing must count as nothing: the inbox depends on it.
        let opts = OptsBuilder::from_opts(opts).client_found_rows(false).ssl_opts(ssl);
        let opts = Opts::from(opts);
        let name = format!("{}_{service}", opts.db_name().unwrap_or("test"));
        let address = format!(
            "mysql://{}:***@{}:{}/{name}",
            opts.user().unwrap_or_default(),
            opts.ip_or_hostname(),
            opts.tcp_port()
        );
        let create = async {
            let builder = OptsBuilder::from_opts(opts.clone()).db_name(None::<String>);
            let mut connection = Conn::new(builder).await?;
            let name = name.replace('`', "``");
            connection.query_drop(format!("CREATE DATABASE IF NOT EXISTS `{name}`")).await?;
            connection.query_drop(format!("USE `{name}`")).await?;
            for table in [OUTBOX, INBOX].iter().chain(tables) {
                connection.query_drop(*table).await?;
            }
            let version = connection.server_version();
            connection.prep(DELETE).await.map_err(|error| match error {
                Error::Server(mut error) => {
                    error.message = explain(error.message, error.code, version);
                    Error::Server(error)
                }
                error => error,
            })?;
            connection.disconnect().await
        };
        timeout(TIMEOUT, create)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
            .map_err(|cause| match cause {
                Error::Server(error) => {
                    let advice = advice(&error.state, error.code);
                    anyhow!("cannot use {address}: {}{advice}", error.message)
                }
                Error::Io(error) => {
                    let cause = anyhow!(error).root_cause().to_string();
                    anyhow!("cannot connect to {address}: {cause}{}", help(&cause))
                }
                cause => anyhow!("cannot connect to {address}: {}", anyhow!(cause).root_cause()),
            })?;
        let pool = Pool::new(OptsBuilder::from_opts(opts).db_name(Some(name)));
        Ok(Self { pool })
    }

    /// To read something.
    pub async fn connection(&self) -> Result<Conn, Failure> {
        Ok(self.pool.get_conn().await?)
    }

    /// Begins a transaction. Dropped without a commit, it is rolled back.
    pub async fn begin(&self) -> Result<Transaction<'static>, Failure> {
        Ok(self.pool.start_transaction(TxOpts::default()).await?)
    }
}

/// Does something with MySQL, but does not wait for it for ever.
pub async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let silent = || Failure::Away(Away { cause: "it does not answer".to_owned(), answered: false });
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(silent()))
}

/// Does something with MySQL, and again while MySQL is away, which it says on standard error.
///
/// # Errors
///
/// Why MySQL has refused it.
pub async fn persist<T>(mut work: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, String> {
    let mut outage = Outage::default();
    loop {
        match within(work()).await {
            Err(Failure::Away(away)) => outage.wait(away).await,
            Err(Failure::Refused(reason)) => return Err(reason),
            Ok(done) => {
                outage.end();
                return Ok(done);
            }
        }
    }
}
