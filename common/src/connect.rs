//! One connection: its name, its errors with advice, its clean end.

use std::{fmt, io, time::Duration};

use anyhow::anyhow;
use futures_lite::StreamExt;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::{sleep, timeout};

use crate::address::{CERTIFICATE, amqp_url, masked, parse};
use crate::note;

/// How long a connection may take. A broker that is reachable answers within milliseconds;
/// one behind a slow network, within a second or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

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

/// Connects to RabbitMQ at [`amqp_url`]. `program` is the name of the connection: the management
/// page shows it.
///
/// Says on standard error when the broker is short of memory or disk and takes no messages for now:
/// <https://www.rabbitmq.com/docs/connection-blocked>.
///
/// # Errors
///
/// It is tried once, so that a wrong address is known at once: the error names the address without
/// its password, the cause, and what to do.
pub async fn connect(program: &str) -> anyhow::Result<Connection> {
    let uri = parse(&amqp_url())?;
    let properties = ConnectionProperties::default().with_connection_name(program.into());
    let connecting = Connection::connect_uri(uri.clone(), properties);
    let result = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
    let connection = result.map_err(|error| {
        let (cause, advice) = explain(&error);
        let line = format!("cannot connect to {}: {cause}{advice}", masked(&uri));
        match error.kind() {
            ErrorKind::ProtocolError(reply) if ![320, 541].contains(&reply.get_id()) => {
                anyhow!(Unconnected::Refused(line))
            }
            ErrorKind::IOError(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                anyhow!(Unconnected::Silent(line))
            }
            _ if advice != HELP => anyhow!(Unconnected::Refused(line)), // a certificate
            _ => anyhow!(line),
        }
    })?;

    let mut events = connection.events_listener().boxed();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    note!(" [!] RabbitMQ takes no messages for now: {reason}");
                }
                Event::ConnectionUnblocked => note!(" [!] RabbitMQ takes messages again"),
                _ => {}
            }
        }
    });
    Ok(connection)
}

/// Closes the connection, so that the broker knows that we are gone on purpose. Waits no longer
/// than three seconds: a broker that does not answer will find out by itself.
pub async fn close(connection: Connection) {
    // A channel that was dropped just now is still being closed. Until it is, lapin 4.12.3 does not
    // close the connection, and nothing tells us when.
    sleep(Duration::from_millis(100)).await;
    let closing = connection.close(200, "Goodbye".into());
    let _ = timeout(Duration::from_secs(3), closing).await;
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
