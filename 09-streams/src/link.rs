//! A connection over the stream protocol, and the next one when it is lost.
//!
//! The official client does not connect again by itself. Here this is its class `Client`, which has
//! a method for each command of the protocol. Its `Producer` and `Consumer` are built on that. We
//! do without: when the connection is gone, its `Producer` may wait for ever.

use std::collections::HashSet;
use std::env;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use common::address::{masked, parse};
use common::backoff::Backoff;
use common::stop::{GRACE, at_ctrl_c};
use common::unconnected::Unconnected;
use common::{CancellationToken, note};
use lapin::uri::AMQPUri;
use rabbitmq_stream_client::error::ClientError;
use rabbitmq_stream_client::types::{MessageResult, ResponseCode, ResponseKind};
use rabbitmq_stream_client::{Client, ClientOptions};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

use crate::Stream;

/// How long an answer may take. The client itself would wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that has lasted so long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(5);

/// A new connection can mend it.
#[derive(Debug)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection to RabbitMQ is lost")
    }
}

/// A connection to the node where the stream has its leader.
pub struct Link {
    pub client: Client,
    /// What RabbitMQ sends without being asked: events, confirms, and the end.
    frames: UnboundedReceiver<MessageResult>,
}

impl Link {
    /// Connects; at the first time, creates the stream if it is not there.
    ///
    /// # Errors
    ///
    /// It is tried once: the error names the address, the cause, and what to do.
    pub async fn open(program: &str, stream: &Stream, create: bool) -> anyhow::Result<Self> {
        let address = address()?;
        let authority = &address.authority;
        let first = (authority.host.clone(), authority.port);
        let client = connect(program, &address, first.clone()).await?;

        if create {
            // Ok, or StreamAlreadyExists: the same stream, with the same arguments.
            let created = asked(client.create_stream(&stream.name, stream.arguments())).await?;
            if *created.code() != ResponseCode::StreamAlreadyExists {
                check(created.code(), &stream.name)?;
            }
        }
        // Each node says under which address clients find it: `advertised_host` and
        // `advertised_port`. Only the leader takes events.
        let found = asked(client.metadata(vec![stream.name.clone()])).await?;
        let leader = found.get(&stream.name).map(|found| found.leader.clone());
        let client = match leader.map(|leader| (leader.host, leader.port as u16)) {
            Some(leader) if leader != first => {
                close(&client).await;
                connect(program, &address, leader).await?
            }
            _ => client, // or there is no leader now: whoever asks for the stream is told so
        };
        let (sender, frames) = unbounded_channel();
        let handler = move |frame: MessageResult| {
            let _ = sender.send(frame);
            async { Ok(()) }
        };
        client.set_handler(handler).await;
        Ok(Self { client, frames })
    }

    /// The next thing that RabbitMQ sends.
    ///
    /// # Errors
    ///
    /// [`Lost`]: so is a stream that has another leader, or is deleted.
    pub async fn frame(&mut self) -> anyhow::Result<ResponseKind> {
        loop {
            match timeout(PATIENCE, self.frames.recv()).await {
                Ok(Some(Some(Ok(frame)))) => match frame.kind() {
                    ResponseKind::MetadataUpdate(_) => bail!(Lost),
                    kind => return Ok(kind),
                },
                Ok(_) => bail!(Lost),
                // Nothing new, or nobody there any more? The client would notice after minutes.
                Err(_) => asked(self.client.metadata(Vec::new())).await.map(drop)?,
            }
        }
    }

    pub async fn close(self) {
        close(&self.client).await;
    }
}

/// Waits for an answer, for a limited time.
pub async fn asked<T>(answer: impl Future<Output = Result<T, ClientError>>) -> anyhow::Result<T> {
    timeout(PATIENCE, answer).await.context(Lost)?.context(Lost)
}

/// What the answer to a request says.
pub fn check(code: &ResponseCode, stream: &str) -> anyhow::Result<()> {
    match code {
        ResponseCode::Ok => Ok(()),
        ResponseCode::PreconditionFailed => {
            bail!("the stream `{stream}` exists with other arguments, or they are wrong")
        }
        ResponseCode::StreamDoesNotExist => bail!("the stream `{stream}` is gone: was it deleted?"),
        ResponseCode::AccessRefused => bail!("RabbitMQ refuses access to the stream `{stream}`"),
        // There may be others, and it may be different next time.
        other => Err(anyhow!(Lost).context(format!("RabbitMQ says {other:?}"))),
    }
}

