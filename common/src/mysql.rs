//! What an error of MySQL or MariaDB says of the statement that got it, and what to do while the
//! server is away.
//!
//! Codes and states: <https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>.

use std::collections::HashSet;

use crate::address::CERTIFICATE;
use crate::backoff::Backoff;
use crate::note;

/// Whether the server says that the data in the statement is at fault. Only then is a message one
/// that can never be stored. After any other error, and there are more than we know, the same
/// statement may work later.
pub fn is_fault_of_data(state: &str, code: u16) -> bool {
    // A value that does not fit; a constraint; the condition of a view; a trigger's SIGNAL.
    const CLASSES: [&str; 4] = ["22", "23", "44", "45"];
    // MySQL gives these the state HY000, which says nothing.
    const INVALID_CHARACTER_STRING: u16 = 1300;
    const TRUNCATED_WRONG_VALUE_FOR_FIELD: u16 = 1366;
    const CHECK_CONSTRAINT_VIOLATED: u16 = 3819;
    // MariaDB gives this 22003: an AUTO_INCREMENT column has no numbers left.
    const AUTOINC_ERANGE: u16 = 167;
    match code {
        INVALID_CHARACTER_STRING | TRUNCATED_WRONG_VALUE_FOR_FIELD | CHECK_CONSTRAINT_VIOLATED => {
            true
        }
        AUTOINC_ERANGE => false,
        _ => CLASSES.iter().any(|class| state.starts_with(class)),
    }
}

/// An error of a statement that is right.
const PARSE_ERROR: u16 = 1064;

/// Why a server of this version refuses a statement that newer ones know: its message, or that it
/// is too old.
pub fn explain(message: String, code: u16, (major, minor, patch): (u16, u16, u16)) -> String {
    match code == PARSE_ERROR {
        true => format!(
            "its version, {major}.{minor}.{patch}, is too old. MySQL 8.0, MariaDB 10.6 or a later \
             one is needed"
        ),
        false => message,
    }
}

/// What to do when the server does not let a program in, or not do what it must; nothing where its
/// own words must do.
pub fn advice(state: &str, code: u16) -> &'static str {
    const SECURE_TRANSPORT_REQUIRED: u16 = 3159;
    // no such user, no such database, table or column, or not allowed
    match ["28", "3D", "42"].iter().any(|class| state.starts_with(class)) {
        _ if code == SECURE_TRANSPORT_REQUIRED => ". End MYSQL_URL with ?require_ssl=true",
        _ if code == PARSE_ERROR => "", // see `explain`
        true => ". Check the user, the password and the database in MYSQL_URL",
        false => "",
    }
}

/// What to do when there is no connection to a server for this reason of the system's.
pub fn help(cause: &str) -> &'static str {
    match cause.contains("certificate") {
        true => CERTIFICATE,
        false => ". Is it running there? `cargo lab up` starts it; MYSQL_URL names another address",
    }
}

/// A MySQL that is away, or that does not do what it is asked.
#[derive(Debug)]
pub struct Away {
    /// Why, in the server's words or the system's.
    pub cause: String,
    /// Whether it is the server who says so.
    pub answered: bool,
}

/// What we say of a MySQL that is away: the first cause, and then each answer of the server once.
#[derive(Default)]
pub struct Outage {
    backoff: Backoff,
    said: HashSet<String>,
}

impl Outage {
    /// Says it, and waits before the next attempt.
    pub async fn wait(&mut self, away: Away) {
        if (!self.backoff.has_waited() || away.answered) && self.said.insert(away.cause.clone()) {
            note!(" [!] MySQL: {}. Trying again ...", away.cause);
        }
        self.backoff.wait().await;
    }

    /// Says that it is back, if it was away.
    pub fn end(&self) {
        if self.backoff.has_waited() {
            note!(" [!] MySQL is back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PARSE_ERROR, advice, explain};

    #[test]
    fn a_server_that_is_too_old_is_named_with_its_version() {
        let line = explain("near 'JSON_TABLE'".to_owned(), PARSE_ERROR, (10, 5, 23));
        assert!(line.starts_with("its version, 10.5.23, is too old. "), "{line}");
        assert_eq!(advice("42000", PARSE_ERROR), ""); // nothing about passwords
    }
}
