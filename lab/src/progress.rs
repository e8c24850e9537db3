//! What is being done, for how long already: on a terminal a line each that moves, elsewhere a line
//! at the beginning, one every ten seconds, and one at the end.

use std::fmt::Arguments;
use std::io::{Write, stdout};
use std::process::exit;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Prints a line on standard output. If nobody reads it any more (`cargo lab status | head -1`),
/// that is the end of this process; what it has started ends, too.
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => { $crate::progress::say(format_args!($($line)*)) };
}

#[doc(hidden)]
pub fn say(line: Arguments) {
    if writeln!(stdout().lock(), "{line}").is_err() {
        exit(1);
    }
}

/// Several things done side by side.
#[derive(Clone, Default)]
pub struct Tasks {
    bars: MultiProgress,
    quiet: bool,
}

/// One of them.
pub struct Task {
    bar: ProgressBar,
    what: String,
    started: Instant,
    told: Mutex<Instant>,
    quiet: bool,
}

impl Tasks {
    /// Leaves no line behind: what came of it is said elsewhere.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    /// More of them, side by side with these, which leave no line behind.
    pub fn quietly(&self) -> Self {
        Self { bars: self.bars.clone(), quiet: true }
    }

    /// Something that a reader should know: a line that stays.
    pub fn note(&self, line: &str) {
        if self.bars.is_hidden() {
            eprintln!("{line}");
        } else {
            let _ = self.bars.println(line);
        }
    }

    /// Nothing moves on the terminal meanwhile: somebody else asks a question there.
    pub fn suspend<R>(&self, ask: impl FnOnce() -> R) -> R {
        self.bars.suspend(ask)
    }

    pub fn start(&self, what: impl Into<String>) -> Task {
        let what = what.into();
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(what.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        let now = Instant::now();
        let task = Task { bar, what, started: now, told: Mutex::new(now), quiet: self.quiet };
        if task.bar.is_hidden() && !task.quiet {
            eprintln!("{} ...", task.what);
        }
        task
    }
}

impl Task {
    /// How far it is.
    pub fn say(&self, state: &str) {
        let state = state.trim();
        self.bar.set_message(state.to_owned());
        if let Ok(mut told) = self.told.lock()
            && self.bar.is_hidden()
            && !self.quiet
            && told.elapsed() > Duration::from_secs(10)
        {
            *told = Instant::now();
            eprintln!("{} ... {} s: {state}", self.what, self.started.elapsed().as_secs());
        }
    }

    /// Something that has happened on the way: a line that stays.
    pub fn note(&self, line: &str) {
        if self.quiet {
            // a terminal has shown it for as long as it took
        } else if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// It is done; `result` says what came of it.
    pub fn done(self, result: &str) {
        self.note(&format!("{result} ({:.0?})", self.started.elapsed()));
        self.bar.finish_and_clear();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
