//! Checks a program that a reader has written: runs it against a real RabbitMQ, kills it, counts,
//! and says what it saw. It looks at what the program does, not at its text.
//!
//!     check-exercise NAME PROGRAM
//!
//! `AMQP_URL` names a virtual host for this check alone, and `LAB` the lab's own program, which can
//! restart the broker. The exit code is 0 if the program does what is wanted, 1 if it does not, and
//! 2 if the check cannot say: a server has not done what it was asked to.

mod cluster;
mod hello;
mod mails;
mod microservices;
mod orders;
mod proxy;
mod publish_subscribe;
mod retries;
mod routing;
mod rpc;
mod streams;
mod trial;
mod work_queues;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use common::{exit, note, say};

use crate::trial::Trial;

#[tokio::main]
async fn main() -> ExitCode {
    match check().await {
        Err(error) if error.chain().any(is_of_server) => {
            note!("Error: the check itself: {error:#}");
            ExitCode::from(2)
        }
        result => exit(result),
    }
}

/// Whether it is an error of a server, and none of the program that is checked.
fn is_of_server(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<lapin::Error>() || cause.is::<mysql_async::Error>()
}

async fn check() -> Result<()> {
    let usage = "usage: check-exercise NAME PROGRAM";
    let name = env::args().nth(1).context(usage)?;
    let program: PathBuf = env::args_os().nth(2).context(usage)?.into();
    let mut trial = Trial::new(program).await?;
    if name.starts_with("orders-") || name.starts_with("products-") {
        trial = trial.with_database().await?;
    }
    let seen = match name.as_str() {
        "hello-confirm" => hello::confirm(&trial).await,
        "hello-mandatory" => hello::mandatory(&trial).await,
        "hello-acknowledge" => hello::acknowledge(&trial).await,
        "tasks-after-work" => work_queues::after_work(&trial).await,
        "tasks-prefetch" => work_queues::prefetch(&trial).await,
        "tasks-put-back" => work_queues::put_back(&trial).await,
        "tasks-restart" => work_queues::restart(trial).await,
        "logs-own-queue" => publish_subscribe::own_queue(&trial).await,
        "logs-ready" => publish_subscribe::ready(&trial).await,
        "routing-severities" => routing::severities(&trial).await,
        "routing-pattern" => routing::pattern(&trial).await,
        "routing-headers" => routing::headers(&trial).await,
        "orders-twice" => orders::twice(&trial).await,
        "orders-commit" => orders::commit(&trial).await,
        "orders-poison" => orders::poison(&trial).await,
        "products-outbox" => microservices::outbox(&trial).await,
        "products-inbox" => microservices::inbox(&trial).await,
        "jobs-attempts" => retries::attempts(&trial).await,
        "jobs-safe" => retries::safe(&trial).await,
        "jobs-pause" => retries::pause(&trial).await,
        "rpc-correlate" => rpc::correlate(&trial).await,
        "rpc-deadline" => rpc::deadline(&trial).await,
        "stream-from" => streams::from(&trial).await,
        "stream-offset" => streams::offset(&trial).await,
        "steady-again" => cluster::again(&trial).await,
        "steady-addresses" => cluster::addresses(&trial).await,
        "mails-not-now" => mails::not_now(&trial).await,
        "mails-trace" => mails::trace(&trial).await,
        _ => bail!("there is no exercise `{name}`"),
    }?;
    say!("{seen}")
}
