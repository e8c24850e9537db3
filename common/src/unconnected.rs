//! Why there is no connection, and what to do about it.

use std::{fmt, io};

use anyhow::anyhow;
use lapin::ErrorKind;

use crate::address::CERTIFICATE;

/// Why there is no connection, in one line. Some other reasons have no name.
#[derive(Debug)]
pub enum Unconnected {
    /// The broker is there and does not let us in.
    Refused(String),
    /// Something is there and says nothing.
    Silent(String),
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(line) | Self::Silent(line)) = self;
        f.write_str(line)
    }
}

/// The error when none of these addresses has let us in: each cause once, with the addresses that
/// it is the cause of, in the order in which they were tried.
pub fn unconnected(tried: Vec<(String, lapin::Error)>) -> anyhow::Error {
    let mut causes: Vec<(String, String, &str)> = Vec::new();
    let (mut refused, mut silent) = (false, false);
    for (address, error) in tried {
        let (cause, advice) = explain(&error);
        match error.kind() {
            // a broker that stops, or that has met an internal error, may let us in later
            ErrorKind::ProtocolError(reply) => refused |= ![320, 541].contains(&reply.get_id()),
            ErrorKind::IOError(cause) if cause.kind() == io::ErrorKind::TimedOut => silent = true,
            _ => refused |= advice != HELP, // a certificate
        }
        match causes.iter_mut().find(|(_, known, _)| *known == cause) {
            Some((addresses, ..)) => *addresses += &format!(" or {address}"),
            None => causes.push((address, cause, advice)),
        }
    }
    let mut line = "cannot connect to ".to_owned();
    for (index, (addresses, cause, _)) in causes.iter().enumerate() {
        line += &format!("{}{addresses}: {cause}", if index > 0 { "; nor to " } else { "" });
    }
    // What to do where a broker is there comes first.
    causes.sort_by_key(|(_, _, advice)| advice.is_empty() || *advice == HELP);
    line += causes.first().map_or("", |(_, _, advice)| advice);
    match (refused, silent) {
        (true, _) => anyhow!(Unconnected::Refused(line)),
        (false, true) => anyhow!(Unconnected::Silent(line)),
        (false, false) => anyhow!(line),
    }
}

const HELP: &str =
    ". Is RabbitMQ running there? `cargo lab up` starts it; AMQP_URL names another address";

/// Why a connection failed, and what to do about it.
fn explain(error: &lapin::Error) -> (String, &'static str) {
    match error.kind() {
        // Reply codes: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
        ErrorKind::ProtocolError(reply) => {
            let cause = reply.get_message().to_string();
            let advice = match reply.get_id() {
                403 => ". Check the user and the password in AMQP_URL",
                530 if cause.contains("not found") => {
                    ". Check the virtual host, the last part of AMQP_URL (the default one is %2f)"
                }
                _ => "", // a limit, a permission: the broker's own words say what
            };
            (cause.trim_end_matches('.').to_owned(), advice)
        }
        ErrorKind::IOError(cause) if cause.to_string().contains("certificate") => {
            (cause.to_string(), CERTIFICATE)
        }
        ErrorKind::IOError(cause) if cause.to_string().contains("corrupt message") => (
            cause.to_string(),
            ". What answers there does not speak TLS; an AMQP_URL that begins with amqp:// does without",
        ),
        ErrorKind::ParsingError(_) => ("what answers there does not speak AMQP".to_owned(), HELP),
        _ => (error.to_string(), HELP),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::unconnected;

    #[test]
    fn all_that_were_tried_are_named() {
        let closed = || lapin::Error::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        let silent = lapin::Error::from(io::Error::from(io::ErrorKind::TimedOut));
        let tried = [("one", closed()), ("two", silent), ("three", closed())];
        let tried = tried.map(|(address, error)| (address.to_owned(), error));
        let line = unconnected(tried.into()).to_string();
        let start = "cannot connect to one or three: IO error: connection refused; nor to two: IO \
                     error: timed out. Is RabbitMQ running there?";
        assert!(line.starts_with(start), "{line}");
    }
}
