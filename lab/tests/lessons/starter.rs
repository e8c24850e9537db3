//! A lesson copied elsewhere is a project of its own.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use lab::process::cargo;
use lab::{lessons, root};
use tempfile::TempDir;

use crate::support::{Terminal, program, vhost};

fn copy(from: &Path, to: &Path) {
    copy_with(from, to, |from, to| fs::copy(from, to).map(drop));
}

fn copy_with(from: &Path, to: &Path, file: fn(&Path, &Path) -> io::Result<()>) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy_with(&from, &to, file);
        } else {
            file(&from, &to).unwrap();
        }
    }
}

/// A folder for cargo with the dependencies of the course, compiled. A copy needs the same ones:
/// the same versions with the same features. It does not compile them again, but for a profile of
/// its own, and we take that of the course ([`PROFILE`]).
pub fn target() -> TempDir {
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let compiled = program("send");
    for part in [".fingerprint", "build", "deps"] {
        let (from, to) = (compiled.with_file_name(part), target.path().join("debug").join(part));
        copy_with(&from, &to, |from, to| fs::hard_link(from, to));
    }
    target
}

pub const PROFILE: [&str; 4] = [
    "--config",
    "profile.dev.package.'*'.debug=false",
    "--config",
    "profile.dev.package.'*'.codegen-units=1",
];

#[test]
fn a_copied_lesson_builds_and_runs() {
    let url = vhost("copied");
    let (folder, target) = (tempfile::tempdir().unwrap(), target());
    copy(&root().join("common"), &folder.path().join("common"));
    for lesson in lessons().unwrap() {
        let copied = folder.path().join(lesson.file_name().unwrap());
        copy(&lesson, &copied);
        fs::copy(root().join("Cargo.lock"), copied.join("Cargo.lock")).unwrap();
        let mut build = cargo();
        build.current_dir(&copied).env("CARGO_TARGET_DIR", target.path());
        build.args(["build", "--quiet", "--offline", "--bins"]).args(PROFILE);
        assert!(build.status().unwrap().success(), "{}", copied.display());
    }
    for (program, line) in [
        ("send", " [x] Sent Hello World!"),
        ("new-task", " [x] Sent Hello World!"),
        ("emit-log", " [x] Sent Hello World!"),
        ("emit-log-topic", " [x] Sent kern.info: Hello World!"),
    ] {
        let mut command = Command::new(target.path().join("debug").join(program));
        command.env("AMQP_URL", &url);
        if program == "emit-log-topic" {
            command.arg("kern.info");
        }
        assert_eq!(Terminal::start(command).finish().0, [line]);
    }
}
