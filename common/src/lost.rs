//! When a connection counts as lost.

use std::time::Duration;

use anyhow::anyhow;
use lapin::{Connection, ErrorKind, protocol::AMQPErrorKind};
use tokio::time::sleep;

use crate::report::Unsaid;

/// Whether work has ended because its connection is lost, and can go on over a new one. This is not
/// so if the broker has closed the connection because of something that we have said.
pub fn is_lost(connection: &Connection, result: &anyhow::Result<()>) -> bool {
    let Err(error) = result else { return false };
    match error.downcast_ref().map(lapin::Error::kind) {
        // The status of the connection may lag behind these.
        Some(ErrorKind::IOError(_) | ErrorKind::MissingHeartbeatError) => true,
        // 320: the broker stops, or an operator has closed the connection
        Some(ErrorKind::ProtocolError(reply)) if matches!(reply.kind(), AMQPErrorKind::Hard(_)) => {
            reply.get_id() == 320 || is_internal_error(result)
        }
        Some(ErrorKind::ParsingError(_)) => false,
        _ => !error.is::<Unsaid>() && !connection.status().connected(),
    }
}

/// Whether something has gone wrong in the broker. A quorum queue that was declared, or whose
/// broker was started, a moment ago may not be ready (seen with RabbitMQ 3.10): then the next
/// attempt works.
pub fn is_internal_error(result: &anyhow::Result<()>) -> bool {
    let error = result.as_ref().err().and_then(|error| error.downcast_ref());
    match error.map(lapin::Error::kind) {
        Some(ErrorKind::ProtocolError(reply)) => reply.get_id() == 541,
        _ => false,
    }
}

/// Waits until the connection is lost, and three seconds more for what is still done with what came
/// over it. A safety net: when a connection breaks, lapin 4.12.3 leaves what is asked of it at that
/// moment unanswered for ever, an acknowledgement for instance.
pub async fn lost(connection: &Connection) -> anyhow::Error {
    while connection.status().connected() {
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(3)).await;
    anyhow!("the connection to RabbitMQ is lost")
}
