//! A lesson copied elsewhere is a project of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use lab::process::cargo;
use lab::{lessons, root};

use crate::support::{Terminal, vhost};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn a_copied_lesson_builds_and_runs() {
    let url = vhost("copied");
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("common"), &folder.path().join("common"));
    for lesson in lessons().unwrap() {
        let copied = folder.path().join(lesson.file_name().unwrap());
        copy(&lesson, &copied);
        fs::copy(root().join("Cargo.lock"), copied.join("Cargo.lock")).unwrap();
        let mut build = cargo();
        build.current_dir(&copied).env("CARGO_TARGET_DIR", folder.path().join("target")).args([
            "build",
            "--quiet",
            "--offline",
            "--bins",
        ]);
        assert!(build.status().unwrap().success(), "{}", copied.display());
    }
    for (program, line) in [
        ("send", " [x] Sent Hello World!"),
        ("new-task", " [x] Sent Hello World!"),
        ("emit-log", " [x] Sent Hello World!"),
        ("emit-log-topic", " [x] Sent kern.info: Hello World!"),
    ] {
        let mut command = Command::new(folder.path().join("target/debug").join(program));
        command.env("AMQP_URL", &url);
        if program == "emit-log-topic" {
            command.arg("kern.info");
        }
        assert_eq!(Terminal::start(command).finish().0, [line]);
    }
}
