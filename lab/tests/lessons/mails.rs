//! Lesson 11: a worker that is run as a service.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::process::wait_until;
use lab::servers::Service;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Client, Folder, LIMIT, Terminal, breakable, free_address, get, lines, program, shared, vhost,
    wait_for_messages,
};

const WAITING: &str = " [*] Waiting for mails. To exit press CTRL+C";

fn folder() -> Folder {
    Folder::beside_target()
}

/// The command `mailer`, which writes into this folder.
fn command(folder: &Path, arguments: &[&str], url: &str) -> Command {
    let mut command = Command::new(program("mailer"));
    command.args(arguments).env("AMQP_URL", url).env("MAIL_FOLDER", folder);
    command
}

fn mailer(folder: &Path, arguments: &[&str], url: &str) -> Terminal {
    let mailer = Terminal::start(command(folder, arguments, url));
    mailer.expect(WAITING);
    mailer
}

fn mails(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".eml")).collect()
}

/// The number of the exit code of a program that was asked to end, and what it has said since.
fn ended(terminal: Terminal, signal: Signal) -> (Vec<String>, Option<i32>) {
    terminal.signal(signal);
    let (lines, status) = terminal.finish();
    (lines, status.code())
}

/// Workers are killed in the midst of it: each mail is there, and none twice.
#[test]
fn no_mail_is_lost_and_none_is_sent_twice() {
    let (url, folder) = (vhost("mails-killed"), folder());
    let to: Vec<String> = (0..300).map(|number| format!("reader{number}@example.org")).collect();
    lines("submit-mail", &to, &url);
    for arguments in [["--takes", "0"], ["--takes", "1"], ["--takes", "0"]] {
        let mailer = mailer(folder.path(), &arguments, &url);
        for _ in 0..20 {
            mailer.line().unwrap();
        }
        mailer.signal(Signal::KILL);
        mailer.finish();
    }
    let last = mailer(folder.path(), &["--at-once", "50"], &url);
    wait_for_messages(&url, "mails", 0);
    let (lines, code) = ended(last, Signal::INT);
    assert!(lines.last().unwrap().starts_with(" [*] Mails sent: ") && code == Some(0), "{lines:?}");
    let texts = mails(folder.path());
    let texts = texts.iter().map(|name| std::fs::read_to_string(folder.path().join(name)).unwrap());
    let texts: Vec<_> = texts.collect();
    let sent: HashSet<_> = texts.iter().map(|text| text.lines().next().unwrap()).collect();
    assert_eq!((texts.len(), sent.len()), (300, 300));
}

/// SIGTERM: those under way are finished, or given back, well within the ten seconds of Docker.
#[test]
fn sigterm_loses_nothing() {
    let (url, folder) = (vhost("mails-drain"), folder());
    let to = ["a@x", "b@x", "c@x", "d@x", "e@x"];
    lines("submit-mail", &to, &url);
    for (takes, sent, given_back) in [("2", 3, 0), ("60", 0, 2)] {
        let mailer = mailer(folder.path(), &["--takes", takes, "--at-once", "3"], &url);
        for _ in 0..sent + given_back {
            let line = mailer.line().unwrap();
            assert!(line.starts_with(" [x] Received a mail to "), "{line}");
        }
        let start = Instant::now();
        let (lines, code) = ended(mailer, Signal::TERM);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let mut expected = vec![format!(" [*] Stopping. Mails under way: {}", sent + given_back)];
        if given_back > 0 {
            expected.push(format!(" [*] Given back: {given_back}"));
        }
        expected.push(format!(" [*] Mails sent: {sent}, refused: 0"));
        let said: Vec<_> =
            lines.into_iter().filter(|line| !line.starts_with(" [x] Sent the mail")).collect();
        assert_eq!((said, code), (expected, Some(0)));
        wait_for_messages(&url, "mails", 2);
        assert_eq!(mails(folder.path()).len(), 3);
    }
}

