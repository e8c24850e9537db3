//! Lesson 07: jobs that fail.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lab::process::wait_until;
use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use rustix::process::Signal;

use crate::support::{
    Client, LIMIT, NONE, Terminal, lines, output, rabbitmqctl, shared, vhost, wait_for_messages,
};

const WAITING: &str = " [*] Waiting for jobs. To exit press CTRL+C";
const SILENT: &str = "the service does not answer";

fn runner(arguments: &[&str], url: &str) -> Terminal {
    let runner = Terminal::run("run-jobs", arguments, url);
    runner.expect(WAITING);
    runner
}

fn submit(arguments: &[&str], url: &str) {
    lines("submit-job", arguments, url);
}

/// What `replay-jobs` says without the id of the job and the seconds since its first failure.
fn parked(url: &str) -> Vec<String> {
    let mut lines = lines("replay-jobs", &NONE, url);
    assert!(lines.pop().unwrap().starts_with(" [*] Jobs parked: "));
    let line = |line: String| {
        let (_, rest) = line.strip_prefix(" [ ] ").unwrap().split_once(' ').unwrap();
        rest.split(", failed first ").next().unwrap().to_owned()
    };
    let mut lines: Vec<_> = lines.into_iter().map(line).collect();
    lines.sort(); // those that were listed before may come back in any order
    lines
}

/// The properties of a job that has failed so often.
fn failed(attempts: AMQPValue) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("attempts".into(), attempts);
    BasicProperties::default().with_headers(headers)
}

fn header(message: &BasicGetMessage, name: &str) -> Option<AMQPValue> {
    message.properties.headers().as_ref()?.inner().get(name).cloned()
}

/// A policy for the queues of a virtual host of [`vhost`].
fn policy(url: &str, pattern: &str, definition: &str) {
    let vhost = url.rsplit('/').next().unwrap();
    rabbitmqctl(shared(), &["set_policy", "-p", vhost, pattern, pattern, definition]);
}

