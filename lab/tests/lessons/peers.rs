//! The programs of the lessons with the official tutorials' programs, in Python with pika, at the
//! other end. `lab/peers/tutorials.py` does as they do, and `lab/peers/streams.py` with rstream.

use std::path::Path;
use std::sync::Mutex;

use lab::progress::Tasks;
use lab::root;

use crate::shared::python;
use crate::support::{Client, NONE, Terminal, WAITING, lines, shared, vhost};

/// Publishes a message that lapin cannot read: its type is not UTF-8.
pub fn publish_unreadable(queue: &str, url: &str) {
    let program = "import os, pika, sys
connection = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL']))
bad = pika.BasicProperties(type=b'\\xff', message_id='bad', delivery_mode=2)
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish('', sys.argv[1], b'bad', bad)
connection.close()";
    assert!(pika(&["-c", program, queue], url).finish().1.success());
}

/// Python with pika.
pub fn pika(arguments: &[&str], url: &str) -> Terminal {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let installing = INSTALLING.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut python = python(folder, &["pika==1.3.2"], &Tasks::quiet()).unwrap();
    drop(installing);
    python.args(arguments).env("AMQP_URL", url);
    Terminal::start(python)
}

fn peer(arguments: &[&str], url: &str) -> Terminal {
    let program = root().join("lab/peers/tutorials.py");
    pika(&[&[program.to_str().unwrap()], arguments].concat(), url)
}

/// Runs one that ends by itself.
fn peer_sends(arguments: &[&str], url: &str) {
    let (lines, status) = peer(arguments, url).finish();
    assert!(status.success(), "{lines:#?}");
}

#[tokio::test]
async fn tasks() {
    let url = vhost("peers_tasks");
    let theirs = peer(&["worker"], &url);
    theirs.expect("waiting");
    lines("new-task", &["for", "them."], &url);
    theirs.expect("received for them.");
    theirs.expect("done");

    let ours = Terminal::run("worker", &NONE, &url);
    ours.expect(WAITING);
    // Two idle workers share two tasks, whoever sends them.
    peer_sends(&["new_task", "one", ".."], &url);
    peer_sends(&["new_task", "two", ".."], &url);
    let mut received = [theirs.line().unwrap(), ours.line().unwrap()];
    received.sort();
    let expected =
        [[" [x] Received one ..", "received two .."], [" [x] Received two ..", "received one .."]];
    assert!(expected.iter().any(|expected| received == *expected), "{received:?}");
    theirs.expect("done");
    ours.expect(" [x] Done");

    // What theirs does not finish, ours gets.
    ours.stop();
    lines("new-task", &["long", "....."], &url);
    theirs.expect("received long .....");
    drop(theirs);
    let ours = Terminal::run("worker", &NONE, &url);
    ours.expect(WAITING);
    ours.expect(" [x] Received long ..... (redelivered)");
    ours.expect(" [x] Done");
    let client = Client::of_tasks(&url).await;
    client.wait_for_waiting(0).await;
    client.close().await;
}

/// One of each receives, one of each publishes: both receive both.
fn both_ways(
    receivers: [(&str, &[&str]); 2],
    publishers: [(&str, &[&str]); 2],
    expected: [[&str; 2]; 2],
    url: &str,
) {
    let [(ours, our_arguments), (theirs, their_arguments)] = receivers;
    let ours = Terminal::run(ours, our_arguments, url);
    ours.expect_queue();
    let theirs = peer(&[&[theirs], their_arguments].concat(), url);
    theirs.expect("waiting");
    let [(our_publisher, our_arguments), (their_publisher, their_arguments)] = publishers;
    lines(our_publisher, our_arguments, url);
    peer_sends(&[&[their_publisher], their_arguments].concat(), url);
    let [for_us, for_them] = expected;
    for line in for_us {
        ours.expect(line);
    }
    for line in for_them {
        theirs.expect(line);
    }
    ours.interrupt();
}

#[test]
fn logs() {
    both_ways(
        [("receive-logs", &[]), ("receive_logs", &[])],
        [("emit-log", &["our", "log"]), ("emit_log", &["their", "log"])],
        [
            [" [x] Received our log", " [x] Received their log"],
            ["received :our log", "received :their log"],
        ],
        &vhost("peers_logs"),
    );
}

#[test]
fn direct_logs() {
    both_ways(
        [("receive-logs-direct", &["error", "info"]), ("receive_logs_direct", &["info", "error"])],
        [("emit-log-direct", &["error", "ours"]), ("emit_log_direct", &["info", "theirs"])],
        [
            [" [x] Received error: ours", " [x] Received info: theirs"],
            ["received error:ours", "received info:theirs"],
        ],
        &vhost("peers_direct"),
    );
}