/// What nobody can send is put aside, with what it is; what comes after it is sent.
#[tokio::test]
async fn what_cannot_be_a_mail_is_refused() {
    let (url, folder) = (vhost("mails-refused"), folder());
    let mailer = mailer(folder.path(), &["--at-once", "1"], &url);
    let queue = Client::connect_with(&url, "mails").await;
    let id = || BasicProperties::default().with_message_id(uuid::Uuid::now_v7().to_string().into());
    let mail = br#"{"to":"ann@example.org","subject":"Hi"}"#;
    for (body, properties, why) in [
        (&mail[..], BasicProperties::default(), "no message id"),
        (mail, id().with_message_id("../../etc/passwd".into()), "the message id is not a UUID"),
        (b"\xff\xfe", id(), "not a mail: "),
        (b"", id(), "not a mail: "),
        (
            br#"{"to":"ann@example.org\nBcc: bob@example.org","subject":""}"#,
            id(),
            "more than one line",
        ),
    ] {
        queue.publish_with(body, properties).await;
        let line = mailer.line().unwrap();
        assert!(line.starts_with(&format!(" [!] Refused: {why}")), "{line}");
    }
    lines("submit-mail", &["ann@example.org"], &url);
    mailer.expect(" [x] Received a mail to ann@example.org");
    mailer.expect(" [x] Sent the mail to ann@example.org");
    let (said, code) = ended(mailer, Signal::INT);
    assert_eq!((said, code), (vec![" [*] Mails sent: 1, refused: 5".to_owned()], Some(0)));
    wait_for_messages(&url, "mails.refused", 5);
    assert_eq!(mails(folder.path()).len(), 1);
}

/// A folder that cannot be written: the mail waits, and is sent when it can be.
#[test]
fn what_may_be_mended_is_tried_again() {
    let (url, folder) = (vhost("mails-not-now"), folder());
    let place = folder.path().join("mails");
    std::fs::write(&place, "a file").unwrap();
    let mailer = mailer(&place, &[], &url);
    lines("submit-mail", &["ann@example.org"], &url);
    mailer.expect(" [x] Received a mail to ann@example.org");
    let line = mailer.line().unwrap();
    assert!(line.starts_with(" [!] Cannot send the mail to ann@example.org: "), "{line}");
    std::fs::remove_file(&place).unwrap();
    mailer.expect(" [x] Sent the mail to ann@example.org");
    assert_eq!(mails(&place).len(), 1);
    ended(mailer, Signal::INT);
}

/// As JSON, each line is an event with its level, and those about a message have its id and its
/// trace: that of its header, whoever has sent it.
#[tokio::test]
async fn logs_and_traces() {
    let (url, folder) = (vhost("mails-logs"), folder());
    let mut command = command(folder.path(), &["--at-once", "1"], &url);
    let mailer = Terminal::start({
        command.env("LOG_FORMAT", "json");
        command
    });
    let event = || -> Value { serde_json::from_str(&mailer.line().unwrap()).unwrap() };
    assert_eq!(event()["message"], "Waiting for mails. To exit press CTRL+C");

    let said = lines("submit-mail", &["ann@example.org"], &url);
    let trace = said[0].split_once(", trace ").unwrap().1;
    assert!(trace.len() == 32 && trace != "0".repeat(32), "{trace}");
    for message in ["Received a mail to ann@example.org", "Sent the mail to ann@example.org"] {
        let event = event();
        assert_eq!((&event["message"], &event["level"]), (&message.into(), &"INFO".into()));
        assert_eq!(event["span"]["trace"], trace);
        assert!(
            mails(folder.path())[..]
                .iter()
                .all(|name| { name.strip_suffix(".eml") == event["span"]["id"].as_str() })
        );
    }
    let handled = event();
    assert_eq!((&handled["done"], &handled["redelivered"]), (&1.into(), &0.into()));
    assert_eq!(handled["span"]["trace"], trace);

    // the example of the W3C, from a program that we do not know; and one that is no trace
    let queue = Client::connect_with(&url, "mails").await;
    let example = "0af7651916cd43dd8448eb211c80319c";
    for (header, trace) in
        [(format!("00-{example}-b7ad6b7169203331-01"), Some(example)), ("00-x".to_owned(), None)]
    {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(header.into()));
        queue.publish_with(b"?", BasicProperties::default().with_headers(headers)).await;
        let refused = event();
        assert_eq!(
            (&refused["message"], &refused["level"]),
            (&"Refused: no message id".into(), &"WARN".into())
        );
        let got = refused["span"]["trace"].as_str().unwrap();
        assert!(trace.map_or(got.len() == 32, |trace| got == trace), "{got}");
        assert_eq!(event()["failed"], 1);
    }
    let (said, code) = ended(mailer, Signal::INT);
    let last: Value = serde_json::from_str(said.last().unwrap()).unwrap();
    assert_eq!((&last["message"], code), (&"Mails sent: 1, refused: 2".into(), Some(0)));
}

