//! One connection: its name, its errors with advice, its clean end.

use std::{io, time::Duration};

use anyhow::anyhow;
use futures_lite::StreamExt;
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::{sleep, timeout};

use crate::address::{amqp_url, masked, parse};
use crate::note;

/// How long a connection may take. A broker that is reachable answers within milliseconds;
/// one behind a slow network, within a second or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

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
        anyhow!("cannot connect to {}: {cause}. {advice}", masked(&uri))
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

/// Why a connection failed, and what to do about it.
fn explain(error: &lapin::Error) -> (String, &'static str) {
    match error.kind() {
        // Reply codes: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
        ErrorKind::ProtocolError(reply) => {
            let advice = match reply.get_id() {
                403 => "Check the user and the password in AMQP_URL",
                530 => "Check the virtual host, the last part of AMQP_URL (the default one is %2f)",
                _ => "The log of the broker says more",
            };
            let cause = reply.get_message().to_string();
            (cause.trim_end_matches('.').to_owned(), advice)
        }
        ErrorKind::IOError(cause) if cause.to_string().contains("certificate") => (
            cause.to_string(),
            "If the server's certificate is from an authority of your own, name its file in \
             SSL_CERT_FILE",
        ),
        ErrorKind::IOError(cause) if cause.to_string().contains("corrupt message") => (
            cause.to_string(),
            "What answers there does not speak TLS; an AMQP_URL that begins with amqp:// does without",
        ),
        kind => (
            match kind {
                ErrorKind::ParsingError(_) => "what answers there does not speak AMQP".to_owned(),
                _ => error.to_string(),
            },
            "Is RabbitMQ running there? `cargo lab up` starts it; AMQP_URL names another address",
        ),
    }
}
