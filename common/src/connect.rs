//! One connection: its address, its name, its clean end.

use futures_lite::StreamExt;
use lapin::{Connection, ConnectionProperties, Event};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

use crate::address::{amqp_url, masked, parse_all};
use crate::backoff::{Backoff, patience};
use crate::note;
use crate::unconnected::unconnected;

/// How long a connection may take. A broker that is reachable answers within milliseconds;
/// one behind a slow network, within a second or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Which of the addresses has let us in the last time.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Connects to RabbitMQ at [`amqp_url`]. `program` is the name of the connection: the management
/// page shows it. If there are several addresses, they are tried in turn, and the first one is
/// chosen at random: so many programs share the nodes of a cluster.
///
/// Says on standard error when the broker is short of memory or disk and takes no messages for now:
/// <https://www.rabbitmq.com/docs/connection-blocked>.
///
/// # Errors
///
/// Each address is tried once, so that a wrong one is known at once: the error names the addresses
/// without passwords, the cause, and what to do. With `WAIT_FOR_BROKER=60`, they are tried again
/// and again for 60 seconds: a container may start before its broker.
pub async fn connect(program: &str) -> anyhow::Result<Connection> {
    let (start, patience) = (Instant::now(), patience()?);
    let mut backoff = Backoff::default();
    parse_all(&amqp_url())?; // what is wrong stays wrong
    loop {
        match try_connect(program).await {
            Err(error) if start.elapsed() < patience => {
                if !backoff.has_waited() {
                    note!(" [!] {error}. Trying again for {} s ...", patience.as_secs());
                }
                backoff.wait().await;
            }
            result => return result,
        }
    }
}

/// As [`connect`], without waiting.
///
/// # Errors
///
/// Those of [`connect`].
pub async fn try_connect(program: &str) -> anyhow::Result<Connection> {
    let random = RandomState::new().build_hasher().finish(); // the standard library has no other
    connect_from(random as usize, program).await
}

/// As [`connect`], to the node that the last connection is to, if it lets us in: two connections to
/// one node are lost together, and not one after the other.
///
/// # Errors
///
/// Those of [`connect`].
pub async fn connect_again(program: &str) -> anyhow::Result<Connection> {
    connect_from(LAST.load(Relaxed), program).await
}

async fn connect_from(start: usize, program: &str) -> anyhow::Result<Connection> {
    let addresses = parse_all(&amqp_url())?;
    let count = addresses.len();
    let mut tried = Vec::new();
    for index in (0..count).map(|offset| (start % count + offset) % count) {
        let properties = ConnectionProperties::default().with_connection_name(program.into());
        let connecting = Connection::connect_uri(addresses[index].clone(), properties);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => {
                LAST.store(index, Relaxed);
                tell_of_alarms(&connection);
                return Ok(connection);
            }
            Ok(Err(error)) => tried.push((masked(&addresses[index]), error)),
            Err(_) => {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                tried.push((masked(&addresses[index]), error.into()));
            }
        }
    }
    Err(unconnected(tried))
}

fn tell_of_alarms(connection: &Connection) {
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
}

/// Closes the connection, so that the broker knows that we are gone on purpose. Waits no longer
/// than three seconds: a broker that does not answer will find out by itself.
pub async fn close(connection: Connection) {
    // A channel that was dropped just now is still being closed. Until it is, lapin 4.12.3 does not
    // close the connection, and nothing tells us when.
    sleep(Duration::from_millis(100)).await;
    close_at_once(connection).await;
}

/// As [`close`], where no channel was dropped.
pub(crate) async fn close_at_once(connection: Connection) {
    let _ = timeout(Duration::from_secs(3), connection.close(200, "Goodbye".into())).await;
}
