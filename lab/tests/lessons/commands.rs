//! The lab's own commands, as a reader types them.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use lab::process::wait_until;
use lab::servers::probe::Answer;
use lab::servers::{Backend, Instance, Service, docker};
use rustix::process::Signal;

use crate::support::{Folder, LIMIT, NONE, Terminal, lab, lines, program, shared, vhost};

/// `cargo lab` with these servers in the environment, in a folder without servers of its own.
fn lab_with(arguments: &[&str], amqp_url: &str, mysql_url: &str) -> (String, Option<i32>) {
    let empty = Folder::temporary();
    let mut command = Command::new(lab());
    command
        .args(arguments)
        .env("AMQP_URL", amqp_url)
        .env("MYSQL_URL", mysql_url)
        .env(lab::play::INSTANCE, empty.path());
    let (lines, status) = Terminal::start(command).finish();
    (lines.join("\n"), status.code())
}

#[test]
fn up_takes_the_servers_that_are_there_and_down_leaves_them() {
    let (amqp, mysql) = (shared().amqp_url(), shared().mysql_url());
    let (text, code) = lab_with(&["up"], &amqp, &mysql);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("at localhost:{}, named by AMQP_URL", shared().ports.amqp)),
        "{text}"
    );
    assert!(
        text.contains(&format!("at localhost:{}, named by MYSQL_URL", shared().ports.mysql)),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "{text}");

    let (text, code) = lab_with(&["down", "--wipe"], &amqp, &mysql);
    assert_eq!(
        (text.as_str(), code),
        ("Nothing to stop: the lab has started no server for this checkout", Some(0))
    );
    let (text, code) = lab_with(&["restart", "rabbitmq"], &amqp, &mysql);
    assert_eq!(code, Some(1), "{text}");
    assert!(matches!(shared().probe(lab::servers::Service::Rabbitmq), Answer::Server(_)));
}

#[test]
fn up_says_what_to_set() {
    let (amqp, mysql) = (shared().amqp_url(), shared().mysql_url());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = silent.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let management = shared().ports.management;
    let cases = [
        (
            amqp.replace(":guest@", ":secret@"),
            mysql.clone(),
            vec![
                "does not let user `guest` into `/`",
                "ACCESS_REFUSED",
                "Set AMQP_URL=",
                "`docker compose down --volumes`",
            ],
        ),
        (amqp.replace("/%2f", "/nowhere"), mysql.clone(), vec!["into `nowhere`", "Set AMQP_URL="]),
        (
            format!("amqp://guest:secret@localhost:{other}"),
            mysql.clone(),
            vec!["is taken, but not by RabbitMQ", "AMQP_URL="],
        ),
        (
            format!("amqp://guest:secret@localhost:{management}"),
            mysql.clone(),
            vec!["is taken, but not by RabbitMQ"],
        ),
        (
            format!("amqp://guest:secret@localhost:{closed}"),
            mysql.clone(),
            vec!["AMQP_URL names localhost", "nothing answers there"],
        ),
        (
            "amqp//secret".to_owned(),
            mysql.clone(),
            vec!["AMQP_URL is not a URL that begins with amqp:// or amqps://"],
        ),
        (
            amqp.clone(),
            mysql.replace(":guest@", ":secret@"),
            vec![
                "the MySQL at localhost",
                "does not let user `guest` into `test`",
                "Set MYSQL_URL=",
                "`docker compose down --volumes`",
            ],
        ),
        (
            amqp.clone(),
            mysql.replace("/test", "/nowhere"),
            vec!["into `nowhere`", "Set MYSQL_URL="],
        ),
        (
            amqp.clone(),
            format!("mysql://guest:secret@localhost:{other}/test"),
            vec!["is taken, but not by MySQL", "MYSQL_URL="],
        ),
        (
            amqp.clone(),
            format!("mysql://guest:secret@localhost:{closed}/test"),
            vec!["nothing answers there"],
        ),
    ];
    for (amqp, mysql, parts) in cases {
        let (text, code) = lab_with(&["up"], &amqp, &mysql);
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }
}

/// Until Ctrl-C.
#[test]
fn status_is_shown_again_and_again() {
    let mut status = Command::new(lab());
    status.args(["status", "--watch"]).env("AMQP_URL", vhost("watched"));
    status.env("RABBITMQ_MANAGEMENT_PORT", shared().ports.management.to_string());
    status.env("MYSQL_URL", shared().mysql_url());
    let status = Terminal::start(status);
    for _ in 0..3 {
        while !status.line().unwrap().starts_with("RabbitMQ ") {}
    }
    status.signal(Signal::INT);
    assert_eq!(status.finish().1.code(), Some(0));
}

