//! The table `tb_order`: one row an order.

use std::time::Duration;

use anyhow::{anyhow, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, Serialized};
use tokio::time::timeout;

/// The longest user id that the table takes, in characters.
pub const USER_ID_MAX: usize = 256;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The message id is binary, so that the unique key compares bytes: as text, `a` and `A` would be the
/// same order.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS tb_order (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT,
    user_id VARCHAR(256) NOT NULL,
    message_id VARBINARY(255) NOT NULL,
    db_insert_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    db_update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE KEY (message_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

/// Its one parameter is a JSON array of all rows: the statement is the same for any number of them, so
/// MySQL and our connection keep one prepared statement, not one for each number.
const INSERT: &str = "INSERT INTO tb_order (user_id, message_id)
    SELECT json.user_id, json.message_id FROM JSON_TABLE(?, '$[*]' COLUMNS (
        user_id TEXT CHARACTER SET utf8mb4 PATH '$[0]',
        message_id TEXT CHARACTER SET utf8mb4 PATH '$[1]'
    )) AS json
    ON DUPLICATE KEY UPDATE message_id = tb_order.message_id";

const COLUMNS: &str = "SELECT CONCAT(column_name, IF(column_key = 'UNI', ' (unique)', ''))
    FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'tb_order' ORDER BY column_name";

/// What [`COLUMNS`] says of the table that [`CREATE`] makes.
const EXPECTED: [&str; 5] = [
    "db_insert_time",
    "db_update_time",
    "id",
    "message_id (unique)",
    "user_id",
];

/// A row to be.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub user_id: &'a str,
    pub message_id: &'a str,
}

/// Why rows are not in the table.
pub enum Failure {
    /// The server is not there, or not now: the same again later.
    Away(String),
    /// One of the rows is at fault; if there is only one, we know which.
    Row(String),
    /// It will not work next time either.
    Fatal(anyhow::Error),
}

pub struct Table {
    opts: Opts,
    connection: Option<Conn>,
}

impl Table {
    /// Connects to MySQL at this URL, and creates the table if it is not there.
    ///
    /// # Errors
    ///
    /// No server there, nobody may log in, or there is a table of that name with other columns. The
    /// password is in none of the errors.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let opts = Opts::from_url(url).map_err(|_| {
            anyhow!("MYSQL_URL must be mysql://user:password@host:port/database, with characters other than letters and digits percent-encoded")
        })?;
        let mut table = Self {
            opts,
            connection: None,
        };
        match table.connect().await {
            Ok(connection) => table.connection = Some(connection),
            Err(Failure::Away(cause)) => bail!(
                "cannot connect to {}: {cause}. Is MySQL running there? `cargo lab up` starts it; MYSQL_URL names another address",
                table.address()
            ),
            Err(Failure::Row(cause)) => bail!("{cause}"),
            Err(Failure::Fatal(error)) => return Err(error),
        }
        Ok(table)
    }

    /// Where the table is, without the password.
    fn address(&self) -> String {
        format!(
            "mysql://{}:***@{}:{}/{}",
            self.opts.user().unwrap_or_default(),
            self.opts.ip_or_hostname(),
            self.opts.tcp_port(),
            self.opts.db_name().unwrap_or_default()
        )
    }

    /// What a server's refusal means for us: <https://dev.mysql.com/doc/mysql-errors/en/>.
    fn explain(&self, error: Error) -> Failure {
        match error {
            Error::Server(error) => match (error.state.get(..2), error.code) {
                // may not log in, may not do this, no such database, table or column
                (Some("28" | "3D" | "42"), _) => {
                    let advice = "Check the user, the password and the database in MYSQL_URL";
                    Failure::Fatal(anyhow!("{}: {}. {advice}", self.address(), error.message))
                }
                // the connection; a deadlock; too many connections, no more room on the disk, shutting
                // down, table full, waited too long for a lock, read-only, killed
                (Some("08" | "40" | "70"), _)
                | (_, 1021 | 1040 | 1053 | 1114 | 1205 | 1290 | 1317 | 1836 | 1927) => {
                    Failure::Away(error.message)
                }
                _ => Failure::Row(error.message),
            },
            error => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                Failure::Away(cause.to_string())
            }
        }
    }

    async fn connect(&self) -> Result<Conn, Failure> {
        let connecting = timeout(CONNECT_TIMEOUT, Conn::new(self.opts.clone()));
        let Ok(connected) = connecting.await else {
            return Err(Failure::Away("it does not answer".to_owned()));
        };
        let mut connection = connected.map_err(|error| self.explain(error))?;
        let columns: Result<Vec<String>, _> = connection.query(COLUMNS).await;
        let columns = columns.map_err(|error| self.explain(error))?;
        if columns.is_empty() {
            let created = connection.query_drop(CREATE).await;
            created.map_err(|error| self.explain(error))?;
        } else if columns != EXPECTED {
            return Err(Failure::Fatal(anyhow!(
                "the table `tb_order` in {} has other columns than this lesson needs: {}. Rename it \
                 (RENAME TABLE tb_order TO tb_order_old) and start again: then a new one is made",
                self.address(),
                columns.join(", ")
            )));
        }
        Ok(connection)
    }

    /// Stores all of the rows or none, in one statement, which is one transaction. A row whose message
    /// id is in the table already is left as it is. Says how many are new.
    pub async fn insert(&mut self, rows: &[Row<'_>]) -> Result<u64, Failure> {
        // Put back when all went well. After an error, or if nobody waits for our end, there is a new one
        // the next time.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let rows: Vec<_> = rows
            .iter()
            .map(|row| [row.user_id, row.message_id])
            .collect();
        connection
            .exec_drop(INSERT, (Serialized(rows),))
            .await
            .map_err(|error| self.explain(error))?;
        let new = connection.affected_rows();
        self.connection = Some(connection);
        Ok(new)
    }

    /// Ends the connection as a network does that fails: without a word to us.
    pub async fn break_connection(&mut self) {
        if let Some(connection) = &mut self.connection {
            let statement = format!("KILL {}", connection.id());
            let _ = connection.query_drop(statement).await;
        }
    }
}
