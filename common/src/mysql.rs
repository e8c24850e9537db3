//! What an error of MySQL or MariaDB says of the statement that got it, for lessons 5 and 6.
//!
//! Codes and states: <https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>.

/// Whether the same statement may work later: the server is short of something, or stops, or
/// somebody else has a lock.
pub fn may_work_later(state: &str, code: u16) -> bool {
    /// The connection; a transaction that was rolled back, a deadlock for instance; a query that
    /// was killed.
    const CLASSES: [&str; 3] = ["08", "40", "70"];
    const DISK_FULL: u16 = 1021;
    const CON_COUNT_ERROR: u16 = 1040; // too many connections
    const SERVER_SHUTDOWN: u16 = 1053;
    const RECORD_FILE_FULL: u16 = 1114; // the table is full: so is its disk
    const LOCK_WAIT_TIMEOUT: u16 = 1205;
    const OPTION_PREVENTS_STATEMENT: u16 = 1290; // read_only
    const QUERY_INTERRUPTED: u16 = 1317;
    const READ_ONLY_MODE: u16 = 1836;
    const CONNECTION_KILLED: u16 = 1927; // MariaDB
    matches!(
        code,
        DISK_FULL
            | CON_COUNT_ERROR
            | SERVER_SHUTDOWN
            | RECORD_FILE_FULL
            | LOCK_WAIT_TIMEOUT
            | OPTION_PREVENTS_STATEMENT
            | QUERY_INTERRUPTED
            | READ_ONLY_MODE
            | CONNECTION_KILLED
    ) || CLASSES.iter().any(|class| state.starts_with(class))
}

/// Whether we may not do this, or what it needs is not there: no such user, database, table or
/// column.
pub fn is_not_for_us(state: &str) -> bool {
    ["28", "3D", "42"].iter().any(|class| state.starts_with(class))
}
