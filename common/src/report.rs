//! What a program prints.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use anyhow::Context;

/// Prints a line on standard output, as `println!` does, and returns an error where that panics:
/// when nobody reads it any more (`receive | head -1`), or the disk is full.
#[macro_export]
macro_rules! say {
    ($($line:tt)*) => { $crate::report::say(format_args!($($line)*)) };
}

/// Prints a line on standard error, as `eprintln!` does, if anybody reads it.
#[macro_export]
macro_rules! note {
    ($($line:tt)*) => { $crate::report::note(format_args!($($line)*)) };
}

/// Standard output has not taken a line: the context of the error of [`say!`](crate::say).
#[derive(Debug)]
pub struct Unsaid;

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to standard output")
    }
}

static LOG: OnceLock<fn(&str)> = OnceLock::new();

/// From now on, gives each line to `log` instead of printing it: for a program that writes logs.
pub fn to(log: fn(&str)) {
    let _ = LOG.set(log);
}

/// What [`say!`](crate::say) calls.
///
/// # Errors
///
/// [`Unsaid`], and why.
pub fn say(line: fmt::Arguments<'_>) -> anyhow::Result<()> {
    if let Some(log) = LOG.get() {
        log(&line.to_string());
        return Ok(());
    }
    writeln!(io::stdout(), "{line}").context(Unsaid)
}

/// What [`note!`](crate::note) calls.
pub fn note(line: fmt::Arguments<'_>) {
    if let Some(log) = LOG.get() {
        return log(&line.to_string());
    }
    let _ = writeln!(io::stderr(), "{line}");
}

/// A message body as it can be shown on a terminal. A body is bytes, whatever the sender made of
/// them: text is shown as it is but for control characters and those that turn the direction of
/// writing, which could play tricks on a terminal; of anything else the bytes are escaped.
pub fn printable(body: &[u8]) -> String {
    let Ok(text) = str::from_utf8(body) else {
        return body.escape_ascii().to_string();
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match character.is_control() || turns {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_body_cannot_play_tricks_on_a_terminal() {
        assert_eq!(printable("Grüße 😀".as_bytes()), "Grüße 😀");
        assert_eq!(printable(b"\x1b[2J\n"), "\\u{1b}[2J\\n");
        assert_eq!(printable("\u{202e}abc".as_bytes()), "\\u{202e}abc");
        assert_eq!(printable(b"\xff\x00a"), "\\xff\\x00a");
    }
}
