//! The table `tb_order`: one row an order.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, io};

use anyhow::{anyhow, bail};
use common::address::MYSQL_FORM;
use common::mysql::{Away, advice, explain, help, is_fault_of_data};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Serialized};
use tokio::time::timeout;

/// The longest user id that the table takes, in characters.
pub const USER_ID_MAX: usize = 256;

/// How long MySQL may take to answer.
const ANSWER: Duration = Duration::from_secs(4);
/// How long it may take to store a batch.
const STORE: Duration = Duration::from_secs(30);

/// The message id is binary, so that the unique key compares bytes: as text, `a` and `A` would be
/// the same order.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS tb_order (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    user_id VARCHAR(256) NOT NULL,
    message_id VARBINARY(255) NOT NULL,
    db_insert_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    db_update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE KEY (message_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

/// Its one parameter is a JSON array of all rows: the statement is the same for any number of them,
/// so MySQL and our connection keep one prepared statement, not one for each number.
const INSERT: &str = "INSERT INTO tb_order (user_id, message_id)
    SELECT json.user_id, json.message_id FROM JSON_TABLE(?, '$[*]' COLUMNS (
        user_id TEXT CHARACTER SET utf8mb4 PATH '$[0]',
        message_id TEXT CHARACTER SET utf8mb4 PATH '$[1]'
    )) AS json
    ON DUPLICATE KEY UPDATE message_id = tb_order.message_id";

/// How many of these rows are not in the table.
const MISSING: &str = "SELECT COUNT(*) FROM JSON_TABLE(?, '$[*]' COLUMNS (
        message_id TEXT CHARACTER SET utf8mb4 PATH '$[1]'
    )) AS json
    LEFT JOIN tb_order ON tb_order.message_id = CAST(json.message_id AS BINARY)
    WHERE tb_order.id IS NULL";

/// The columns, with their types where another one would do harm, and the unique keys.
const SHAPE: &str = "SELECT CONCAT(column_name, IF(
        (column_name = 'id' AND data_type NOT IN ('int', 'bigint'))
        OR (column_name = 'message_id' AND data_type <> 'varbinary'), CONCAT(' ', data_type), ''))
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'tb_order'
    UNION ALL SELECT CONCAT('UNIQUE (', GROUP_CONCAT(
        column_name, IF(sub_part IS NULL, '', CONCAT('(', sub_part, ')')) ORDER BY seq_in_index), ')')
    FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'tb_order' AND non_unique = 0
    GROUP BY index_name";

/// What [`SHAPE`] says of the table that [`CREATE`] makes, sorted.
const EXPECTED: [&str; 7] = [
    "UNIQUE (id)",
    "UNIQUE (message_id)",
    "db_insert_time",
    "db_update_time",
    "id",
    "message_id",
    "user_id",
];

/// A row to be: the user id and the message id of an order.
pub type Row<'a> = [&'a str; 2];

