//! How a program ends: Ctrl-C and SIGTERM, and its exit code.

use std::io;
use std::process;
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

/// Ends the program: with exit code 0; or with 1, and the error as one line with its causes. If
/// nobody reads our output any more, that is no error: they have seen enough.
///
/// The runtime ends with the process, and not before. It would wait for what was given to
/// `spawn_blocking`, which may never return. And lapin, while it looks for an address of the
/// broker, panics when its runtime is gone.
pub fn exit(result: anyhow::Result<()>) -> ! {
    process::exit(i32::from(result.is_err_and(|error| !is_enough(&error))))
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
    use tokio::runtime::Builder;

    use super::*;

    /// Runs itself once more, as a program that ends while its runtime is at work.
    #[test]
    fn a_program_ends_before_its_runtime() {
        if env::var_os("ENDS").is_some() {
            let mut runtime = Builder::new_multi_thread();
            let runtime = runtime.on_thread_stop(|| note!("The runtime ends")).build().unwrap();
            runtime.block_on(async { exit(Err(anyhow!("as wanted"))) })
        }
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["before_its_runtime", "--nocapture"]).env("ENDS", "");
        let output = test.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((&*said, output.status.code()), ("Error: as wanted\n", Some(1)));
    }

    #[test]
    fn an_error_is_one_line_with_each_cause_once() {
        let error =
            anyhow!("no,\n  never").context("lapin: no,\n  never").context("cannot declare");
        assert_eq!(one_line(&error), "cannot declare: lapin: no, never");
    }
}
