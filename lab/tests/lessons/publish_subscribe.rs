//! Lesson 03: a log for everybody who listens.

use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::Service;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};
use rustix::process::Signal;

use crate::support::{AGAIN, LIMIT, LOST, NONE, Terminal, breakable, lines, output, queues, vhost};

fn receiver(url: &str) -> (Terminal, String) {
    let receiver = Terminal::run("receive-logs", &NONE, url);
    let queue = receiver.expect_queue();
    (receiver, queue)
}

#[test]
fn every_receiver_gets_every_line() {
    let url = vhost("everybody");
    let (first, queue) = receiver(&url);
    let (second, other) = receiver(&url);
    assert!(queue.starts_with("amq.gen-"), "{queue}");
    assert_ne!(queue, other);
    assert_eq!(lines("emit-log", &NONE, &url), [" [x] Sent Hello World!"]);
    let numbers = (1..=10).map(|number| number.to_string());
    for number in numbers.clone() {
        lines("emit-log", &["line", &number], &url);
    }
    for receiver in [first, second] {
        receiver.expect(" [x] Received Hello World!");
        for number in numbers.clone() {
            receiver.expect(&format!(" [x] Received line {number}"));
        }
        receiver.interrupt();
    }
}

#[test]
fn who_comes_late_has_missed_it() {
    let url = vhost("late");
    // nobody listens: no error, and the line is gone
    assert_eq!(lines("emit-log", &["one"], &url), [" [x] Sent one"]);
    let (early, _) = receiver(&url);
    lines("emit-log", &["two"], &url);
    early.expect(" [x] Received two");
    let (late, _) = receiver(&url);
    lines("emit-log", &["three"], &url);
    early.expect(" [x] Received three");
    late.expect(" [x] Received three");
    early.interrupt();
    late.interrupt();
}

#[test]
fn the_queue_goes_with_its_receiver() {
    let url = vhost("queue_goes");
    let (stopped, first) = receiver(&url);
    let (killed, second) = receiver(&url);
    let mut expected = [first, second];
    expected.sort();
    wait_until(LIMIT, || queues(&url) == expected).unwrap();
    stopped.interrupt();
    killed.signal(Signal::KILL);
    killed.finish();
    wait_until(LIMIT, || queues(&url).is_empty()).unwrap();
}

#[test]
fn receivers_outlive_a_broker() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let receivers = [receiver(&url), receiver(&url)];
    let mut names: Vec<String> = receivers.iter().map(|(_, queue)| queue.clone()).collect();
    for (round, kill) in [false, true].into_iter().enumerate() {
        servers.instance.stop(Service::Rabbitmq, kill).unwrap();
        for (receiver, _) in &receivers {
            receiver.expect(LOST);
        }
        servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
        for (receiver, _) in &receivers {
            receiver.expect(AGAIN);
            let queue = receiver.expect_queue();
            assert!(!names.contains(&queue), "{queue} is not new");
            names.push(queue);
        }
        // each has it once: it is bound, and bound with one queue only
        for line in ["one", "two"] {
            lines("emit-log", &[line, &round.to_string()], &url);
            for (receiver, _) in &receivers {
                receiver.expect(&format!(" [x] Received {line} {round}"));
            }
        }
    }
    for (receiver, _) in receivers {
        receiver.interrupt();
    }
}

/// With lapin's own recovery (4.12.3) this took twice as long each time.
#[test]
fn a_receiver_outlives_many_lost_connections() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let (receiver, _) = receiver(&url);
    for round in 0..12 {
        let mut close = servers.instance.rabbitmqctl().unwrap();
        let closed = close.args(["-q", "close_all_connections", "test"]).output();
        assert!(closed.unwrap().status.success());
        receiver.expect(LOST);
        receiver.expect(AGAIN);
        receiver.expect_queue();
        if round == 11 {
            lines("emit-log", &["still there"], &url);
            receiver.expect(" [x] Received still there");
        }
    }
    receiver.interrupt();
}

#[tokio::test]
async fn what_nobody_expects() {
    let url = vhost("unexpected_logs");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();

    // bodies that are no text
    let (receiver, queue) = receiver(&url);
    for (body, shown) in
        [(&b""[..], ""), (b"\xff\xfe", "\\xff\\xfe"), ("\u{1b}[2J".as_bytes(), "\\u{1b}[2J")]
    {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let confirm = channel.basic_publish("logs".into(), "key".into(), options, body, properties);
        assert!(confirm.await.unwrap().await.unwrap().is_ack());
        receiver.expect(&format!(" [x] Received {shown}"));
    }

    // somebody deletes the queue: nobody else may, as it is exclusive, and so nothing happens
    let delete = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
    delete.await.unwrap_err();
    lines("emit-log", &["still there"], &url);
    receiver.expect(" [x] Received still there");
    receiver.interrupt();

    // an exchange of another type
    let channel = connection.create_channel().await.unwrap();
    let delete = channel.exchange_delete("logs".into(), Default::default());
    delete.await.unwrap();
    let (options, table) = (ExchangeDeclareOptions::default(), FieldTable::default());
    let direct = channel.exchange_declare("logs".into(), ExchangeKind::Direct, options, table);
    direct.await.unwrap();
    for program in ["emit-log", "receive-logs"] {
        let (lines, code) = output(program, &NONE, &url);
        assert_eq!((lines.len(), code), (1, Some(1)), "{lines:#?}");
        assert!(lines[0].starts_with("Error: cannot declare the exchange `logs`: "), "{lines:?}");
        assert!(lines[0].contains("PRECONDITION_FAILED"), "{lines:?}");
        assert_eq!(output(program, &["--wrong"], &url).1, Some(2));
        assert_eq!(output(program, &["--help"], &url).1, Some(0));
    }
    connection.close(200, "Goodbye".into()).await.unwrap();
}
