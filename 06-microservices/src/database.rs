//! A database of one's own, and what to do when it is away.

use std::time::Duration;

use anyhow::anyhow;
use common::address::{MYSQL_FORM, mysql_url};
use common::backoff::Backoff;
use common::mysql::{is_not_for_us, may_work_later};
use common::note;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Pool, Transaction, TxOpts};
use tokio::time::timeout;

/// How long MySQL may take to answer before it counts as away.
const TIMEOUT: Duration = Duration::from_secs(4);

const OUTBOX: &str = "CREATE TABLE IF NOT EXISTS outbox (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    message_id CHAR(36) NOT NULL,
    kind VARCHAR(64) NOT NULL,
    body TEXT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

const INBOX: &str = "CREATE TABLE IF NOT EXISTS inbox (
    message_id VARBINARY(255) NOT NULL PRIMARY KEY,
    received TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE = InnoDB";

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// MySQL is not there, or does not let us: the same again later.
    Away(String),
    /// It will not work next time either.
    Refused(String),
}

impl From<Error> for Failure {
    /// What a server's refusal means: <https://dev.mysql.com/doc/mysql-errors/en/>.
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error)
                if !may_work_later(&error.state, error.code) && !is_not_for_us(&error.state) =>
            {
                Self::Refused(error.message)
            }
            error => Self::Away(error.to_string()),
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
        let opts = Opts::from_url(&mysql_url()).map_err(|_| anyhow!(MYSQL_FORM))?;
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
            connection.disconnect().await
        };
        timeout(TIMEOUT, create)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
            .map_err(|cause| {
                anyhow!("cannot use {address}: {cause}. Check MYSQL_URL; `cargo lab up` starts MySQL on this machine")
            })?;
        let pool = Pool::new(OptsBuilder::from_opts(opts).db_name(Some(name)));
        Ok(Self { pool })
    }

    /// Begins a transaction. Dropped without a commit, it is rolled back. Whatever is wrong here,
    /// no event is at fault.
    pub async fn begin(&self) -> Result<Transaction<'static>, Failure> {
        let transaction = self.pool.start_transaction(TxOpts::default()).await;
        transaction.map_err(|error| Failure::Away(error.to_string()))
    }
}

/// Does something with MySQL, but does not wait for it for ever.
pub async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let no_answer = || Err(Failure::Away("no answer".to_owned()));
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| no_answer())
}

/// Does something with MySQL, and again while MySQL is away, which it says once on standard error.
///
/// # Errors
///
/// Why MySQL has refused it.
pub async fn persist<T>(mut work: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, String> {
    let mut backoff = Backoff::default();
    loop {
        let result = within(work()).await;
        if let Err(Failure::Away(cause)) = result {
            if !backoff.has_waited() {
                note!(" [!] MySQL: {cause}. Trying again ...");
            }
            backoff.wait().await;
            continue;
        }
        if backoff.has_waited() {
            note!(" [!] MySQL is back");
        }
        return result.map_err(|failure| match failure {
            Failure::Refused(reason) | Failure::Away(reason) => reason,
        });
    }
}
