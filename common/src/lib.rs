//! What all lessons share: where the servers are and who we are, a connection that is brought back when
//! it is lost, and the one line a program prints when it cannot go on. The AMQP calls are in the lessons.

use std::{env, fmt, io, time::Duration};

use anyhow::{anyhow, ensure};
use futures_lite::StreamExt;
use lapin::{
    Connection, ConnectionProperties, ErrorKind, Event, protocol::AMQPErrorKind, uri::AMQPUri,
};
use tokio::signal::ctrl_c;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a connection may take. A broker that is reachable answers within milliseconds;
/// one behind a slow network, within a second or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// How long to wait before the next attempt to bring back a lost connection: at first, and at most.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long a program may take to finish what it has in hand after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);

/// The address of RabbitMQ: the environment variable `AMQP_URL`, or else the user `guest` at the
/// default port of this machine. `%2f` is `/`, the name of the default virtual host.
///
/// How such a URL is written: <https://www.rabbitmq.com/docs/uri-spec>.
pub fn amqp_url() -> String {
    variable("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")
}

/// The address of MySQL: the environment variable `MYSQL_URL`, or else the user `guest` and the
/// database `test` at the default port of this machine.
pub fn mysql_url() -> String {
    variable("MYSQL_URL", "mysql://guest:guest@localhost:3306/test")
}

fn variable(name: &str, default: &str) -> String {
    env::var_os(name).map_or(default.to_owned(), |value| value.to_string_lossy().into_owned())
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
        anyhow!("cannot connect to {}: {cause}. {advice}", masked(&uri))
    })?;

    let mut events = connection.events_listener().boxed();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    eprintln!(" [!] RabbitMQ takes no messages for now: {reason}");
                }
                Event::ConnectionUnblocked => eprintln!(" [!] RabbitMQ takes messages again"),
                _ => {}
            }
        }
    });
    Ok(connection)
}

/// Calls `work` with a connection, and again with a new one whenever that is lost: channels, queues,
/// bindings and consumers are for `work` to make anew. Ends when `work` does for any other reason, and
/// closes the connection.
///
/// Ctrl-C or SIGTERM cancel the token. Then `work` has five seconds to finish what it has in hand.
///
/// # Errors
///
/// There is no connection to begin with (see [`connect`]), or what `work` returns.
pub async fn run(
    program: &str,
    mut work: impl AsyncFnMut(&Connection, &CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut connection = connect(program).await?;
    let stop = CancellationToken::new();
    let signal = stop.clone();
    tokio::spawn(async move {
        if interrupted().await.is_ok() {
            signal.cancel();
        }
    });
    let overdue = async {
        stop.cancelled().await;
        sleep(GRACE).await;
    };
    tokio::pin!(overdue);
    let mut pause = MIN_PAUSE;
    loop {
        let start = Instant::now();
        let result = tokio::select! {
            result = work(&connection, &stop) => result,
            error = lost(&connection) => Err(error),
            () = &mut overdue => Ok(()),
        };
        if !is_lost(&connection, &result) {
            close(connection).await;
            return result;
        }
        if is_internal_error(&result) {
            eprintln!(" [!] RabbitMQ has met an internal error: its log says more");
        }
        // A connection that is lost at once, time and again, must not make us busy.
        if start.elapsed() > MAX_PAUSE {
            pause = MIN_PAUSE;
        }
        connection = tokio::select! {
            connection = reconnect(program, &mut pause) => connection,
            () = stop.cancelled() => return Ok(()),
        };
    }
}

/// Waits for Ctrl-C, or for what `docker stop` and systemd end a program with.
async fn interrupted() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    ctrl_c().await
}

