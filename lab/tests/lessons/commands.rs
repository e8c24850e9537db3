//! The lab's own commands, as a reader types them.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use lab::process::wait_until;
use lab::servers::Instance;
use lab::servers::probe::Answer;
use lab::url::Url;
use nix::sys::signal::Signal;

use crate::support::{LIMIT, Terminal, lab, program, shared};

/// `cargo lab` with these servers in the environment, in a folder without servers of its own.
fn lab_with(arguments: &[&str], amqp_url: &str, mysql_url: &str) -> (String, Option<i32>) {
    let empty = tempfile::tempdir().unwrap();
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
            vec!["does not let user `guest` into `/`", "ACCESS_REFUSED", "Set AMQP_URL="],
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

#[test]
fn nothing_is_left_of_a_play_that_is_killed() {
    program("send"); // or else it may have to wait for another test that compiles
    let mut play = Command::new(lab());
    play.args(["play", "01"]).env_remove(lab::play::INSTANCE);
    let play = Terminal::start(play);
    let mut before = Vec::new();
    let port: u16 = loop {
        let line = play.line().unwrap_or_else(|| panic!("{before:#?}"));
        if line.starts_with("RabbitMQ ")
            && let Some((_, port)) = line.split_once(" runs at localhost:")
        {
            break port.split(' ').next().unwrap().parse().unwrap();
        }
        before.push(line);
    };
    // in the middle of it, with a consumer running
    while !play.line().unwrap().contains("Received Hello World!") {}
    play.signal(Signal::SIGKILL);
    drop(play);
    let gone = || TcpStream::connect(("127.0.0.1", port)).is_err() && !folders_of(port);
    wait_until(LIMIT, gone).unwrap();
}

/// Whether there is a temporary folder of servers with this port.
fn folders_of(port: u16) -> bool {
    let entries = std::env::temp_dir().read_dir().unwrap();
    entries.flatten().any(|entry| {
        Instance::load(&entry.path()).is_some_and(|instance| instance.ports.amqp == port)
    })
}

#[test]
fn an_unknown_lesson() {
    let (text, code) = lab_with(&["play", "77"], "", "");
    assert_eq!(code, Some(1));
    assert!(text.starts_with("Error: there is no lesson `77`; there are 01-hello"), "{text}");
}

#[test]
fn urls() {
    let url = Url::parse("amqp://us%40er:p%3Aw@host:1234/%2f?heartbeat=5").unwrap();
    assert_eq!((url.user.as_str(), url.password.as_str()), ("us@er", "p:w"));
    assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("host", 1234, "/"));
    let url = Url::parse("amqps://broker").unwrap();
    assert_eq!((url.user.as_str(), url.port, url.path.as_str()), ("guest", 5671, "/"));
    let url = Url::parse("mysql://root@[::1]:3307/shop").unwrap();
    assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 3307, "shop"));
    assert_eq!(Url::parse("amqp://host:99999"), None);
}