/// The queues of a broker that the lab has not started are asked for with whatever password, and
/// not through a proxy.
#[test]
fn status_asks_with_any_password_and_without_a_proxy() {
    let url = vhost("status");
    let rabbitmqctl = |arguments: &[&str]| {
        let status = shared().rabbitmqctl().unwrap().arg("-q").args(arguments).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    };
    rabbitmqctl(&["add_user", "us@er", "p@ss/w:r%d"]);
    rabbitmqctl(&["set_user_tags", "us@er", "management"]);
    rabbitmqctl(&["set_permissions", "--vhost", "status", "us@er", ".*", ".*", ".*"]);
    lines("send", &NONE, &url);
    let url = url.replace("guest:guest", "us%40er:p%40ss%2Fw%3Ar%25d");
    let shown = || {
        let empty = Folder::temporary();
        let mut status = Command::new(lab());
        status
            .arg("status")
            .env("AMQP_URL", &url)
            .env("MYSQL_URL", shared().mysql_url())
            .env("RABBITMQ_MANAGEMENT_PORT", shared().ports.management.to_string())
            .env("http_proxy", "http://127.0.0.1:9")
            .env(lab::play::INSTANCE, empty.path());
        let (lines, status) = Terminal::start(status).finish();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        lines
    };
    // the page's figures are some seconds old
    let line = "hello                                  1         0".to_owned();
    wait_until(LIMIT, || shown().contains(&line)).unwrap();
    rabbitmqctl(&["delete_user", "us@er"]);
}

/// The servers of a play of lesson 1 in which `^C` has been pressed already.
fn play() -> (Terminal, Instance) {
    program("send"); // or else it may have to wait for another test that compiles
    // As `nohup` and a script's background job start it: `^C` is to work all the same.
    let mut play = Command::new("sh");
    play.args(["-c", "trap '' INT QUIT; exec \"$0\" play 01"]).arg(lab());
    play.env_remove(lab::play::INSTANCE);
    let play = Terminal::start(play);
    let mut before = Vec::new();
    let mut wait_for = |part: &str| loop {
        let line = play.line().unwrap_or_else(|| panic!("{before:#?}"));
        before.push(line.clone());
        if line.contains(part) {
            return line;
        }
    };
    let line = wait_for("RabbitMQ ");
    let line = if line.contains(" runs at ") { line } else { wait_for(" runs at localhost:") };
    let (_, port) = line.split_once(" runs at localhost:").unwrap();
    let port: u16 = port.split(' ').next().unwrap().parse().unwrap();
    wait_for("| ^C");
    wait_for("| $ ");
    let entries = std::env::temp_dir().read_dir().unwrap();
    let mut instances = entries.filter_map(|entry| Instance::load(&entry.ok()?.path()));
    let instance = instances
        .find(|instance| Service::ALL.iter().any(|&service| instance.port(service) == port));
    (play, instance.unwrap())
}

/// Whether nothing is left of servers: no process, no container, no network, no volume, no file.
fn is_gone(instance: &Instance) -> bool {
    let open = |service| TcpStream::connect(("127.0.0.1", instance.port(service))).is_ok();
    is_removed(instance) && !Service::ALL.into_iter().any(open)
}

fn is_removed(instance: &Instance) -> bool {
    let nothing =
        instance.backend == Backend::Local || docker::nothing_left(instance, true).unwrap();
    nothing && !instance.folder.exists()
}

#[test]
fn nothing_is_left_of_a_play_that_is_killed() {
    let (play, instance) = play();
    play.signal(Signal::KILL);
    drop(play);
    wait_until(LIMIT, || is_gone(&instance)).unwrap();
}

/// It ends when everything has ended, and says nothing more than that it does so.
#[test]
fn ctrl_c_ends_a_play_and_what_it_has_started() {
    let (play, instance) = play();
    play.signal(Signal::INT);
    let (lines, status) = play.finish();
    assert_eq!(status.code(), Some(130), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("Error")), "{lines:#?}");
    assert!(is_removed(&instance));
    // Another test may have a server at one of its free ports by now, for a while.
    wait_until(LIMIT, || is_gone(&instance)).unwrap();
}

/// What Docker cannot do is said before anything is compiled or started.
#[test]
fn a_docker_that_cannot_give_the_servers() {
    let folder = Folder::temporary();
    let docker = folder.path().join("docker");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    for (script, why) in [
        ("exit 1", "there is no `docker compose`"),
        ("echo 2.20.3", "Docker Compose 2.20.3 is older than 2.23.1"),
        (
            "case $1 in context) echo unix:///a;; compose) echo 2.30.0;; *) exit 1; esac",
            "its engine does not answer",
        ),
        (
            "[ $1 = context ] && echo tcp://far:2375 || echo 5.0.1",
            "its engine, tcp://far:2375, may be on another machine",
        ),
        (
            "case $* in context*) echo unix:///a;; *--images*) echo other:1;; image*|*pull) echo no such host >&2; exit 1;; *) echo 5.0.1;; esac",
            "other:1 cannot be pulled (no such host)",
        ),
    ] {
        std::fs::write(&docker, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&docker, PermissionsExt::from_mode(0o755)).unwrap();
        let mut play = Command::new(lab());
        play.args(["play", "01"]).env("PATH", &path).env("LAB_SERVERS", "docker");
        let (lines, status) = Terminal::start(play).finish();
        assert_eq!(status.code(), Some(1), "{lines:#?}");
        let said = lines.iter().any(|line| line.contains(why));
        assert!(said, "{why} is not in {lines:#?}");
    }
}

#[test]
fn an_unknown_lesson() {
    let (text, code) = lab_with(&["play", "77"], "", "");
    assert_eq!(code, Some(1));
    assert!(text.starts_with("Error: there is no lesson `77`; there are 01-hello"), "{text}");
}
