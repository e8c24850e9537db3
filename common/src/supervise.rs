//! One connection after the other, for a program that runs until Ctrl-C.
//!
//! lapin can bring back a lost connection by itself (`enable_auto_recover`). We do without: with
//! lapin 4.12.3 a program whose connection breaks while it sends may hang for ever, and a consumer
//! that acknowledges is always sending (6 of 8 tries). During an outage, its streams neither end
//! nor err. See also <https://github.com/amqp-rs/lapin/issues/450>.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use anyhow::anyhow;
use lapin::Connection;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::answer::answers;
use crate::backoff::Backoff;
use crate::connect::try_connect;
use crate::lost::{Again, is_refused, lost, mendable};
use crate::stop::{GRACE, at_ctrl_c};
use crate::unconnected::Unconnected;
use crate::{careful, close, connect, note};

/// A connection that has lasted so long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(5);

/// Calls `work` with a connection, and again with a new one whenever that is lost: channels,
/// queues, bindings and consumers are for `work` to make anew. Ends when `work` does for any other
/// reason, and closes the connection.
///
/// Ctrl-C or SIGTERM cancel the token. Then `work` has five seconds to finish what it has in hand.
///
/// # Errors
///
/// There is no connection to begin with (see [`connect`]), or what `work` returns.
pub async fn supervise(
    program: &str,
    // An async closure that is called again and again, and may change what it has borrowed.
    mut work: impl AsyncFnMut(&Connection, &CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = at_ctrl_c()?; // first: as process 1 of a container, SIGTERM would be ignored
    let mut connection = tokio::select! {
        connection = connect(program) => connection?,
        () = stop.cancelled() => return Ok(()),
    };
    // Pinned: `select!` polls it by reference, so that its five seconds go on in the next turn.
    let mut overdue = pin!(async {
        stop.cancelled().await;
        sleep(GRACE).await;
    });
    let mut backoff = Backoff::default();
    let mut again = false;
    loop {
        let start = Instant::now();
        // Whichever comes first; the others are dropped where they wait.
        let result = tokio::select! {
            result = work(&connection, &stop) => result,
            error = lost(&connection) => Err(error),
            () = careful::end() => Err(anyhow!(Again("Taking many messages at a time again"))),
            () = &mut overdue => Ok(()),
        };
        let why = match &result {
            // It has let us do it before: somebody is changing the user, or its permissions.
            Err(error) if again && is_refused(error) => Some("RabbitMQ refuses access"),
            Err(error) => tokio::select! {
                biased; // most errors are known at once
                why = mendable(&connection, error) => why,
                () = stop.cancelled() => return Ok(()),
            },
            Ok(()) => None,
        };
        let Some(why) = why else {
            close(connection).await;
            return result;
        };
        // A connection that is lost at once, time and again, must not make us busy.
        if start.elapsed() > GOOD {
            backoff = Backoff::default();
        }
        note!(" [!] {why}. Reconnecting ...");
        close(connection).await;
        connection = tokio::select! {
            connection = reconnect(program, &mut backoff) => connection,
            () = stop.cancelled() => return Ok(()),
        };
        note!(" [!] Connected again");
        again = true;
    }
}

/// Connects again, however long that takes. If the broker is there and refuses us, says so once for
/// each reason.
async fn reconnect(program: &str, backoff: &mut Backoff) -> Connection {
    let mut said = HashSet::new();
    loop {
        backoff.wait().await;
        match try_connect(program).await {
            Ok(connection) => return connection,
            Err(error) => match error.downcast_ref() {
                Some(Unconnected::Refused(line)) if said.insert(line.clone()) => {
                    note!(" [!] {line}");
                }
                Some(Unconnected::Silent(_)) => answers(backoff).await,
                _ => {}
            },
        }
    }
}