#[test]
fn topic_logs() {
    both_ways(
        [
            ("receive-logs-topic", &["kern.*", "#.critical"]),
            ("receive_logs_topic", &["kern.#", "*.critical"]),
        ],
        [
            ("emit-log-topic", &["kern.info", "ours"]),
            ("emit_log_topic", &["cron.critical", "theirs"]),
        ],
        [
            [" [x] Received kern.info: ours", " [x] Received cron.critical: theirs"],
            ["received kern.info:ours", "received cron.critical:theirs"],
        ],
        &vhost("peers_topic"),
    );
}

#[test]
fn headers() {
    both_ways(
        [
            ("receive-logs-headers", &["all", "part=disk", "level=error"]),
            ("receive_log_header", &["x-match=any", "part=disk", "level=info"]),
        ],
        [
            ("emit-log-headers", &["ours", "part=disk", "level=error"]),
            ("emit_log_header", &["theirs", "level=error", "part=disk"]),
        ],
        [[" [x] Received ours", " [x] Received theirs"], ["received ours", "received theirs"]],
        &vhost("peers_headers"),
    );
}

/// Calls, both ways.
#[test]
fn calls() {
    const REQUESTS: &str = " [*] Waiting for requests. To exit press CTRL+C";
    let url = vhost("peers_calls");
    let theirs = peer(&["rpc_server"], &url);
    theirs.expect("waiting");
    for more in [&[][..], &["--reply-queue"]] {
        let got = lines("rpc-client", &[&["20", "1"], more].concat(), &url);
        assert_eq!(got[1], " [.] Got 6765 for fib(20)");
        assert_eq!(got[3], " [.] Got 1 for fib(1)");
        theirs.expect("fib(20)");
        theirs.expect("fib(1)");
    }
    drop(theirs);

    let ours = Terminal::run("rpc-server", &NONE, &url);
    ours.expect(REQUESTS);
    let (got, status) = peer(&["rpc_client", "20", "1"], &url).finish();
    assert!(status.success(), "{got:#?}");
    assert_eq!(got, ["got 6765", "got 1"]);
    ours.expect(" [.] fib(20)");
    ours.expect(" [.] fib(1)");
    ours.stop();
}

/// A program over the stream protocol, in Python with rstream.
fn stream_peer(arguments: &[&str], vhost: &str) -> Terminal {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut python = python(folder, &["rstream==1.1.1"], &Tasks::quiet()).unwrap();
    let port = shared().ports.stream.to_string();
    python.arg(root().join("lab/peers/streams.py")).args([&port, vhost]).args(arguments);
    Terminal::start(python)
}

/// Streams, both ways; with RabbitMQ 3.10, ours over AMQP only.
#[test]
fn streams() {
    let new = shared().management().version().unwrap() >= (3, 11);
    let url = vhost("peers_streams");
    let theirs = stream_peer(&["receive"], "peers_streams");
    theirs.expect("waiting");
    lines("append-events", &["ours"], &url);
    theirs.expect("received 0: ours");
    let (said, status) = stream_peer(&["send", "2"], "peers_streams").finish();
    assert!(status.success(), "{said:#?}");
    theirs.expect("received 1: hello: 0");
    theirs.expect("received 2: hello: 1");
    if new {
        lines("stream-append", &["--count", "2"], &url);
        theirs.expect("received 3: event 1");
        theirs.expect("received 4: event 2");
    }
    lines("append-events", &["marker"], &url);
    let marker = if new { 5 } else { 3 };
    theirs.expect(&format!("received {marker}: marker"));
    drop(theirs);
    for program in if new { &["read-events", "stream-read"][..] } else { &["read-events"] } {
        let count = (marker + 1).to_string();
        let read = lines(program, &["--count", &count], &url);
        let events: Vec<_> = read.iter().filter(|line| line.starts_with(" [x] ")).collect();
        assert_eq!(events[..2], [" [x] 0: ours", " [x] 1: hello: 0"]);
        assert_eq!(events[marker], &format!(" [x] {marker}: marker"));
    }

    // They store an offset; ours goes on behind it.
    let tracking = || {
        let (said, status) = stream_peer(&["receive_offset_tracking"], "peers_streams").finish();
        assert!(status.success(), "{said:#?}");
        let received = said.into_iter().filter(|line| line.starts_with("received "));
        received.collect::<Vec<_>>()
    };
    assert_eq!(tracking().last().unwrap(), &format!("received {marker}: marker"));
    if new {
        lines("append-events", &["more", "marker 2"], &url);
        let tracked = ["--name", "consumer-1", "--count", "1"];
        let read = lines("stream-read", &tracked, &url);
        assert_eq!(read[0], format!(" [*] Goes on after offset {marker}"));
        assert!(read[2].ends_with(": more"), "{read:#?}");
        // And the other way round.
        let received = tracking();
        assert!(received.len() == 1 && received[0].ends_with(": marker 2"), "{received:#?}");
    }
}
