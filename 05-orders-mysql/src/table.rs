//! The table `tb_order`: one row an order.

use std::time::Duration;

use anyhow::{anyhow, bail};
use common::address::MYSQL_FORM;
use common::mysql::{is_not_for_us, may_work_later};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, Serialized};
use tokio::time::timeout;

/// The longest user id that the table takes, in characters.
pub const USER_ID_MAX: usize = 256;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The message id is binary, so that the unique key compares bytes: as text, `a` and `A` would be
/// the same order.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS tb_order (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT,
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

const COLUMNS: &str = "SELECT CONCAT(column_name, IF(column_key = 'UNI', ' (unique)', ''))
    FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'tb_order' ORDER BY column_name";

/// What [`COLUMNS`] says of the table that [`CREATE`] makes.
const EXPECTED: [&str; 5] =
    ["db_insert_time", "db_update_time", "id", "message_id (unique)", "user_id"];

/// A row to be: the user id and the message id of an order.
pub type Row<'a> = [&'a str; 2];

/// Why rows are not in the table.
pub enum Failure {
    /// The server is not there, or not now: the same again later.
    Away(String),
    /// One of the rows is at fault; if there is only one, we know which.
    Row(String),
    /// It will not work next time either.
    Fatal(String),
}

impl From<Error> for Failure {
    /// What a server's refusal means for us: <https://dev.mysql.com/doc/mysql-errors/en/>.
    fn from(error: Error) -> Self {
        let Error::Server(error) = error else {
            let cause = anyhow!(error).root_cause().to_string();
            // The rows together are more than MySQL takes in one statement; one by one they are
            // not.
            return match cause.contains("max_allowed_packet") {
                true => Self::Row(cause),
                false => Self::Away(cause),
            };
        };
        if is_not_for_us(&error.state) {
            Self::Fatal(format!(
                "{}. Check the user, the password and the database in MYSQL_URL",
                error.message
            ))
        } else if may_work_later(&error.state, error.code) {
            Self::Away(error.message)
        } else {
            Self::Row(error.message)
        }
    }
}

impl Failure {
    /// When a new connection is refused, none of the rows is at fault. There was one before, so it
    /// is tried again, even if somebody must first mend what is wrong.
    fn later(self) -> Self {
        match self {
            Self::Away(cause) | Self::Row(cause) | Self::Fatal(cause) => Self::Away(cause),
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
    /// No server there, nobody may log in, or there is a table of that name with other columns. The
    /// password is in none of the errors.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let opts = Opts::from_url(url).map_err(|_| anyhow!(MYSQL_FORM))?;
        let server = format!("MySQL at {}:{}", opts.ip_or_hostname(), opts.tcp_port());
        match connect(&opts).await {
            Ok(connection) => Ok(Self { opts, connection: Some(connection) }),
            Err(Failure::Fatal(cause)) => bail!("{server}: {cause}"),
            Err(Failure::Away(cause) | Failure::Row(cause)) => bail!(
                "cannot connect to {server}: {cause}. Is it running there? `cargo lab up` starts it; \
                 MYSQL_URL names another address"
            ),
        }
    }

    /// Stores all of the rows or none, in one statement, which is one transaction. A row whose
    /// message id is in the table already is left as it is. Says how many are new.
    pub async fn insert(&mut self, rows: &[Row<'_>]) -> Result<u64, Failure> {
        // Put back when all went well. After an error, or if nobody waits for our end, there is a
        // new one the next time.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.opts).await.map_err(Failure::later)?,
        };
        connection.exec_drop(INSERT, (Serialized(rows),)).await?;
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

async fn connect(opts: &Opts) -> Result<Conn, Failure> {
    let connecting = timeout(CONNECT_TIMEOUT, Conn::new(opts.clone())).await;
    let no_answer = |_| Failure::Away("it does not answer".to_owned());
    let mut connection = connecting.map_err(no_answer)??;
    let columns: Vec<String> = connection.query(COLUMNS).await?;
    if columns.is_empty() {
        connection.query_drop(CREATE).await?;
    } else if columns != EXPECTED {
        return Err(Failure::Fatal(format!(
            "the table `tb_order` in the database `{}` has other columns than this lesson needs: {}. \
             Rename it (RENAME TABLE tb_order TO tb_order_old) and start again: then a new one is made",
            opts.db_name().unwrap_or_default(),
            columns.join(", ")
        )));
    }
    Ok(connection)
}