/// Why rows are not in the table.
pub enum Failure {
    /// One of the rows is at fault; if there is only one, we know which.
    Row(String),
    /// The same again later.
    Away(Away),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (cause, answered) = match error {
            Error::Server(error) if is_fault_of_data(&error.state, error.code) => {
                return Self::Row(error.message);
            }
            Error::Server(error) => (error.message, true),
            error => (anyhow!(error).root_cause().to_string(), false),
        };
        // The rows together are more than MySQL takes in one statement; one by one they are not.
        match cause.contains("max_allowed_packet") {
            true => Self::Row(cause),
            false => Self::Away(Away { cause, answered }),
        }
    }
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
    /// No server there, nobody may log in, or there is a table of that name that would not do. The
    /// password is in none of the errors.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let opts = Opts::from_url(url).map_err(|_| anyhow!(MYSQL_FORM))?;
        // RabbitMQ's client reads this variable by itself, MySQL's does not.
        let ssl = opts.ssl_opts().cloned().map(|ssl| match env::var_os("SSL_CERT_FILE") {
            Some(file) => ssl.with_root_certs(vec![PathBuf::from(file).into()]),
            None => ssl,
        });
        // A transaction begins with its first statement: BEGIN would be one round trip more.
        let opts = OptsBuilder::from_opts(opts).setup(vec!["SET autocommit = 0"]);
        // An insert that changes nothing must count as nothing.
        let opts = opts.client_found_rows(false).ssl_opts(ssl);
        let opts = Opts::from(opts);
        let server = format!("MySQL at {}:{}", opts.ip_or_hostname(), opts.tcp_port());
        let (connection, shape) = prepare(&opts).await.map_err(|error| match error {
            Error::Server(error) => {
                anyhow!("{server}: {}{}", error.message, advice(&error.state, error.code))
            }
            Error::Io(error) => {
                let cause = anyhow!(error).root_cause().to_string();
                anyhow!("cannot connect to {server}: {cause}{}", help(&cause))
            }
            error => anyhow!("cannot connect to {server}: {}", anyhow!(error).root_cause()),
        })?;
        if shape != EXPECTED {
            bail!(
                "{server}: the table `tb_order` in the database `{}` does not have the columns and \
                 unique keys that this program needs. It has: {}. Rename it (RENAME TABLE tb_order \
                 TO tb_order_old) and start again: then a new one is made",
                opts.db_name().unwrap_or_default(),
                shape.join(", ")
            );
        }
        Ok(Self { opts, connection: Some(connection) })
    }

    /// Stores all of the rows or none, in one transaction. A row whose message id is in the table
    /// already is left as it is. Says how many are new.
    pub async fn insert(&mut self, rows: &[Row<'_>]) -> Result<u64, Failure> {
        // Put back when all went well. After an error, or if nobody waits for our end, there is a
        // new one the next time. Whatever is wrong with that, none of the rows is at fault.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.opts).await.map_err(|error| match error.into() {
                Failure::Row(cause) => Failure::Away(Away { cause, answered: true }),
                away => away,
            })?,
        };
        let new = store(&mut connection, rows).await?;
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

/// A connection to a server that can do what we need, the table made, and its shape.
async fn prepare(opts: &Opts) -> Result<(Conn, Vec<String>), Error> {
    let mut connection = connect(opts).await?;
    let mut shape: Vec<String> = within(ANSWER, connection.query(SHAPE)).await?;
    if shape.is_empty() {
        within(ANSWER, connection.query_drop(CREATE)).await?;
        shape = within(ANSWER, connection.query(SHAPE)).await?;
    }
    shape.sort();
    if shape == EXPECTED {
        let version = connection.server_version();
        within(ANSWER, connection.prep(INSERT)).await.map_err(|error| match error {
            Error::Server(mut error) => {
                error.message = explain(error.message, error.code, version);
                Error::Server(error)
            }
            error => error,
        })?;
    }
    within(ANSWER, connection.query_drop("COMMIT")).await?; // what only reads is a transaction, too
    Ok((connection, shape))
}

async fn connect(opts: &Opts) -> Result<Conn, Error> {
    within(ANSWER, Conn::new(opts.clone())).await
}

/// Stores the rows. If this ends with an error, the connection must go, and with it the
/// transaction.
async fn store(connection: &mut Conn, rows: &[Row<'_>]) -> Result<u64, Failure> {
    within(STORE, connection.exec_drop(INSERT, (Serialized(rows),))).await?;
    let new = connection.affected_rows();
    // Those that are not new must be known: `ON DUPLICATE KEY` speaks of every unique key.
    if new < rows.len() as u64 {
        let missing = connection.exec_first(MISSING, (Serialized(rows),));
        let missing: Option<u64> = within(STORE, missing).await?;
        if missing != Some(0) {
            let cause = "orders are in conflict with other rows of tb_order, whose message ids differ: \
                         is there another unique key, or are the ids used up?";
            return Err(Failure::Away(Away { cause: cause.to_owned(), answered: true }));
        }
    }
    within(STORE, connection.query_drop("COMMIT")).await?;
    Ok(new)
}

/// Does something with MySQL, but does not wait for it for ever.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    timeout(limit, work).await.unwrap_or_else(|_| Err(silent().into()))
}
