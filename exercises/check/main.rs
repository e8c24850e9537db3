//! Checks a program that a reader has written: runs it against a real RabbitMQ, kills it, counts,
//! and says what it saw. It looks at what the program does, not at its text.
//!
//!     check-exercise NAME PROGRAM
//!
//! `AMQP_URL` names a virtual host for this check alone, and `LAB` the lab's own program, which can
//! restart the broker. The exit code is 0 if the program does what is wanted, 1 if it does not, and 2
//! if the check cannot say: the broker has not done what it was asked to.

mod hello;
mod publish_subscribe;
mod routing;
mod trial;
mod work_queues;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use common::{exit, note, say};

use crate::trial::Trial;

#[tokio::main]
async fn main() -> ExitCode {
    match check().await {
        Err(error) if error.chain().any(|cause| cause.is::<lapin::Error>()) => {
            note!("Error: the check itself: {error:#}");
            ExitCode::from(2)
        }
        result => exit(result),
    }
}

async fn check() -> Result<()> {
    let usage = "usage: check-exercise NAME PROGRAM";
    let name = env::args().nth(1).context(usage)?;
    let program: PathBuf = env::args_os().nth(2).context(usage)?.into();
    let trial = Trial::new(program).await?;
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
        _ => bail!("there is no exercise `{name}`"),
    }?;
    say!("{seen}")
}
