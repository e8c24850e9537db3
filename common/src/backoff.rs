//! Pauses between attempts, which grow: exponential backoff.

use std::env;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Makes a program that tries again and again wait between its attempts: 100 ms, then twice as long
/// each time, up to five seconds.
#[derive(Default)]
pub struct Backoff {
    last: Duration,
}

impl Backoff {
    /// Waits before the next attempt.
    pub async fn wait(&mut self) {
        self.last = (self.last * 2).clamp(FIRST, LONGEST);
        sleep(self.last).await;
    }

    /// Whether there was a pause already.
    pub fn has_waited(&self) -> bool {
        !self.last.is_zero()
    }
}

/// How long to wait for a broker that is not there yet: the seconds in `WAIT_FOR_BROKER`, 0 if it
/// is not set.
///
/// # Errors
///
/// It is not a number.
pub fn patience() -> anyhow::Result<Duration> {
    let Some(seconds) = env::var_os("WAIT_FOR_BROKER") else {
        return Ok(Duration::ZERO);
    };
    let seconds = seconds.to_str().and_then(|seconds| seconds.parse::<u32>().ok());
    let seconds = seconds.context("WAIT_FOR_BROKER must be a number of seconds, such as 60")?;
    Ok(Duration::from_secs(seconds.into()))
}
