//! A broker that is stopped, killed, paused and away for long.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant};

use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::Service;
use rustix::process::Signal;

use crate::support::{
    AGAIN, Client, INTERNAL, LIMIT, LOST, NONE, Servers, Terminal, WAITING, breakable, lines,
};

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
            receive.expect(WAITING);
        }
        // Two consumers share the queue: each gets one of two messages.
        for word in ["one", "two"] {
            lines("send", &[format!("{word} of {round}")], &url);
        }
        let mut received = receivers.each_ref().map(|receive| receive.line().unwrap());
        received.sort();
        let expected = ["one", "two"].map(|word| format!(" [x] Received {word} of {round}"));
        assert_eq!(received, expected);
        // A line is printed before its acknowledgement: killed in between, the message would come
        // again.
        let acknowledged = || {
            let queue = servers.instance.management().get("queues/%2f/hello").unwrap();
            queue["message_stats"]["ack"] == 2 // since the broker was started
        };
        wait_until(LIMIT, acknowledged).unwrap();
    }
    for receive in receivers {
        receive.interrupt();
    }
    assert_eq!(lines("receive-get", &NONE, &url), [" [ ] The queue is empty"]);
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
    receive.expect(WAITING);
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
    assert_eq!(lines("receive-get", &NONE, &url)[0], " [x] Received still there");
}

/// A consumer that acknowledges all the time is always sending: the connection breaks in the
/// middle. With lapin's own recovery (4.12.3), it hung for ever most times.
#[expect(clippy::await_holding_lock, reason = "nothing else runs on this runtime")]
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_receiver_outlives_a_killed_broker() {
    const MESSAGES: usize = 30_000;
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let client = Client::connect(&url).await;
    let mut confirms = Vec::new();
    for number in 0..MESSAGES {
        confirms.push(client.send(number.to_string().as_bytes()).await);
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
    client.close().await;
    let receivers = [
        Terminal::run("receive", &NONE, &url),
        Terminal::run("receive-callback", &NONE, &url),
        Terminal::run("receive-until-idle", &["60"], &url),
    ];
    let received = RefCell::new(vec![false; MESSAGES]);
    let take = |line: &str| {
        if let Some(number) = line.strip_prefix(" [x] Received ") {
            let number: usize = number.replace(" (redelivered)", "").parse().unwrap();
            received.borrow_mut()[number] = true;
        }
        line == AGAIN
    };
    for _ in 0..3 {
        for receive in &receivers {
            let lines = std::iter::from_fn(|| receive.line_within(Duration::from_secs(1)));
            lines.take(100).for_each(|line| _ = take(&line));
        }
        servers.instance.stop(Service::Rabbitmq, true).unwrap();
        servers.instance.start(&RABBITMQ, &Tasks::quiet()).unwrap();
        for receive in &receivers {
            while !take(&receive.line().unwrap()) {}
        }
    }
    let start = Instant::now();
    while received.borrow().contains(&false) {
        assert!(start.elapsed() < LIMIT, "messages are missing");
        for receive in &receivers {
            while let Some(line) = receive.line_within(Duration::from_millis(10)) {
                take(&line);
            }
        }
    }
    for receive in receivers {
        receive.signal(Signal::INT);
        assert_eq!(receive.finish().1.code(), Some(0));
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
    // Its acknowledgement may have come too late.
    received.retain(|line| !line.starts_with(" [x] Received one"));
    assert_eq!(received, [" [x] Received two", " [*] No message for 2s"]);
    assert_eq!(status.code(), Some(0));
}

/// A quorum queue without its process: so RabbitMQ 3.10 may be for a moment after its start, or
/// until it is restarted.
#[test]
fn an_internal_error_of_the_broker_is_outlived() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    lines("send", &["not lost"], &url);
    servers.stop_queue("hello");
    let receive = Terminal::run("receive", &NONE, &url);
    for _ in 0..2 {
        receive.expect(INTERNAL);
        receive.expect(LOST);
        receive.expect(AGAIN);
    }
    assert!(servers.instance.mend_queues().unwrap());
    while receive.line().unwrap() != WAITING {}
    receive.expect(" [x] Received not lost");
    receive.interrupt();
}
