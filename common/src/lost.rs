//! When a connection counts as lost, or as good for nothing more.

use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPErrorKind;
use lapin::types::FieldTable;
use lapin::{Connection, ErrorKind};
use tokio::time::{sleep, timeout};

use crate::answer::PATIENCE;
use crate::report::Unsaid;
use crate::{careful, note};

/// The broker has ended the consumer of this queue. To be the context where the stream of a
/// consumer ends: [`supervise`](crate::supervise()) finds out why, and goes on if the queue is
/// still there.
#[derive(Debug)]
pub struct Ended(pub &'static str);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the broker ended the consumer: was the queue `{}` deleted?", self.0)
    }
}

/// A new connection can mend it. The text says what is wrong.
#[derive(Debug)]
pub struct Again(pub &'static str);

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// If work has ended because of something that a new connection can mend, what that is. This is not
/// so if the broker has closed the connection because of something that we have said.
pub async fn mendable(connection: &Connection, error: &anyhow::Error) -> Option<&'static str> {
    const LOST: &str = "Lost the connection to RabbitMQ";
    const UNREADABLE: &str = "lapin cannot read a message, so we take one at a time";
    const CLOSED: &str = "RabbitMQ has closed a channel"; // another call was told why
    const DOWN: &str = "A queue is down";
    const TOO_LONG: &str = "RabbitMQ has waited too long for an acknowledgement";
    if let Some(Ended(queue)) = error.downcast_ref() {
        return match exists(connection, queue).await {
            Some(true) => Some(TOO_LONG),
            Some(false) => None,
            None => Some(LOST), // a broker that stops ends the consumers first, too
        };
    }
    if let Some(Again(why)) = error.downcast_ref() {
        return Some(why);
    }
    if error.downcast_ref().is_some_and(is_down) {
        return Some(DOWN);
    }
    match error.downcast_ref().map(lapin::Error::kind) {
        // The status of the connection may lag behind these.
        Some(ErrorKind::IOError(_) | ErrorKind::MissingHeartbeatError) => Some(LOST),
        Some(ErrorKind::ProtocolError(reply)) if matches!(reply.kind(), AMQPErrorKind::Hard(_)) => {
            match reply.get_id() {
                // the broker stops, or an operator has closed the connection
                320 => Some(LOST),
                // For a channel that RabbitMQ has closed, lapin sends what it still has: messages,
                // for instance, when their exchange is deleted.
                504 => Some(LOST),
                // lapin was told what it had not asked for: a second answer to `basic.consume`, by
                // a cluster whose nodes were killed a moment ago (seen once, with RabbitMQ 3.10).
                505 => Some(LOST),
                // A quorum queue that was declared, or whose broker was started, a moment ago may
                // not be ready (seen with RabbitMQ 3.10): then the next attempt works.
                541 => {
                    note!(" [!] RabbitMQ has met an internal error: its log says more");
                    Some(LOST)
                }
                _ => None,
            }
        }
        // https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
        Some(ErrorKind::ProtocolError(reply))
            if reply.get_message().as_str().contains("timed out") =>
        {
            Some(TOO_LONG)
        }
        Some(ErrorKind::InvalidChannelState(..)) => {
            sleep(Duration::from_secs(1)).await; // or is it the connection that is lost?
            Some(if connection.status().connected() { CLOSED } else { LOST })
        }
        Some(ErrorKind::ParsingError(_)) => careful::begin().then_some(UNREADABLE),
        _ => (!error.is::<Unsaid>() && !connection.status().connected()).then_some(LOST),
    }
}

/// Whether the broker says that a queue is there, and cannot be used now: its node is away, or its
/// process is (seen with RabbitMQ 4.3 on a busy machine). The channel is closed then. These are all
/// the words that RabbitMQ 4.3 has for it, in its `rabbit_amqqueue.erl`.
pub fn is_down(error: &lapin::Error) -> bool {
    const WORDS: [&str; 4] =
        ["down or inaccessible", "process is stopped", "due to timeout", "has crashed"];
    match error.kind() {
        ErrorKind::ProtocolError(reply) if reply.get_id() == 404 => {
            WORDS.iter().any(|words| reply.get_message().as_str().contains(words))
        }
        _ => false,
    }
}

/// Whether the broker does not let us do something.
pub fn is_refused(error: &anyhow::Error) -> bool {
    match error.downcast_ref().map(lapin::Error::kind) {
        Some(ErrorKind::ProtocolError(reply)) => reply.get_id() == 403,
        _ => false,
    }
}

/// Whether there is a queue of this name, if the broker says so.
async fn exists(connection: &Connection, queue: &str) -> Option<bool> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let asked = async {
        // RabbitMQ 4.3 ends the consumers of a queue a moment before it forgets the queue.
        sleep(Duration::from_secs(1)).await;
        let channel = connection.create_channel().await?;
        channel.queue_declare(queue.into(), passive, FieldTable::default()).await
    };
    match timeout(PATIENCE, asked).await.ok()? {
        Ok(_) => Some(true),
        // Another 404 says that the queue is down.
        Err(error) => error.to_string().contains("no queue").then_some(false),
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
