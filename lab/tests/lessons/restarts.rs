//! A broker that is stopped, killed, paused and away for long.

use std::thread;
use std::time::Duration;

use futures_lite::StreamExt;
use lab::instance::Service;
use lab::progress::Tasks;
use lapin::ConnectionProperties;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;

use crate::support::{AGAIN, Client, LOST, NONE, Servers, Terminal, WAITING, breakable, lines};

const RABBITMQ: [Service; 1] = [Service::Rabbitmq];

fn receive_outlives(kill: bool) {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let receivers = ["receive", "receive-callback"].map(|name| {
        let receive = Terminal::run(name, &NONE, &url);
        receive.expect(WAITING);
        receive
    });
    for round in 0..2 {
        servers.instance.stop(Service::Rabbitmq, kill).unwrap();
        for receive in &receivers {
            receive.expect(LOST);
        }
        servers.instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
        for receive in &receivers {
            receive.expect(AGAIN);
        }
        // Two consumers share the queue: each gets one of two messages.
        for word in ["one", "two"] {
            lines("send", &[format!("{word} of {round}")], &url);
        }
        let mut received = receivers.each_ref().map(|receive| receive.line().unwrap());
        received.sort();
        let expected = ["one", "two"].map(|word| format!(" [x] Received {word} of {round}"));
        assert_eq!(received, expected);
    }
    for receive in receivers {
        receive.interrupt();
    }
    assert_eq!(
        lines("receive-get", &NONE, &url),
        [" [ ] The queue is empty"]
    );
}

#[test]
fn receive_outlives_a_restart() {
    receive_outlives(false);
}

#[test]
fn receive_outlives_a_killed_broker() {
    receive_outlives(true);
}

#[test]
fn receive_outlives_a_broker_that_is_away_for_90_seconds() {
    let servers = Servers::start(&RABBITMQ);
    let url = servers.instance.amqp_url();
    let receive = Terminal::run("receive", &NONE, &url);
    receive.expect(WAITING);
    servers.instance.stop(Service::Rabbitmq, false).unwrap();
    receive.expect(LOST);
    thread::sleep(Duration::from_secs(90)); // the length of the outage: nothing to wait for
    servers.instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
    receive.expect(AGAIN);
    lines("send", &["back"], &url);
    receive.expect(" [x] Received back");
    receive.interrupt();
}

#[test]
fn a_confirmed_message_outlives_a_killed_broker() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    lines("send", &["still there"], &url);
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    servers.instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
    assert_eq!(
        lines("receive-get", &NONE, &url)[0],
        " [x] Received still there"
    );
}

/// The numbers of deliveries begin anew after a recovery: the acknowledgement of the first message
/// before it must not be taken for that of the first message after it.
#[expect(
    clippy::await_holding_lock,
    reason = "nothing else runs on this runtime"
)]
#[tokio::test]
async fn an_acknowledgement_held_over_a_restart_acknowledges_nothing() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let properties = ConnectionProperties::default()
        .enable_auto_recover()
        .configure_backoff(|backoff| {
            backoff
                .with_max_delay(Duration::from_secs(1))
                .without_max_times()
        });
    let client = Client::connect_with(&url, "hello", properties).await;
    client.declare().await;
    for body in ["one", "two", "three"] {
        client.publish(body.as_bytes()).await;
    }
    let mut consumer = client
        .channel
        .basic_consume(
            "hello".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let held = consumer.next().await.unwrap().unwrap();
    assert_eq!(held.data, b"one");

    let instance = servers.instance.clone();
    tokio::task::spawn_blocking(move || {
        instance.stop(Service::Rabbitmq, true).unwrap();
        instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
    })
    .await
    .unwrap();
    let mut redelivered = Vec::new();
    while redelivered.len() < 3 {
        match consumer.next().await.unwrap() {
            Ok(delivery) if delivery.redelivered => redelivered.push(delivery),
            Ok(_) => {} // delivered before the restart, and waiting in the stream since
            Err(error) => client.channel.wait_for_recovery(error).await.unwrap(),
        }
    }
    assert!(!held.ack(BasicAckOptions::default()).await.unwrap());
    drop((redelivered, consumer));
    client.close().await;

    let client = Client::connect(&url).await;
    client.wait_for_waiting(3).await;
    client.close().await;
}

#[test]
fn ctrl_c_ends_a_program_that_is_reconnecting() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    for program in ["receive", "receive-callback", "worker"] {
        servers.instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
        let receive = Terminal::run(program, &NONE, &url);
        receive.expect(WAITING);
        servers.instance.stop(Service::Rabbitmq, true).unwrap();
        receive.expect(LOST);
        receive.stop();
    }
}

/// An outage is not the end of the queue.
#[test]
fn receive_until_idle_waits_for_a_broker_that_is_away() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    lines("send", &["one"], &url);
    let receive = Terminal::run("receive-until-idle", &["2"], &url);
    receive.expect(" [x] Received one");
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    receive.expect(LOST);
    thread::sleep(Duration::from_secs(3)); // longer than it waits for a message
    servers.instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
    receive.expect(AGAIN);
    lines("send", &["two"], &url);
    let (mut received, status) = receive.finish();
    received.retain(|line| line != " [x] Received one"); // its acknowledgement may have come too late
    assert_eq!(received, [" [x] Received two", " [*] No message for 2s"]);
    assert_eq!(status.code(), Some(0));
}
