//! How a program ends: Ctrl-C and SIGTERM, and its exit code.

use std::io;
use std::process::{self, ExitCode};
use std::thread::{self, sleep};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::note;
use crate::report::Unsaid;

/// How long a program may take to finish what it has in hand. Docker waits for ten seconds, and
/// Kubernetes for thirty, before they kill it.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long it may take to end altogether: then it is stuck.
const STUCK: Duration = GRACE.saturating_add(Duration::from_secs(10));

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
        thread::spawn(end_what_is_stuck); // no task: it may outlive the runtime
    });
    Ok(stop)
}

fn end_what_is_stuck() {
    sleep(STUCK);
    let why = "still at work, or nobody reads my output";
    // In a thread of its own: standard error may be the same pipe.
    thread::spawn(move || note!("Error: {STUCK:?} after Ctrl-C {why}"));
    sleep(Duration::from_millis(100));
    process::exit(1);
}

/// What `main` returns: exit code 0; or 1, and the error as one line with its causes. If nobody
/// reads our output any more, that is no error: they have seen enough.
///
/// A second later the program ends in any case. Tokio waits at the end for what was given to
/// `spawn_blocking`, and that may never return.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    let code = u8::from(result.is_err_and(|error| !is_enough(&error)));
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        process::exit(code.into());
    });
    code.into()
}

/// Says what is wrong; whether that is only that nobody reads our output any more.
fn is_enough(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref().map(io::Error::kind);
    let enough = error.is::<Unsaid>() && cause == Some(io::ErrorKind::BrokenPipe);
    if !enough {
        note!("Error: {}", one_line(error));
    }
    enough
}

fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // lapin's errors name their cause already
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use anyhow::anyhow;
    use tokio::{runtime::Runtime, task::spawn_blocking};

    use super::*;

    /// Runs itself once more, as a program that ends while a thread of its runtime sleeps on.
    #[test]
    fn a_thread_that_blocks_keeps_no_program() {
        if env::var_os("ENDS").is_some() {
            let _ = Runtime::new().unwrap().block_on(async {
                spawn_blocking(|| sleep(Duration::from_secs(30)));
                exit(Err(anyhow!("as wanted")))
            });
            return;
        }
        let mut test = Command::new(env::current_exe().unwrap());
        let output = test.arg("a_thread_that_blocks").env("ENDS", "").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
    }

    #[test]
    fn an_error_is_one_line_with_each_cause_once() {
        let error =
            anyhow!("no,\n  never").context("lapin: no,\n  never").context("cannot declare");
        assert_eq!(one_line(&error), "cannot declare: lapin: no, never");
    }
}
