//! No message is missing, though who counts them is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::Servers;

#[test]
fn no_message_is_missing() {
    let servers = Servers::rabbitmq();
    servers.run("publish-steadily", &["--count", "1"]); // declares the queue
    let publisher = servers.begin("publish-steadily", &["--rate", "200"]);
    publisher.wait_for(" [x] Confirmed: ");
    let counter = servers.start("count-steadily", &[]);
    counter.wait_for(" [x] Received: ");
    counter.kill();
    let counter = servers.start("count-steadily", &[]);
    for _ in 0..3 {
        let line = counter.wait_for(" [x] Received: ");
        assert!(line.contains("missing: 0"), "{line}");
    }
    publisher.stop();
    counter.stop();
}