/// Waits for the next failure of a program that puts jobs back: seconds since the one before.
fn pause(runner: &Terminal) -> f64 {
    let line = runner.line().unwrap();
    let seconds = line.strip_prefix(" [!] report failed: back into the queue, ");
    let seconds = seconds.and_then(|rest| rest.strip_suffix(" s after the last failure"));
    seconds.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

/// A job that is put back is there again at once. Since RabbitMQ 4.3 the others have to wait.
#[test]
fn a_job_that_is_put_back_goes_round_in_circles() {
    let url = vhost("hot");
    submit(&["report", "--always-fails"], &url);
    submit(&["mail"], &url);
    let runner = runner(&["--on-failure", "nack"], &url);
    let start = Instant::now();
    let lines: Vec<_> = (0..500).map(|_| runner.line().unwrap()).collect();
    let rate = 500.0 / start.elapsed().as_secs_f64();
    println!("{rate:.0} attempts a second");
    assert!(rate > 25.0, "{rate}"); // thousands on an idle machine
    let mail = lines.iter().position(|line| line == " [x] mail: done at attempt 1");
    let expected = (shared().management().version().unwrap() < (4, 0)).then_some(1);
    assert_eq!(mail, expected);
    runner.signal(Signal::INT);
    assert_eq!(runner.finish().1.code(), Some(0));
    wait_for_messages(&url, "jobs", 2 - u32::from(expected.is_some()));
}

#[tokio::test]
async fn a_job_that_fails_waits_and_holds_up_nobody() {
    let url = vhost("waits");
    let runner = runner(&[], &url);
    let start = Instant::now();
    submit(&["report", "--fails", "2"], &url);
    let failed = |attempt: u32, pause: u32| {
        format!(" [!] report: attempt {attempt} failed: {SILENT}. Next in {pause} s")
    };
    runner.expect(&failed(1, 1));
    runner.expect(&failed(2, 5));
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    let waiting = Client::connect_with(&url, "jobs.retry.5s").await;
    waiting.wait_for_waiting(1).await;
    waiting.close().await;
    submit(&["mail"], &url);
    runner.expect(" [x] mail: done at attempt 1");
    runner.expect(" [x] report: done at attempt 3");
    assert!(start.elapsed() > Duration::from_secs(6), "{:?}", start.elapsed());
    runner.signal(Signal::INT);
    let (lines, status) = runner.finish();
    assert_eq!(status.code(), Some(0));
    assert_eq!(lines, [" [*] Jobs done: 2, failed attempts: 2, parked: 0"]);
}

/// What RabbitMQ writes of a message that has waited, and what it makes of that when a client
/// publishes it again: the reason why attempts are counted in a header of our own.
#[tokio::test]
async fn x_death_does_not_count_what_is_published_again() {
    let url = vhost("x_death");
    lines("submit-job", &["mail"], &url);
    let retry = Client::connect_with(&url, "jobs.retry.1s").await;
    let jobs = Client::connect_with(&url, "jobs").await;
    jobs.wait_for_message().await;
    let mut properties = BasicProperties::default();
    let mut counts = Vec::new();
    for _ in 0..3 {
        retry.publish_with(b"job", properties).await;
        let message = jobs.wait_for_message().await;
        let Some(AMQPValue::FieldArray(deaths)) = header(&message, "x-death") else { panic!() };
        let AMQPValue::FieldTable(death) = &deaths.as_slice()[0] else { panic!() };
        let AMQPValue::LongLongInt(count) = death.inner()["count"] else { panic!() };
        counts.push(count);
        properties = message.properties.clone();
    }
    let expected = match shared().management().version().unwrap() < (4, 0) {
        true => [1, 2, 3],
        false => [1, 1, 1],
    };
    assert_eq!(counts, expected);
    retry.close().await;
    jobs.close().await;
}

/// A worker that dies between the confirm and the acknowledgement.
#[test]
fn a_job_is_done_twice_rather_than_lost() {
    let url = vhost("between");
    submit(&["tax", "--fails", "1"], &url);
    let (lines, code) = output("run-jobs", &["--die-before-ack"], &url);
    assert_eq!(lines, [WAITING, "Error: died before the acknowledgement"]);
    assert_eq!(code, Some(1));
    wait_for_messages(&url, "jobs", 2);
    let runner = runner(&[], &url);
    let mut lines: Vec<_> = (0..3).map(|_| runner.line().unwrap()).collect();
    lines.sort();
    let failed = format!(" [!] tax: attempt 1 failed: {SILENT}. Next in 1 s");
    assert_eq!(lines, [&failed, " [x] tax: done at attempt 2", " [x] tax: done at attempt 2"]);
    runner.stop();
    wait_for_messages(&url, "jobs", 0);
}

/// The pause of a message ends only at the head of its queue.
#[test]
fn a_pause_for_each_message_is_a_trap() {
    let url = vhost("trap");
    let runner = runner(&[], &url);
    let start = Instant::now();
    submit(&["slow", "--wait", "3"], &url);
    submit(&["fast", "--wait", "1"], &url);
    runner.expect(" [x] slow: done at attempt 1");
    assert!(start.elapsed() > Duration::from_secs(3));
    runner.expect(" [x] fast: done at attempt 1");
    runner.stop();
}

#[tokio::test]
async fn what_never_works_is_parked_and_sent_back() {
    let url = vhost("parked");
    let runner = runner(&[], &url);
    let jobs = Client::connect_with(&url, "jobs").await;
    // one that has waited three times already, and has an expiration and headers of its sender
    let properties = failed(AMQPValue::LongInt(3));
    let mut headers = properties.headers().clone().unwrap();
    headers.insert("traceparent".into(), AMQPValue::LongString("00-1".into()));
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![].into()));
    let properties = properties
        .with_headers(headers)
        .with_message_id("one".into())
        .with_content_encoding("identity".into())
        .with_priority(3)
        .with_expiration("60000".into())
        .with_user_id("guest".into());
    jobs.publish_with(br#"{"name": "report", "ends": "badly"}"#, properties).await;
    runner.expect(&format!(" [!] report: attempt 4 failed: {SILENT}. Parked"));
    submit(&["no job", "--unreadable"], &url);
    runner.expect(" [!] not a job: expected ident at line 1 column 2. Parked");
    wait_for_messages(&url, "jobs.parked", 2);

    let report = format!("report: {SILENT}; attempts: 4");
    let unreadable = "no job: not a job: expected ident at line 1 column 2; attempts: 0";
    for _ in 0..25 {
        assert_eq!(parked(&url), [unreadable, &report]); // RabbitMQ 4 has a limit of 20 by default
    }
    let (said, code) = output("replay-jobs", &["mail"], &url);
    assert_eq!(
        (said.as_slice(), code),
        (&["Error: none of these is parked".to_owned()][..], Some(1))
    );

    // nothing that limits its life, and all that others have written
    let client = Client::connect_with(&url, "jobs.parked").await;
    let mut message = client.wait_for_message().await;
    if message.data == b"no job" {
        // those that were listed may be in any order
        client.publish_with(&message.data, message.properties.clone()).await;
        message = client.wait_for_message().await;
    }
    assert_eq!(message.properties.expiration(), &None);
    assert_eq!(message.properties.user_id(), &None);
    assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), "one");
    assert_eq!(header(&message, "traceparent"), Some(AMQPValue::LongString("00-1".into())));
    assert_eq!(header(&message, "CC"), None);
    assert_eq!(message.properties.priority(), &Some(3));
    let encoding = message.properties.content_encoding().as_ref().unwrap();
    assert_eq!(encoding.as_str(), "identity");
    client.publish_with(&message.data, message.properties.clone()).await;

    // by its id, with its attempts from the start; the other one stays
    let said = lines("replay-jobs", &["one"], &url);
    assert_eq!(said, [" [x] Sent back report", " [*] Jobs sent back: 1"]);
    runner.expect(&format!(" [!] report: attempt 1 failed: {SILENT}. Next in 1 s"));
    assert_eq!(parked(&url), [unreadable]);
    let said = lines("replay-jobs", &["--all"], &url);
    assert_eq!(said, [" [x] Sent back no job", " [*] Jobs sent back: 1"]);
    client.close().await;
    jobs.close().await;
}

