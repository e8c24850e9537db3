//! A lesson copied elsewhere is a project of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io, thread};

use lab::play::play;
use lab::process::{cargo, wait_until};
use lab::readme::Readme;
use lab::servers::{Instance, Service};
use lab::{lessons, root};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Folder, LIMIT, Servers, Terminal, free_address, free_addresses, get, lab, program, vhost,
};

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
pub fn target() -> Folder {
    let target = Folder::beside_target();
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

/// Copied by hand, with `common` beside it, a lesson is a project of its own, too.
#[test]
fn a_copied_lesson_builds_and_runs() {
    let (folder, target) = (Folder::temporary(), target());
    let lesson = lessons().unwrap().remove(0);
    let copied = folder.path().join("hello");
    copy(&root().join("common"), &folder.path().join("common"));
    copy(&lesson, &copied);
    fs::copy(root().join("Cargo.lock"), copied.join("Cargo.lock")).unwrap();
    let mut build = cargo();
    build.current_dir(&copied).env("CARGO_TARGET_DIR", target.path());
    build.args(["build", "--quiet", "--offline", "--bins"]).args(PROFILE);
    assert!(build.status().unwrap().success());
    let mut command = Command::new(target.path().join("debug/send"));
    command.env("AMQP_URL", vhost("copied"));
    assert_eq!(Terminal::start(command).finish().0, [" [x] Sent Hello World!"]);
}

/// `cargo lab new`: what is said, and whether it succeeds.
fn new(folder: &Path, arguments: &[&str]) -> (Vec<String>, bool) {
    let mut command = Command::new(lab());
    command.arg("new").arg(folder).args(arguments);
    let (lines, status) = Terminal::start(command).finish();
    (lines, status.success())
}

/// All files in a folder, with their text.
fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => texts.extend(self::texts(&path)),
            false => texts.push((path.clone(), fs::read_to_string(path).unwrap())),
        }
    }
    texts
}

/// A project out of each lesson knows nothing of the course. Its page is true, its programs and
/// tests compile without a word and without a network, and its tests pass.
#[test]
fn each_lesson_becomes_a_project() {
    let servers = Servers::start(&Service::ALL);
    let lessons = lessons().unwrap();
    let (folder, target) = (Folder::temporary(), target());
    // Each project finds what is compiled already, and is compiled in the quickest way.
    let config = format!(
        "[build]\ntarget-dir = {:?}\n[net]\noffline = true\n[profile.dev]\ndebug = false\nincremental = false\n",
        target.path()
    );
    fs::create_dir(folder.path().join(".cargo")).unwrap();
    fs::write(folder.path().join(".cargo/config.toml"), config).unwrap();
    // Two at a time: while one waits for its programs, another one is compiled.
    let half = |first: usize| {
        for lesson in lessons.iter().skip(first).step_by(2) {
            becomes_a_project(lesson, folder.path(), target.path(), &servers);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| half(0));
        half(1);
    });
}

fn becomes_a_project(lesson: &Path, folder: &Path, target: &Path, servers: &Servers) {
    let number = &lesson.file_name().unwrap().to_str().unwrap()[..2];
    let project = folder.join(format!("thumbnails-{number}"));
    let (said, success) = new(&project, &["--from", number]);
    assert!(success, "{said:?}");
    for (path, text) in texts(&project) {
        let text = text.to_lowercase();
        let own = ["LICENSE", "Cargo.lock"].iter().any(|name| path.ends_with(name));
        for word in ["lesson", "course ", "cargo lab", "tutorial", "{main}"] {
            assert!(own || !text.contains(word), "{}: {word}", path.display());
        }
    }
    let run = |arguments: &[&str]| {
        let mut command = cargo();
        command.current_dir(&project).args(arguments);
        command.env("AMQP_URL", servers.instance.amqp_url());
        command.env("MYSQL_URL", servers.instance.mysql_url());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let more = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{number}: {arguments:?}: {more}{said}");
        assert!(!said.contains("warning"), "{number}: {arguments:?}: {said}");
    };
    run(&["fmt", "--all", "--check"]);
    run(&["test", "--locked", "--test", "delivery", "--no-run"]);
    let readme = Readme::read(&project.join("README.md")).unwrap();
    play(&readme, &servers.instance, servers.guard(), false, &mut |_| ()).unwrap();
    are_services(&project, target, &servers.instance);
    if number == "02" {
        let all = ["clippy", "--locked", "--workspace", "--all-targets"];
        run(&[&all[..], &["--", "--deny", "warnings"]].concat());
        run(&["test", "--locked", "--workspace"]);
    } else {
        run(&["test", "--locked", "--test", "delivery"]);
    }
}

