//! How long to wait for an answer: a broker may be silent, and so may a network.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{io, time::Duration};

use anyhow::anyhow;
use lapin::uri::AMQPUri;
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{error::Elapsed, sleep, timeout};

use crate::address::{amqp_url, parse_all};
use crate::backoff::Backoff;
use crate::connect::{close_at_once, connect};
use crate::lost::Again;

/// How long an answer of the broker may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Connects, calls `work` with a channel of the connection, and closes both: for a program that
/// does one thing and ends.
///
/// # Errors
///
/// There is no connection (see [`connect`]), what `work` returns, or an answer has taken 20
/// seconds: then the broker or the network is silent, and nobody knows what was done. While the
/// broker takes no messages because it is short of memory or disk, the time stands still.
pub async fn once(
    program: &str,
    work: impl AsyncFnOnce(&Channel) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let connection = connect(program).await?;
    // Dropped after the connection is closed: while lapin closes a channel, it cannot close that.
    let mut channel = None;
    // Whichever comes first; the other one is dropped where it waits.
    let result = tokio::select! {
        result = async { work(channel.insert(connection.create_channel().await?)).await } => result,
        () = patience(&connection) => Err(anyhow!(
            "RabbitMQ has not answered for {PATIENCE:?}: what we have asked for may be done, or not"
        )),
    };
    close_at_once(connection).await;
    result
}

/// Waits for a confirm.
///
/// # Errors
///
/// The connection is lost; or no confirm has come for 20 seconds, not counting the time in which
/// the broker takes no messages. A broker whose queue has died may never answer (seen with RabbitMQ
/// 3.10). [`supervise`](crate::supervise()) connects again then.
pub async fn confirmed(
    connection: &Connection,
    confirm: PublisherConfirm,
) -> anyhow::Result<Confirmation> {
    tokio::select! {
        confirmation = confirm => Ok(confirmation?),
        () = patience(connection) => Err(anyhow!(Again("RabbitMQ does not confirm"))),
    }
}

/// Waits until one of the servers of [`amqp_url`] answers, or none is silent any more. lapin 4.12.3
/// leaves a thread and a socket behind with each attempt to connect that is not answered.
pub async fn answers(backoff: &mut Backoff) {
    let Ok(addresses) = parse_all(&amqp_url()) else { return };
    loop {
        let mut asked: JoinSet<_> = addresses.iter().cloned().map(ask).collect();
        let mut silent = false;
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(Ok(_))) => return,
                Ok(Err(_)) => silent = true,
                _ => {} // nothing listens there
            }
        }
        if !silent {
            return;
        }
        backoff.wait().await;
    }
}

/// The first byte that a server answers to a client that begins.
async fn ask(uri: AMQPUri) -> Result<io::Result<u8>, Elapsed> {
    let host = uri.authority.host.trim_matches(['[', ']']);
    timeout(PATIENCE, async {
        let mut stream = TcpStream::connect((host, uri.authority.port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.read_u8().await
    })
    .await
}

static ANSWERS: AtomicUsize = AtomicUsize::new(0);

/// To be called by a program that waits for many answers, after each of them: time for the next one
/// begins.
pub fn answered() {
    ANSWERS.fetch_add(1, Relaxed);
}

/// Waits as long as an answer may take, and longer while the broker is short of memory or disk.
pub async fn patience(connection: &Connection) {
    const STEP: Duration = Duration::from_secs(1);
    let mut waited = Duration::ZERO;
    let mut answers = ANSWERS.load(Relaxed);
    while waited < PATIENCE {
        sleep(STEP).await;
        if !(connection.status().blocked() && connection.status().connected()) {
            waited += STEP;
        }
        if answers != ANSWERS.load(Relaxed) {
            answers = ANSWERS.load(Relaxed);
            waited = Duration::ZERO;
        }
    }
}
