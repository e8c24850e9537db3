//! What was confirmed has arrived, though the program that publishes is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::Servers;

/// How many in all, in a line of one of the programs.
fn in_all(line: &str) -> u64 {
    let (_, rest) = line.split_once('(').unwrap();
    rest.split_once(" in all)").unwrap().0.parse().unwrap()
}

#[test]
fn no_message_is_missing() {
    let servers = Servers::rabbitmq();
    let counter = servers.start("count-steadily", &[]);
    let publisher = servers.begin("publish-steadily", &["--rate", "200"]);
    publisher.wait_for(" [x] Confirmed: ");
    let confirmed = in_all(&publisher.wait_for(" [x] Confirmed: "));
    publisher.kill();
    // It says each second how it goes.
    let arrived = (0..60).any(|_| {
        let line = counter.wait_for(" [x] Received: ");
        in_all(&line) >= confirmed && line.contains("missing: 0")
    });
    assert!(arrived, "{confirmed} were confirmed");
    counter.stop();
}