/// `replay-jobs` is refused, and killed, time and again: each job is in one of the queues, or in
/// both.
#[tokio::test]
async fn a_replay_that_is_killed_loses_nothing() {
    let url = vhost("replay");
    let names: Vec<_> = (0..300).map(|number| format!("job {number}")).collect();
    lines("submit-job", &[&["--unreadable".to_owned()], &names[..]].concat(), &url);
    let runner = runner(&["--at-once", "50"], &url);
    wait_for_messages(&url, "jobs.parked", 300);
    runner.signal(Signal::INT);
    assert_eq!(runner.finish().1.code(), Some(0));
    // The queue takes some, and refuses the others.
    policy(&url, "^jobs$", r#"{"max-length": 1}"#);
    let (said, code) = output("replay-jobs", &["--all"], &url);
    let error = "Error: the broker did not take the job, so it is still parked: ";
    assert!(said.last().unwrap().starts_with(error), "{said:#?}");
    assert_eq!(code, Some(1));
    policy(&url, "^jobs$", r#"{"max-length": 1000}"#);
    for sent in [1, 20, 60] {
        let replay = Terminal::run("replay-jobs", &["--all"], &url);
        for _ in 0..sent {
            assert!(replay.line().unwrap().starts_with(" [x] Sent back "));
        }
        replay.signal(Signal::KILL);
        replay.finish();
    }
    // Those in its hands come back when RabbitMQ finds that it is gone.
    let jobs = Client::connect_with(&url, "jobs").await;
    let total = || {
        let vhost = url.rsplit('/').next().unwrap();
        let messages = |queue| {
            let path = format!("queues/{vhost}/{queue}");
            shared().management().get(&path).unwrap()["messages_ready"].as_u64().unwrap()
        };
        messages("jobs") + messages("jobs.parked")
    };
    wait_until(LIMIT, || total() >= 300).unwrap();
    lines("replay-jobs", &["--all"], &url);
    let mut found = HashSet::new();
    while jobs.waiting().await > 0 {
        found.insert(jobs.wait_for_message().await.data.clone());
    }
    assert_eq!(found.len(), 300);
    jobs.close().await;
}

/// A job that kills its worker is taken out by RabbitMQ, after the delivery limit.
#[test]
fn a_job_that_kills_its_worker_is_parked_by_the_broker() {
    let url = vhost("poison");
    submit(&["bomb", "--kills-worker"], &url);
    policy(&url, "^jobs$", r#"{"delivery-limit": 2}"#);
    for _ in 0..3 {
        let (lines, code) = output("run-jobs", &NONE, &url);
        assert_eq!(lines, [WAITING, "Error: the job bomb has killed this worker"]);
        assert_eq!(code, Some(1));
    }
    wait_for_messages(&url, "jobs.parked", 1);
    assert_eq!(parked(&url), ["bomb: RabbitMQ's delivery limit"]);
    let runner = runner(&[], &url);
    submit(&["mail"], &url);
    runner.expect(" [x] mail: done at attempt 1");
    runner.stop();
}

/// What RabbitMQ 4.3 can do by itself.
#[tokio::test]
async fn the_broker_delays_what_is_put_back() {
    if shared().management().version().unwrap() < (4, 3) {
        return;
    }
    for (how, expected) in [("nack", [0.5, 0.5, 0.5]), ("reject", [0.5, 1.0, 1.2])] {
        let url = vhost(&format!("delayed-{how}"));
        submit(&["report", "--fails", "4"], &url);
        let delay = r#"{"delayed-retry-type": "all", "delayed-retry-min": 500,
                        "delayed-retry-max": 1200}"#;
        policy(&url, "^jobs$", delay);
        let runner = runner(&["--on-failure", how], &url);
        runner.expect(" [!] report failed: back into the queue");
        let pauses = expected.map(|_| pause(&runner));
        println!("{how}: {pauses:?}");
        let long = pauses.iter().zip(expected).all(|(pause, expected)| *pause > expected - 0.06);
        // If the machine is busy, they may be longer, but not all of them.
        let short = pauses[1].min(pauses[2]) < expected[1] + 0.4;
        assert!(long && short, "{how}: {pauses:?}");
        runner.expect(" [x] report: done at attempt 5");
        runner.stop();
    }
    // A type with a mistake is refused in a policy, and taken without a word as an argument.
    let vhost = vhost("misspelt").rsplit('/').next().unwrap().to_owned();
    let mut misspelt = shared().rabbitmqctl().unwrap();
    misspelt.args(["-q", "set_policy", "-p", &vhost, "delay", "^jobs$"]);
    misspelt.arg(r#"{"delayed-retry-type": "al", "delayed-retry-min": 500}"#);
    let output = misspelt.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("al"), "{output:?}");
}

/// The arguments of a queue cannot be changed. A policy can shorten its time to live.
#[tokio::test]
async fn a_policy_changes_a_pause() {
    let url = vhost("changed");
    submit(&["report", "--fails", "2"], &url);
    policy(&url, "^jobs.retry.5s$", r#"{"message-ttl": 1500}"#);
    let runner = runner(&[], &url);
    let begin = Instant::now();
    for (attempt, pause) in [(1, 1), (2, 5)] {
        let mut line = runner.line().unwrap();
        // On a busy machine, RabbitMQ 3.10 may refuse a job while it applies the policy.
        if line == " [!] The queue `jobs.retry.5s` is full, or down. Trying again ..." {
            line = runner.line().unwrap();
        }
        let failed = format!(" [!] report: attempt {attempt} failed: {SILENT}. Next in {pause} s");
        assert_eq!(line, failed);
    }
    let start = Instant::now();
    runner.expect(" [x] report: done at attempt 3");
    assert!(begin.elapsed() > Duration::from_millis(2500), "{:?}", begin.elapsed());
    assert!(start.elapsed() < Duration::from_millis(4500), "{:?}", start.elapsed());
    runner.stop();

    for (value, answer) in [
        (AMQPValue::LongUInt(5000), "PRECONDITION_FAILED - inequivalent arg"),
        (AMQPValue::LongString("5000".into()), "expected integer, got longstr"),
    ] {
        let client = Client::connect_with(&url, "jobs.retry.5s").await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-message-ttl".into(), value);
        let queue = if answer.starts_with('P') { "jobs.retry.1s" } else { "jobs.retry.2s" };
        let declared =
            client.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
        let error = declared.await.unwrap_err().to_string();
        assert!(error.contains(answer), "{error}");
    }
    // RabbitMQ has no such type, and says nothing.
    let client = Client::connect_with(&url, "jobs").await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::ShortString("quorum".into()));
    let options = QueueDeclareOptions::durable();
    let error = client.channel.queue_declare("other".into(), options, arguments).await.unwrap_err();
    assert!(matches!(error.kind(), lapin::ErrorKind::IOError(_)), "{error}");
}

#[test]
fn jobs_run_at_once_and_end_in_any_order() {
    let url = vhost("at_once");
    submit(&["slow", "--seconds", "2"], &url);
    let quick: Vec<_> = (0..9).map(|number| format!("quick {number}")).collect();
    lines("submit-job", &[&["--seconds=1".to_owned()], &quick[..]].concat(), &url);
    let runner = runner(&["--at-once", "10"], &url);
    let start = Instant::now();
    let lines: Vec<_> = (0..10).map(|_| runner.line().unwrap()).collect();
    assert_eq!(lines[9], " [x] slow: done at attempt 1");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed()); // 11 one by one
    runner.stop();
    wait_for_messages(&url, "jobs", 0);
}

/// Ctrl-C waits for the jobs under way; what takes too long goes back.
#[tokio::test]
async fn ctrl_c_waits_for_the_jobs_under_way() {
    for (seconds, done) in [("2", 3), ("60", 0)] {
        let url = vhost(&format!("under_way_{seconds}"));
        lines("submit-job", &["a", "b", "c", "--seconds", seconds], &url);
        let runner = runner(&["--at-once", "3"], &url);
        let jobs = Client::connect_with(&url, "jobs").await;
        jobs.wait_for_waiting(0).await; // they are in its hands
        jobs.close().await;
        runner.signal(Signal::INT);
        let (lines, status) = runner.finish();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        assert_eq!(lines.len(), done + 1, "{lines:#?}");
        let tally = format!(" [*] Jobs done: {done}, failed attempts: 0, parked: 0");
        assert_eq!(lines.last(), Some(&tally));
        wait_for_messages(&url, "jobs", 3 - done as u32);
    }
}

/// Whatever comes in the queue ends in `jobs.parked`, once, and the worker goes on.
#[tokio::test]
async fn anything_may_come() {
    let url = vhost("anything");
    let runner = runner(&["--at-once", "5"], &url);
    let jobs = Client::connect_with(&url, "jobs").await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let badly = br#"{"name": "a", "ends": "badly"}"#;
    let nested = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let long = format!(r#"{{"name": "b", "ends": "{}"}}"#, "x".repeat(200_000)).into_bytes();
    let mut large = FieldTable::default();
    large.insert("attempts".into(), AMQPValue::LongInt(3));
    large.insert("x".into(), text(&"x".repeat(130_900)));
    let large = BasicProperties::default().with_headers(large);
    let default = BasicProperties::default;
    let some: Vec<(&[u8], BasicProperties)> = vec![
        (b"", default()),
        (b"\xff\xfe", default()),
        (b"{}", default()),
        (br#"{"name": 1}"#, default()),
        (br#"{"name": "c", "ends": "never"}"#, default()),
        (br#"{"name": "c", "seconds": -1}"#, default()),
        (&nested, default()),
        (&long, default()),
        (badly, failed(AMQPValue::LongLongInt(i64::MAX - 1))), // not a number that we count to
        (badly, failed(AMQPValue::LongUInt(u32::MAX))),
        (badly, failed(AMQPValue::ShortShortUInt(3))),
        (badly, failed(text("3"))),
        (badly, failed(AMQPValue::LongInt(-1))),
        (badly, large.clone()),
        (b"\x1b[2J", large),
    ];
    // The attempts of three of them begin from the start.
    let count = some.len() as u32;
    for (body, properties) in some {
        jobs.publish_with(body, properties).await;
    }
    wait_for_messages(&url, "jobs.parked", count - 3);
    wait_for_messages(&url, "jobs", 0);
    submit(&["mail"], &url);
    while runner.line().unwrap() != " [x] mail: done at attempt 1" {}
    runner.signal(Signal::INT);
    assert_eq!(runner.finish().1.code(), Some(0));
    let listed = lines("replay-jobs", &NONE, &url);
    assert_eq!(listed.len() as u32, count - 3 + 1, "{listed:#?}");
    let large =
        listed.iter().filter(|line| line.contains("(its headers were too large to be kept)"));
    assert_eq!(large.count(), 2);
    jobs.close().await;
}

/// A queue that takes no job now: the job stays where it is.
#[test]
fn a_queue_that_is_full_is_asked_again() {
    let url = vhost("full");
    let runner = runner(&[], &url);
    policy(&url, "^jobs.parked$", r#"{"max-length": 1}"#);
    lines("submit-job", &["--unreadable", "x", "y", "z"], &url);
    // RabbitMQ takes one or two more than that.
    let parked = " [!] not a job: expected value at line 1 column 1. Parked";
    let mut said = vec![runner.line().unwrap()];
    while said.last().unwrap() == parked {
        said.push(runner.line().unwrap());
    }
    let full = " [!] The queue `jobs.parked` is full, or down. Trying again ...";
    assert_eq!(said.pop().unwrap(), full);
    policy(&url, "^jobs.parked$", r#"{"max-length": 10}"#);
    for _ in said.len()..3 {
        runner.expect(parked);
    }
    wait_for_messages(&url, "jobs.parked", 3);
    wait_for_messages(&url, "jobs", 0);
    runner.stop();
}

#[test]
fn wrong_usage() {
    let url = vhost("jobs_usage");
    for (program, arguments) in [
        ("run-jobs", &["--at-once", "0"][..]),
        ("run-jobs", &["--at-once", "65536"]),
        ("run-jobs", &["--on-failure", "ignore"]),
        ("run-jobs", &["more"]),
        ("submit-job", &["--fails", "1", "--always-fails"]),
        ("submit-job", &["--unreadable", "--kills-worker"]),
        ("submit-job", &["--fails", "-1"]),
        ("replay-jobs", &["--all", "one"]),
    ] {
        let (lines, code) = output(program, arguments, &url);
        assert_eq!(code, Some(2), "{program} {arguments:?}: {lines:?}");
    }
    assert_eq!(lines("replay-jobs", &NONE, &url), [" [*] Jobs parked: 0"]);
}
