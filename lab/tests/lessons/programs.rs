//! What the programs of all lessons have in common.

use std::path::Path;
use std::process::Command;

use lab::process::wait_until;
use lab::servers::Service;
use rustix::process::Signal;

use crate::support::{
    self, AGAIN, INTERNAL, LIMIT, LOST, NONE, Servers, Terminal, breakable, lines, output, queues,
    rabbitmqctl, shared, vhost, wait_for_messages,
};

/// Those that send something and end.
const SENDERS: [(&str, &[&str]); 12] = [
    ("send", &[]),
    ("new-task", &["task"]),
    ("emit-log", &["line"]),
    ("emit-log-direct", &["error", "line"]),
    ("emit-log-topic", &["kern.info", "line"]),
    ("emit-log-headers", &["line", "level=error"]),
    ("send-order", &[]),
    ("request-orders", &[]),
    ("submit-job", &["job"]),
    ("publish-steadily", &["--count", "1"]),
    ("append-events", &["event"]),
    ("submit-mail", &[]),
];

/// Those that receive until Ctrl-C.
const RECEIVERS: [(&str, &[&str]); 13] = [
    ("receive", &[]),
    ("receive-callback", &[]),
    ("worker", &[]),
    ("receive-logs", &[]),
    ("receive-logs-direct", &["error"]),
    ("receive-logs-topic", &["kern.*"]),
    ("receive-logs-headers", &["all", "level=error"]),
    ("receive-orders", &[]),
    ("run-jobs", &[]),
    ("count-steadily", &[]),
    ("mailer", &["--folder", concat!(env!("CARGO_TARGET_TMPDIR"), "/mails")]),
    ("read-events", &["--from", "next"]),
    ("rpc-server", &[]),
];

/// Starts one of [`RECEIVERS`], and waits until it waits.
fn receiver(program: &str, arguments: &[&str], amqp_url: &str) -> Terminal {
    let receiver = Terminal::run_with(program, arguments, (amqp_url, &shared().mysql_url()));
    // Before it, RabbitMQ 3.10 may have been too busy for a new queue.
    let mut line = receiver.line().unwrap();
    while [INTERNAL, LOST, AGAIN].contains(&line.as_str()) {
        line = receiver.line().unwrap();
    }
    assert!(line.starts_with(" [*] Waiting for "), "{program}: {line}");
    receiver
}

/// The broker must not find any connection cut off: each program says goodbye. Nor does any of them
/// use what RabbitMQ is going to drop.
#[test]
fn every_program_closes_its_connection_and_uses_nothing_deprecated() {
    let servers = Servers::start(&[Service::Rabbitmq]);
    let url = servers.instance.amqp_url();
    for (program, arguments) in SENDERS {
        lines(program, arguments, &url);
    }
    lines("receive-get", &NONE, &url);
    lines("receive-until-idle", &["0.1"], &url);
    output("send", &["--routing-key", "nowhere"], &url);
    for (program, arguments) in RECEIVERS {
        let receiver = receiver(program, arguments, &url);
        if program == "worker" {
            receiver.expect(" [x] Received task");
            receiver.expect(" [x] Done");
        }
        if program == "receive-orders" {
            let line = receiver.line().unwrap();
            assert!(line.starts_with(" [x] Stored 101 orders, "), "{line}");
        }
        if program == "run-jobs" {
            receiver.expect(" [x] job: done at attempt 1");
        }
        if program == "count-steadily" {
            let line = receiver.line().unwrap();
            assert!(line.starts_with(" [x] Received: 1 (1 in all), twice: 0, "), "{line}");
        }
        if program == "mailer" {
            receiver.expect(" [x] Received a mail to ann@example.org");
            receiver.expect(" [x] Sent the mail to ann@example.org");
        }
        if program == "rpc-server" {
            lines("rpc-client", &["3"], &url);
            lines("rpc-client", &["3", "--reply-queue"], &url);
            for _ in 0..2 {
                receiver.expect(" [.] fib(3)");
            }
        }
        receiver.stop();
    }
    // a connection that has a name is a program's; the others are the lab's own probes
    let programs = [
        "send",
        "request",
        "receive",
        "new-task",
        "worker",
        "emit-log",
        "submit",
        "run-jobs",
        "rpc",
        "append",
        "read",
        "publish-steadily",
        "count-steadily",
        "mailer",
    ];
    let names = programs.map(|name| format!(" - {name}"));
    let count = |text: &str| servers.log().matches(text).count();
    let opened = || count("has a client-provided name");
    let closed = || {
        let log = servers.log();
        let lines = log.lines().filter(|line| line.contains("closing AMQP connection"));
        lines.filter(|line| names.iter().any(|name| line.contains(name))).count()
    };
    wait_until(LIMIT, || closed() == opened()).unwrap();
    // `run-jobs` and `rpc-server` have two connections, and `rpc-client` was there twice
    assert_eq!(opened(), SENDERS.len() + RECEIVERS.len() + 7);
    assert_eq!(count("unexpectedly closed"), 0, "{}", servers.log());

    // RabbitMQ 4.3 says so of the figures on its own management page.
    let log = servers.log();
    let deprecated = log.lines().filter(|line| {
        line.contains("deprecated") && !line.contains("management_metrics_collection")
    });
    assert_eq!(deprecated.collect::<Vec<_>>(), NONE);
}

