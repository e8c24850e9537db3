//! No message is lost when its receiver is killed.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn no_message_is_lost_when_a_receiver_is_killed() {
    let (servers, name) = (Servers::rabbitmq(), unique());
    let messages: Vec<String> = (1..=5).map(|number| format!("{name} {number}")).collect();
    for message in &messages[..4] {
        servers.run("send", &[message]);
    }
    let receiver = servers.start("receive", &[]);
    let mut received = receiver.wait_for_all(" [x] Received ", [messages[0].clone()].into());
    received.extend(receiver.kill());

    // What it had printed may come again. The others must come.
    servers.run("send", &[&messages[4]]);
    let receiver = servers.start("receive", &[]);
    received.extend(receiver.wait_for_all(" [x] Received ", [messages[4].clone()].into()));
    receiver.stop();
    for message in &messages {
        assert!(received.iter().any(|line| line.contains(message)), "{message}: {received:#?}");
    }
}
