//! Everything around the lessons: it starts the servers, plays and tests the READMEs. No lesson
//! depends on it; it drives the lessons from outside, as a reader does.

#![warn(clippy::print_stdout)] // say!

pub mod amqp;
pub mod bench;
pub mod control;
pub mod exercise;
pub mod guard;
pub mod install;
pub mod jobs;
pub mod new;
pub mod play;
pub mod process;
pub mod progress;
pub mod readme;
pub mod servers;
pub mod signals;
mod starter;
pub mod status;
pub mod terminal;
pub mod up;
pub mod url;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::cargo;

/// How a line begins that says which test cannot run here, and why.
pub const LEFT_OUT: &str = "left out: ";

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folders of the lessons, in their order.
pub fn lessons() -> Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> = root()
        .read_dir()
        .with_context(|| format!("cannot read {}", root().display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("Cargo.toml").is_file() && number(path).is_some())
        .collect();
    folders.sort();
    Ok(folders)
}

/// `01` of `01-hello`.
fn number(folder: &Path) -> Option<&str> {
    let (number, _) = folder.file_name()?.to_str()?.split_once('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(number)
}

/// The name of the package in a lesson's folder: `hello` of `01-hello`.
pub fn package(folder: &Path) -> &str {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once('-').map_or(name, |(_, package)| package)
}

/// Compiles the programs of a lesson, alone, as the `cargo run --package` of a reader does:
/// together with others its dependencies may have more features, and would be compiled again for
/// the reader.
pub fn build(folder: &Path) -> Command {
    let mut build = cargo();
    build.current_dir(root());
    build.args(["build", "--bins", "--package", package(folder)]);
    build
}

/// The lessons that are meant by `01`, `1`, `hello` or `01-hello`; all, if nothing is.
pub fn find_lessons(wanted: &[String]) -> Result<Vec<PathBuf>> {
    let mut lessons = lessons()?;
    let is = |folder: &PathBuf, name: &String| {
        let number = number(folder).unwrap_or_default();
        folder.file_name() == Path::new(name).file_name()
            || package(folder) == name
            || number == name
            || number.trim_start_matches('0') == name
    };
    for name in wanted {
        let known: Vec<_> =
            lessons.iter().filter_map(|folder| folder.file_name()?.to_str()).collect();
        let known = known.join(", ");
        ensure!(
            lessons.iter().any(|folder| is(folder, name)),
            "there is no lesson `{name}`; there are {known}"
        );
    }
    lessons.retain(|folder| wanted.is_empty() || wanted.iter().any(|name| is(folder, name)));
    Ok(lessons)
}