/// Live, ready and the numbers, while RabbitMQ comes and goes, and at the end.
#[test]
fn health_and_metrics() {
    let (servers, folder, address) = (breakable(), folder(), free_address());
    let url = servers.instance.amqp_url();
    let arguments = ["--health-listen", &address, "--takes", "3", "--at-once", "2"];
    let mailer = mailer(folder.path(), &arguments, &url);
    let ready = || get(&address, "/health/ready");
    let number = |name: &str| -> f64 {
        let (code, text) = get(&address, "/metrics");
        assert_eq!(code, 200);
        assert!(text.ends_with("# EOF\n"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    };
    assert_eq!(get(&address, "/health/live"), (200, "alive\n".to_owned()));
    assert_eq!(ready(), (200, "ready\n".to_owned()));
    assert_eq!((number("service_ready"), number("service_rabbitmq_connected")), (1.0, 1.0));
    lines("submit-mail", &["a@x", "b@x", "nobody"], &url);
    wait_until(LIMIT, || number("service_message_duration_seconds_count") == 3.0).unwrap();
    assert_eq!(number(r#"service_messages_total{outcome="done"}"#), 2.0);
    assert_eq!(number(r#"service_messages_total{outcome="failed"}"#), 1.0);
    assert!(number("service_message_duration_seconds_sum") >= 6.0);
    assert_eq!(number("service_messages_redelivered_total"), 0.0);

    servers.instance.stop(Service::Rabbitmq, false).unwrap();
    wait_until(LIMIT, || ready() == (503, "not ready\n".to_owned())).unwrap();
    assert_eq!((number("service_ready"), number("service_rabbitmq_connected")), (0.0, 0.0));
    assert_eq!(get(&address, "/health/live"), (200, "alive\n".to_owned()));
    servers.instance.start(&[Service::Rabbitmq], &lab::progress::Tasks::quiet()).unwrap();
    wait_until(LIMIT, || ready().0 == 200).unwrap();

    // somebody else listens there
    let (said, status) =
        Terminal::start(command(folder.path(), &["--health-listen", &address], &url)).finish();
    let error = format!("Error: cannot listen at {address} for health and metrics");
    assert!(said.len() == 1 && said[0].starts_with(&error) && !status.success(), "{said:?}");

    lines("submit-mail", &["c@x"], &url);
    while mailer.line().unwrap() != " [x] Received a mail to c@x" {}
    mailer.signal(Signal::TERM);
    mailer.expect(" [*] Stopping. Mails under way: 1");
    assert_eq!(ready(), (503, "stopping\n".to_owned()));
    let (said, status) = mailer.finish();
    assert_eq!(said[0], " [x] Sent the mail to c@x");
    assert!(status.success());
}

/// What is wrong in the environment is said in one line.
#[test]
fn settings_that_cannot_be() {
    let folder = folder();
    for (variable, value, why) in [
        ("RUST_LOG", "a=b=c", "RUST_LOG must look like info,lapin=debug"),
        ("HEALTH_LISTEN", "nonsense", "cannot listen at nonsense"),
        ("LOG_FORMAT", "xml", "possible values: text, json"),
        ("MAIL_AT_ONCE", "0", "0 is not in 1..=65535"),
    ] {
        let mut command = command(folder.path(), &[], &shared().amqp_url());
        command.env(variable, value);
        let (said, status) = Terminal::start(command).finish();
        assert!(said.iter().any(|line| line.contains(why)) && !status.success(), "{said:?}");
    }
}