/// Calls `work` with a connection, and again with a new one whenever that is lost, as
/// `common::supervise` does for AMQP. If RabbitMQ refuses us then, says so once for each reason.
pub async fn supervise(
    program: &str,
    stream: &Stream,
    mut work: impl AsyncFnMut(&mut Link, &CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = at_ctrl_c()?;
    let mut link = tokio::select! {
        link = Link::open(program, stream, true) => link?,
        () = stop.cancelled() => return Ok(()),
    };
    let mut overdue = pin!(async {
        stop.cancelled().await;
        sleep(GRACE).await;
    });
    let mut backoff = Backoff::default();
    loop {
        let start = Instant::now();
        let result = tokio::select! {
            result = work(&mut link, &stop) => result,
            () = &mut overdue => Ok(()),
        };
        link.close().await;
        match result {
            Err(error) if error.is::<Lost>() => {}
            result => return result,
        }
        if start.elapsed() > GOOD {
            backoff = Backoff::default();
        }
        note!(" [!] Lost the connection to RabbitMQ. Reconnecting ...");
        let mut said = HashSet::new();
        link = loop {
            let next = async {
                backoff.wait().await;
                Link::open(program, stream, false).await
            };
            let error = tokio::select! {
                next = next => match next {
                    Ok(link) => break link,
                    Err(error) => error,
                },
                () = stop.cancelled() => return Ok(()),
            };
            if error.is::<Unconnected>() && said.insert(error.to_string()) {
                note!(" [!] {error}");
            }
        };
        note!(" [!] Connected again");
    }
}

async fn connect(
    program: &str,
    address: &AMQPUri,
    (host, port): (String, u16),
) -> anyhow::Result<Client> {
    let user = &address.authority.userinfo;
    let options = ClientOptions::builder()
        .host(&host)
        .port(port)
        .user(&user.username)
        .password(&user.password)
        .v_host(&address.vhost)
        .client_provided_name(program.to_owned())
        .build();
    let shown = masked(address).replacen("amqp://", "rabbitmq-stream://", 1);
    let why = match timeout(PATIENCE, Client::connect(options)).await {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(ClientError::Io(cause))) => format!(
            "{cause}. Does a RabbitMQ with the plugin rabbitmq_stream run there? `cargo lab up` \
             starts one; STREAM_URL names another address"
        ),
        Ok(Err(ClientError::RequestError(code))) => bail!(Unconnected::Refused(format!(
            "cannot connect to {shown}: {code:?}. Check the user, the password and the virtual \
             host in STREAM_URL"
        ))),
        Ok(Err(_)) => "it closes the connection. The client needs the stream protocol of \
                       RabbitMQ 3.11 or later"
            .to_owned(),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    };
    bail!("cannot connect to {shown}: {why}")
}

/// Says goodbye, and does not wait long for the answer.
async fn close(client: &Client) {
    let _ = timeout(Duration::from_secs(3), client.close()).await;
}

/// The address of RabbitMQ's stream protocol: the environment variable `STREAM_URL`, or else the
/// user `guest` at the default port of this machine.
fn address() -> anyhow::Result<AMQPUri> {
    const FORM: &str = "STREAM_URL must be rabbitmq-stream://user:password@host:port/vhost, with \
                        characters other than letters and digits percent-encoded";
    const DEFAULT: &str = "rabbitmq-stream://guest:guest@localhost:5552/%2f";
    let url =
        env::var_os("STREAM_URL").map_or(DEFAULT.into(), |url| url.to_string_lossy().into_owned());
    let rest = url.strip_prefix("rabbitmq-stream://").context(FORM)?;
    let mut uri = parse(&format!("amqp://{rest}")).map_err(|_| anyhow!(FORM))?;
    if uri.authority.port == 5672 {
        uri.authority.port = 5552; // none is given
    }
    Ok(uri)
}
