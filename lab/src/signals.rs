//! Everything that the lab has started ends before the lab does, by Ctrl-C and its like, too.
//!
//! A signal that a program handles has its usual effect again in the programs that it starts. So
//! `^C` works in a lesson that is played even where the lab itself was started with SIGINT ignored:
//! by `nohup`, by some CI runners, or as a background job of a script.

use std::process::exit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::guard::Guard;

static GUARD: OnceLock<Guard> = OnceLock::new();
static ENDING: AtomicBool = AtomicBool::new(false);

/// From now on a signal ends what `guard` watches over, and then this process. A second one does
/// not wait: the guard goes on by itself.
pub fn end_with(guard: Guard) -> Result<&'static Guard> {
    let guard = GUARD.get_or_init(|| guard);
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGQUIT]).context("cannot listen for Ctrl-C")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if ENDING.swap(true, Ordering::SeqCst) {
                exit(128 + signal);
            }
            eprintln!("\nStopping what was started ...");
            thread::spawn(move || {
                guard.end();
                exit(128 + signal)
            });
        }
    });
    Ok(guard)
}

/// To be called before a result is shown: ends what the guard watches over. Does not return if a
/// signal is ending us, for then there is no result.
pub fn settle() {
    let wait = || {
        while ENDING.load(Ordering::SeqCst) {
            thread::park();
        }
    };
    wait();
    if let Some(guard) = GUARD.get() {
        guard.end();
    }
    wait(); // a signal may have ended what we had the result from before we have heard of it
}
