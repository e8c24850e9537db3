//! What the programs of all clients have in common: their arguments, and what they print.

use std::env;
use std::io::{self, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use uuid::Uuid;

/// How many messages may wait for their confirm.
pub const WINDOW: usize = 1000;

/// How many messages a consumer may have that it has not acknowledged.
pub const PREFETCH: u16 = 2000;

/// As [`WINDOW`] and [`PREFETCH`], while things break.
pub const FLOW: u16 = 100;

/// The queue of [`What::Send`] and [`What::Receive`].
pub const QUEUE: &str = "flow";

/// What to do. The first two end, and print the seconds they took, from connecting to the last
/// confirm or acknowledgement. The others go on for ever.
pub enum What {
    /// Publish orders, so many, with so many on their way.
    Publish(u64, usize),
    /// Consume orders, so many, with one acknowledgement for so many.
    Consume(u64, u64),
    /// Publish the numbers from 0, and print each one that is confirmed. If the client reports an
    /// error, do with the number what its documentation says.
    Send,
    /// Consume them, and print each one before it is acknowledged.
    Receive,
}

pub fn what() -> Result<What> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(match arguments[..] {
        ["publish", count] => What::Publish(count.parse()?, WINDOW),
        ["publish-one-by-one", count] => What::Publish(count.parse()?, 1),
        ["consume", count, batch] => What::Consume(count.parse()?, batch.parse()?),
        ["send"] => What::Send,
        ["receive"] => What::Receive,
        _ => {
            bail!("arguments: publish|publish-one-by-one COUNT, consume COUNT BATCH, send, receive")
        }
    })
}

pub fn url() -> Result<String> {
    env::var("AMQP_URL").context("AMQP_URL is not set")
}

/// The body and the id of an order.
pub fn order(number: u64) -> (String, String) {
    (format!("{number:032x}"), Uuid::new_v4().to_string())
}

/// Prints the seconds since then.
pub fn took(start: Instant) -> Result<()> {
    say(&start.elapsed().as_secs_f64().to_string())
}

pub fn say(line: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// The number in a message of [`What::Send`].
pub fn number(body: &[u8]) -> Result<String> {
    Ok(str::from_utf8(body)?.to_owned())
}