/// Whether work has ended because its connection is lost, and can go on over a new one. This is not
/// so if the broker has closed the connection because of something that we have said.
fn is_lost(connection: &Connection, result: &anyhow::Result<()>) -> bool {
    let Err(error) = result else {
        return false;
    };
    match error.downcast_ref().map(lapin::Error::kind) {
        // The status of the connection may lag behind these.
        Some(ErrorKind::IOError(_) | ErrorKind::MissingHeartbeatError) => true,
        // 320: the broker stops, or an operator has closed the connection
        Some(ErrorKind::ProtocolError(reply)) if matches!(reply.kind(), AMQPErrorKind::Hard(_)) => {
            reply.get_id() == 320 || is_internal_error(result)
        }
        Some(ErrorKind::ParsingError(_)) => false,
        _ => !connection.status().connected(),
    }
}

/// Whether something has gone wrong in the broker. A quorum queue that was declared, or whose broker
/// was started, a moment ago may not be ready (seen with RabbitMQ 3.10): then the next attempt works.
fn is_internal_error(result: &anyhow::Result<()>) -> bool {
    let error = result.as_ref().err().and_then(|error| error.downcast_ref());
    match error.map(lapin::Error::kind) {
        Some(ErrorKind::ProtocolError(reply)) => reply.get_id() == 541,
        _ => false,
    }
}

/// Waits until the connection is lost, and three seconds more for what is still done with what came
/// over it. A safety net: when a connection breaks, lapin 4.12.3 leaves what is asked of it at that
/// moment unanswered for ever, an acknowledgement for instance.
async fn lost(connection: &Connection) -> anyhow::Error {
    while connection.status().connected() {
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(3)).await;
    anyhow!("the connection to RabbitMQ is lost")
}

/// Connects again after a connection was lost. It goes on trying for as long as the program runs,
/// with pauses that grow up to five seconds, and says on standard error that the connection is lost,
/// and that there is one again.
async fn reconnect(program: &str, pause: &mut Duration) -> Connection {
    eprintln!(" [!] Lost the connection to RabbitMQ. Reconnecting ...");
    loop {
        sleep(*pause).await;
        *pause = MAX_PAUSE.min(*pause * 2);
        if let Ok(connection) = connect(program).await {
            eprintln!(" [!] Connected again");
            return connection;
        }
    }
}

/// Closes the connection, so that the broker knows that we are gone on purpose. Waits no longer than
/// three seconds: a broker that does not answer will find out by itself.
pub async fn close(connection: Connection) {
    let closing = connection.close(200, "Goodbye".into());
    let _ = timeout(Duration::from_secs(3), closing).await;
}

/// Reads the URL as lapin does. The text of a URL that cannot be read is not repeated in the error:
/// nobody knows where in it the password is.
fn parse(url: &str) -> anyhow::Result<AMQPUri> {
    const FORM: &str = "AMQP_URL must be amqp://user:password@host:port/vhost (or amqps://), with \
                        characters other than letters and digits percent-encoded";
    // Where the host ends, by the rules of URLs. An `@` behind it belongs to a password.
    let host = url.split_once("://").map_or("", |(_, rest)| rest);
    let (host, rest) = host.split_at(host.find(['/', '?', '#']).unwrap_or(host.len()));
    ensure!(!host.is_empty() && !rest.contains('@'), "{FORM}");
    // lapin 4.12 would connect to `localhost` instead.
    ensure!(!host.contains('['), "{FORM}, and a name instead of an IPv6 address");
    url.parse().map_err(|cause| anyhow!("AMQP_URL: {cause}. {FORM}"))
}

/// The URL as it may be shown: without the password.
fn masked(uri: &AMQPUri) -> String {
    let mut uri = uri.clone();
    uri.authority.userinfo.password = "password".to_owned();
    uri.to_string().replacen(":password@", ":***@", 1)
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
            "If the server's certificate is from an authority of your own, name its file in SSL_CERT_FILE",
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

/// The error that `main` returns: any other error, printed as one line with its causes.
pub struct Error(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

// Rust prints what `main` returns with `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        for cause in self.0.chain().skip(1).map(ToString::to_string) {
            // lapin's errors name their cause already
            if !line.contains(&cause) {
                line = format!("{line}: {cause}");
            }
        }
        f.write_str(&line)
    }
}
