//! Pauses between attempts, which grow: exponential backoff.

use std::time::Duration;

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
