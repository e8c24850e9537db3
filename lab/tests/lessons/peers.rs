//! The programs of the lessons with the official tutorials' programs, in Python with pika, at the
//! other end. `lab/peers/tutorials.py` does as they do.

use std::path::Path;
use std::sync::Mutex;

use lab::progress::Tasks;
use lab::root;

use crate::shared::python;
use crate::support::{Client, NONE, Terminal, WAITING, lines, vhost};

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
