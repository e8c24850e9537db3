//! A message that lapin cannot read.
//!
//! lapin 4.12.3 ends the connection at a message with a property that is not UTF-8 (RabbitMQ takes
//! it). The broker then delivers again all that was not acknowledged, and counts it against each of
//! these messages: after the delivery limit the good ones would be put aside with the bad one. So
//! after such an error a program takes one message at a time, until the bad one is gone.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;

static ASKED: AtomicBool = AtomicBool::new(false);
static ONE_AT_A_TIME: AtomicBool = AtomicBool::new(false);

/// A connection that has lasted so long has met no such message.
const LONG: Duration = Duration::from_secs(60);

/// What to give to `basic_qos`: the usual prefetch; or 1, while there is a message that lapin
/// cannot read.
pub fn prefetch(usual: u16) -> u16 {
    ASKED.store(true, Relaxed);
    if ONE_AT_A_TIME.load(Relaxed) { 1 } else { usual }
}

/// From now on [`prefetch`] is 1. Says whether the program asks for it.
pub fn begin() -> bool {
    ONE_AT_A_TIME.store(true, Relaxed);
    ASKED.load(Relaxed)
}

/// Waits for the end of that, a minute from now; for ever if it has not begun.
pub async fn end() {
    if !ONE_AT_A_TIME.load(Relaxed) {
        return pending().await;
    }
    sleep(LONG).await;
    ONE_AT_A_TIME.store(false, Relaxed);
}