/// The programs of compose.yaml write JSON, say when they are ready, count, and end at SIGTERM. A
/// trace that comes over HTTP goes on in the other service of a project.
fn are_services(project: &Path, target: &Path, servers: &Instance) {
    let compose = fs::read_to_string(project.join("compose.yaml")).unwrap();
    let commands = compose.lines().filter_map(|line| line.strip_prefix("    command: "));
    let [admin, main, feedback] = free_addresses();
    let mut services = Vec::new();
    for command in commands {
        let command = command.replace("/data", target.to_str().unwrap()); // a folder that is there
        let mut words: Vec<String> = serde_json::from_str(&command).unwrap();
        let mut service = Command::new(target.join("debug").join(words.remove(0)));
        if !words.contains(&"--listen".to_owned()) {
            service.args(words);
        }
        let health = free_address();
        service.env("AMQP_URL", servers.amqp_url()).env("MYSQL_URL", servers.mysql_url());
        service.env("LOG_FORMAT", "json").env("HEALTH_LISTEN", &health);
        service.env("ADMIN_LISTEN", &admin).env("MAIN_LISTEN", &main);
        service.env("FEEDBACK_LISTEN", &feedback);
        let service = Terminal::start(service);
        let first = service.line().unwrap(); // from then on it answers
        serde_json::from_str::<Value>(&first).unwrap_or_else(|_| panic!("{first}"));
        wait_until(LIMIT, || get(&health, "/health/ready").0 == 200).unwrap();
        let (_, metrics) = get(&health, "/metrics");
        assert!(metrics.contains(r#"service_messages_total{outcome="done"} "#), "{metrics}");
        services.push(service);
    }
    assert!(!services.is_empty());
    if services.len() == 3 {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let request = ureq::post(format!("http://{admin}/api/products"))
            .header("content-type", "application/json")
            .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
        request.send(r#"{"title":"Traced","image":"/images/mountain.svg"}"#).unwrap();
        loop {
            let event: Value = serde_json::from_str(&services[0].line().unwrap()).unwrap();
            if event["message"] == "handled" && event["span"]["trace"] == trace {
                break;
            }
        }
    }
    for service in services {
        service.signal(Signal::TERM);
        let (lines, status) = service.finish();
        assert!(status.success(), "{lines:#?}");
    }
}

/// What cannot be made is refused, and changes nothing.
#[test]
fn what_becomes_no_project() {
    let folder = Folder::temporary();
    let refused = |name: &str, arguments: &[&str], why: &str| {
        let (said, success) = new(&folder.path().join(name), arguments);
        assert!(!success && said.len() == 1 && said[0].contains(why), "{name}: {said:?}");
    };
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "mine").unwrap();
    refused("full", &["--from", "02"], "is not an empty folder");
    refused("full/file", &["--from", "02"], "is no empty folder");
    refused("thumbnails", &["--from", ""], "there is no lesson ``");
    refused("nowhere/thumbnails", &["--from", "02"], "cannot make the folder");
    refused("thumbnails", &["--from", "77"], "there is no lesson `77`");
    for name in ["2", "Thumbnails", "thumb nails", "-x", "x/y", "naïve", "mailer-", "a__b"] {
        refused("thumbnails", &["--from", "02", &format!("--name={name}")], "small letters");
    }
    for name in ["tokio", "common", "test", "fn", "mysql-async"] {
        refused("thumbnails", &["--from", "02", "--name", name], "is the name of something else");
    }
    let names = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), ["full"]);
    assert_eq!(names(&full), ["file"]);

    // cargo refuses in the middle of it
    let mut command = Command::new(lab());
    command.arg("new").arg(folder.path().join("thumbnails")).args(["--from", "02"]);
    command.env("CARGO", "false");
    let (said, status) = Terminal::start(command).finish();
    assert!(!status.success() && said[0].contains("cannot make"), "{said:?}");
    assert_eq!(names(folder.path()), ["full"]);

    // in an empty folder, which the reader stands in
    let here = Folder::temporary();
    let mut command = Command::new(lab());
    command.current_dir(here.path()).args(["new", ".", "--from", "07", "--name", "mailer"]);
    let (said, status) = Terminal::start(command).finish();
    assert!(status.success(), "{said:?}");
    assert!(here.path().join("src/bin/run-jobs.rs").exists());
    assert!(names(here.path()).iter().all(|name| !name.to_string_lossy().contains("mailer")));

    // an empty folder, and a name of its own
    fs::create_dir(folder.path().join("Thumbnails 2")).unwrap();
    let (said, success) =
        new(&folder.path().join("Thumbnails 2"), &["--from", "hello", "--name", "hello"]);
    assert!(success, "{said:?}");
    assert!(folder.path().join("Thumbnails 2/src/bin/send.rs").exists());
    assert_eq!(names(folder.path()), ["Thumbnails 2", "full"]);
}
