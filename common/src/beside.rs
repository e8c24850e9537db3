//! A second connection, for a program that consumes and publishes.

use anyhow::anyhow;
use lapin::Connection;

use crate::connect::connect_again;
use crate::lost::{Again, lost, mendable};
use crate::{close, note};

/// Calls `work` with a connection of its own, beside that of [`supervise`](crate::supervise()),
/// which makes both anew if this one is lost. In a cluster it is to the same node, if it can be.
///
/// While RabbitMQ is short of memory or disk, it reads nothing from a connection that publishes,
/// acknowledgements included: <https://www.rabbitmq.com/docs/alarms>. So a program that consumes,
/// too, needs two.
///
/// # Errors
///
/// What `work` returns.
pub async fn beside(
    program: &str,
    work: impl AsyncFnOnce(&Connection) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let connection = match connect_again(program).await {
        Ok(connection) => connection,
        Err(error) => {
            note!(" [!] {error}");
            return Err(anyhow!(Again("No second connection to RabbitMQ")));
        }
    };
    let result = tokio::select! {
        result = work(&connection) => result,
        error = lost(&connection) => Err(error),
    };
    let why = match &result {
        Err(error) => mendable(&connection, error).await,
        Ok(()) => None,
    };
    close(connection).await;
    match why {
        Some(why) => Err(anyhow!(Again(why))),
        None => result,
    }
}