/// What no queue takes comes back, and the program says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_while_a_program_sends() {
    if shared().management().version().unwrap() < (4, 0) {
        return; // it may close the connection with INTERNAL_ERROR instead
    }
    let url = vhost("deleted_under_it");
    let tasks: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let each = [&["--each".to_owned()], &tasks[..]].concat();
    for (program, arguments, queue, error) in [
        (
            "new-task",
            &each[..],
            "task_queue",
            "Error: NO_ROUTE: the queue `task_queue` is gone; the task came back",
        ),
        (
            "request-orders",
            &["10000000".to_owned()],
            "orders",
            "Error: an order came back: was the queue `orders` deleted?",
        ),
    ] {
        let sender = Terminal::run(program, arguments, &url);
        wait_until(LIMIT, || queues(&url).contains(&queue.to_owned())).unwrap();
        // not right after it was declared: a program may be declaring it still
        let path = format!("queues/deleted_under_it/{queue}");
        let some = || shared().management().get(&path).unwrap()["messages"].as_u64() > Some(0);
        wait_until(LIMIT, some).unwrap();
        // Or else the broker refuses what is just on its way, and nothing is sent after that.
        sender.signal(Signal::STOP);
        rabbitmqctl(shared(), &["delete_queue", "-p", "deleted_under_it", queue]);
        sender.signal(Signal::CONT);
        let (lines, status) = sender.finish();
        assert_eq!((lines.last().unwrap().as_str(), status.code()), (error, Some(1)));
    }
}

/// What feeds each of [`RECEIVERS`], but `rpc-server`: who feeds that waits for its answer.
const FEEDERS: [usize; 11] = [0, 0, 1, 2, 3, 4, 5, 6, 8, 9, 11];

/// Starts a program whose standard output nobody reads, or whose disk is full.
fn unread(program: &str, arguments: &[&str], urls: (&str, &str), full: bool) -> Terminal {
    let script = match full {
        true => "exec \"$0\" \"$@\" > /dev/full",
        false => "set -o pipefail; \"$0\" \"$@\" | :",
    };
    let mut command = Command::new("bash");
    command.args(["-c", script]).arg(support::program(program)).args(arguments);
    command.env("AMQP_URL", urls.0).env("MYSQL_URL", urls.1);
    Terminal::start(command)
}

/// It has ended quietly if nobody reads what it prints, and with a line if it cannot be written.
fn assert_unread(terminal: Terminal, full: bool) {
    let (mut lines, status) = terminal.finish();
    lines.retain(|line| !line.starts_with(" [*] ")); // what was done, on standard error
    let error = "Error: cannot write to standard output: No space left on device (os error 28)";
    let expected = if full { vec![error] } else { Vec::new() };
    assert_eq!(
        (lines, status.code()),
        (expected.iter().map(ToString::to_string).collect(), Some(i32::from(full)))
    );
}

