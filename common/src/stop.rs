//! Ctrl-C and SIGTERM.

use std::time::Duration;
use std::{io, process, thread};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::note;

/// How long a program may take to finish what it has in hand.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long it may take to end altogether: then it is stuck.
const STUCK: Duration = Duration::from_secs(15);

/// A token that Ctrl-C cancels, or SIGTERM, with which `docker stop` and systemd end a program.
///
/// A program that has not ended 15 seconds later is ended: it may be writing to a pipe that nobody
/// reads. What it has not acknowledged comes again.
///
/// # Errors
///
/// The system does not let us wait for signals.
pub fn at_ctrl_c() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
        sleep(STUCK).await;
        // In a thread of its own: standard error may be the same pipe.
        thread::spawn(|| {
            note!("Error: {STUCK:?} after Ctrl-C still at work, or nobody reads my output")
        });
        sleep(Duration::from_millis(100)).await;
        process::exit(1);
    });
    Ok(stop)
}