/// Standard output that is closed or full ends a program; what is not printed is not acknowledged.
#[test]
fn what_is_not_printed_is_not_acknowledged() {
    for full in [false, true] {
        if full && !Path::new("/dev/full").exists() {
            continue; // not on macOS
        }
        for ((program, arguments), feeder) in RECEIVERS.into_iter().zip(FEEDERS) {
            let amqp = vhost(&format!("unread-{program}-{full}"));
            let receiver = unread(program, arguments, (&amqp, &shared().mysql_url()), full);
            assert!(receiver.line().unwrap().starts_with(" [*] Waiting for "), "{program}");
            let (sender, arguments) = SENDERS[feeder];
            lines(sender, arguments, &amqp);
            assert_unread(receiver, full);
            if ["send", "new-task"].contains(&sender) {
                wait_for_messages(&amqp, if feeder == 0 { "hello" } else { "task_queue" }, 1);
            }
        }
        let amqp = vhost(&format!("unread-{full}"));
        for (program, arguments) in SENDERS {
            assert_unread(unread(program, arguments, (&amqp, ""), full), full);
        }
        for (program, arguments) in [("receive-get", [""; 0]), ("receive-until-idle", [])] {
            assert_unread(unread(program, &arguments, (&amqp, ""), full), full);
            wait_for_messages(&amqp, "hello", 1);
        }
    }
}

/// A server that cannot print ends, and another one answers. A client that cannot print ends, too.
#[test]
fn a_call_outlives_a_server_that_cannot_print() {
    for full in [false, true] {
        if full && !Path::new("/dev/full").exists() {
            continue; // not on macOS
        }
        let amqp = vhost(&format!("unread-rpc-{full}"));
        let first = unread("rpc-server", &[], (&amqp, ""), full);
        assert!(first.line().unwrap().starts_with(" [*] Waiting for "));
        let client = Terminal::run("rpc-client", &["20", "--timeout", "100"], &amqp);
        assert_unread(first, full);
        let second = receiver("rpc-server", &[], &amqp);
        client.expect(" [x] Requesting fib(20)");
        client.expect(" [.] Got 6765");
        assert_unread(unread("rpc-client", &["20"], (&amqp, ""), full), full);
        second.expect(" [.] fib(20) (redelivered)");
        second.signal(Signal::INT);
        assert_eq!(second.finish().1.code(), Some(0));
    }
}

/// `docker stop` and systemd end a program with SIGTERM.
#[test]
fn sigterm_ends_a_program_as_ctrl_c_does() {
    let url = vhost("sigterm");
    for (program, arguments) in RECEIVERS {
        let receiver = receiver(program, arguments, &url);
        receiver.signal(Signal::TERM);
        assert_eq!(receiver.finish().1.code(), Some(0), "{program}");
    }
}

#[test]
fn ctrl_c_ends_a_program_that_is_reconnecting() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let receivers = RECEIVERS.map(|(program, arguments)| receiver(program, arguments, &url));
    servers.instance.stop(Service::Rabbitmq, false).unwrap();
    for receiver in receivers {
        receiver.expect(LOST);
        receiver.stop();
    }
}

/// A broker that is not gone and does not answer either, as on a machine that swaps.
#[test]
fn ctrl_c_ends_a_program_whose_broker_is_paused() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let receivers = RECEIVERS.map(|(program, arguments)| receiver(program, arguments, &url));
    servers.instance.pause(Service::Rabbitmq).unwrap();
    let start = std::time::Instant::now();
    for receiver in &receivers {
        receiver.signal(Signal::INT);
    }
    let codes = receivers.map(|receiver| receiver.finish().1.code());
    let waited = start.elapsed();
    servers.instance.resume(Service::Rabbitmq).unwrap();
    assert_eq!(codes, [Some(0); RECEIVERS.len()]);
    assert!(waited < std::time::Duration::from_secs(10), "{waited:?}");
}
