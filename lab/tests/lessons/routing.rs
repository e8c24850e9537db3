//! Lesson 04: receivers that choose.

use std::fs;
use std::process::Command;

use lab::process::wait_until;
use lab::progress::Tasks;
use lab::root;
use lab::servers::Service;

use crate::support::{
    AGAIN, Folder, LIMIT, LOST, NONE, Terminal, breakable, lines, output, program, vhost,
};

fn receiver(name: &str, arguments: &[&str], url: &str) -> Terminal {
    let receiver = Terminal::run(name, arguments, url);
    receiver.expect_queue();
    receiver
}

#[test]
fn direct() {
    let url = vhost("direct");
    let errors = receiver("receive-logs-direct", &["error"], &url);
    let all = receiver("receive-logs-direct", &["info", "warning", "error"], &url);
    for severity in ["info", "debug", "error", "ERROR", "", "warning"] {
        let sent = lines("emit-log-direct", &[severity, "The", "disk"], &url);
        assert_eq!(sent, [format!(" [x] Sent {severity}: The disk")]);
    }
    lines("emit-log-direct", &["error"], &url);
    for severity in ["info", "error", "warning"] {
        all.expect(&format!(" [x] Received {severity}: The disk"));
    }
    errors.expect(" [x] Received error: The disk");
    for receiver in [errors, all] {
        receiver.expect(" [x] Received error: Hello World!");
        receiver.interrupt();
    }
}

/// One receiver writes errors to a file, and nothing but errors.
#[test]
fn errors_to_a_file() {
    let url = vhost("errors_to_a_file");
    let folder = Folder::temporary();
    let file = folder.path().join("errors.txt");
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" error > \"$1\""])
        .arg(program("receive-logs-direct"))
        .arg(&file)
        .env("AMQP_URL", &url);
    let errors = Terminal::start(command);
    errors.expect_queue();
    for severity in ["info", "error", "warning", "error"] {
        lines("emit-log-direct", &[severity, "The disk"], &url);
    }
    let expected = " [x] Received error: The disk\n".repeat(2);
    wait_until(LIMIT, || fs::read_to_string(&file).unwrap() == expected).unwrap();
    errors.interrupt();
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
}

/// The table of the README: its patterns, and for each key whether they match.
fn table() -> (Vec<String>, Vec<(String, Vec<bool>)>) {
    let readme = fs::read_to_string(root().join("04-routing/README.md")).unwrap();
    let mut rows = readme
        .lines()
        .skip_while(|line| !line.starts_with("| | `"))
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>()
        });
    let patterns = rows.next().unwrap().split_off(1);
    let keys = rows.skip(1).map(|mut row| {
        let cells = row.split_off(1);
        let cells = cells.iter().map(|cell| match cell.as_str() {
            "yes" => true,
            "-" => false,
            other => panic!("{other} in the table"),
        });
        (row.remove(0), cells.collect())
    });
    let keys = keys.collect();
    (patterns, keys)
}

#[test]
fn topic_as_the_table_says() {
    let url = vhost("topic");
    let (patterns, keys) = table();
    assert!(patterns.len() >= 10 && keys.len() >= 8);
    // Each has the key `the.last.one.of.all` too, so that it is known when there is no more to
    // come.
    const LAST: &str = "the.last.one.of.all";
    let receivers: Vec<_> = patterns
        .iter()
        .map(|pattern| receiver("receive-logs-topic", &[pattern, LAST], &url))
        .collect();
    for (key, _) in &keys {
        lines("emit-log-topic", &[key, "Hello"], &url);
    }
    lines("emit-log-topic", &[LAST, "Hello"], &url);
    for (index, receiver) in receivers.into_iter().enumerate() {
        let matching = keys.iter().filter(|(_, cells)| cells[index]).map(|(key, _)| key.as_str());
        for key in matching.chain([LAST]) {
            let pattern = &patterns[index];
            let line = receiver.line();
            let expected = format!(" [x] Received {key}: Hello");
            assert_eq!(line.as_deref(), Some(expected.as_str()), "pattern {pattern}");
        }
        receiver.interrupt();
    }
}

#[test]
fn topic_with_several_patterns() {
    let url = vhost("topic_patterns");
    let receiver = receiver("receive-logs-topic", &["kern.*", "*.critical", "kern.*"], &url);
    for key in ["kern.critical", "cron.info", "", "kern.", "...", "cron.critical"] {
        assert_eq!(lines("emit-log-topic", &[key, "x"], &url), [format!(" [x] Sent {key}: x")]);
    }
    for key in ["kern.critical", "kern.", "cron.critical"] {
        receiver.expect(&format!(" [x] Received {key}: x")); // once, whatever matches
    }
    receiver.interrupt();
}

#[test]
fn headers() {
    let url = vhost("headers");
    let wanted = ["part=disk", "level=error"];
    let all = receiver("receive-logs-headers", &["all", wanted[0], wanted[1]], &url);
    let any = receiver("receive-logs-headers", &["any", wanted[0], wanted[1]], &url);
    for (line, headers, _) in HEADERS {
        let sent = lines("emit-log-headers", &[&[line], headers].concat(), &url);
        assert_eq!(sent, [format!(" [x] Sent {line}")]);
    }
    for (line, _, matching) in HEADERS {
        if matching.contains("all") {
            all.expect(&format!(" [x] Received {line}"));
        }
        if matching.contains("any") {
            any.expect(&format!(" [x] Received {line}"));
        }
    }
    all.interrupt();
    any.interrupt();
}

/// A line, its headers, and how they match part=disk and level=error. The last one matches both
/// ways.
const HEADERS: [(&str, &[&str], &str); 8] = [
    ("both", &["part=disk", "level=error"], "all any"),
    ("first", &["part=disk", "level=info"], "any"),
    ("second", &["level=error"], "any"),
    ("none", &["part=fan", "level=info"], ""),
    ("no headers", &[], ""),
    ("other case", &["part=Disk", "Level=error"], ""),
    ("exchanged", &["part=error", "level=disk"], ""),
    ("more", &["host=a=b", "level=error", "empty=", "part=disk"], "all any"),
];

#[test]
fn wrong_usage() {
    let url = "amqp://localhost:1";
    let long = "x".repeat(256);
    let cases: [(&str, &[&[&str]]); 6] = [
        ("emit-log-direct", &[&[], &[&long]]),
        ("receive-logs-direct", &[&[], &["error", &long]]),
        ("emit-log-topic", &[&[], &[&long, "Hello"]]),
        ("receive-logs-topic", &[&[], &[&long]]),
        ("emit-log-headers", &[&[], &["Hello", "=x"], &["Hello", "x-match=any"]]),
        (
            "receive-logs-headers",
            &[
                &[],
                &["all"],
                &["some", "a=b"],
                &["a=b"],
                &["any", "a"],
                &["any", "=b"],
                &["any", "x-a=b"],
            ],
        ),
    ];
    for (program, wrong) in cases {
        for arguments in wrong {
            let (lines, code) = output(program, arguments, url);
            assert_eq!(code, Some(2), "{program} {arguments:?}: {lines:?}");
            assert!(lines[0].starts_with("error: "), "{lines:?}");
        }
        let (lines, _) = output(program, &NONE, url);
        let usage = format!("Usage: {program} ");
        assert!(lines.iter().any(|line| line.starts_with(&usage)), "{lines:?}");
        assert_eq!(output(program, &["--help"], url).1, Some(0));
    }
    for program in ["emit-log-headers", "receive-logs-headers"] {
        let (lines, code) = output(program, &["any", "a=1", "a=2"], url);
        assert_eq!(lines, ["error: the header `a` is given twice"]);
        assert_eq!(code, Some(2));
    }
}

#[test]
fn receivers_outlive_a_broker() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let receivers = [
        receiver("receive-logs-direct", &["info", "error"], &url),
        receiver("receive-logs-topic", &["kern.*", "#.critical"], &url),
        receiver("receive-logs-headers", &["any", "a=1", "b=2"], &url),
    ];
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    for receiver in &receivers {
        receiver.expect(LOST);
    }
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    for receiver in &receivers {
        receiver.expect(AGAIN);
        receiver.expect_queue();
    }
    for (index, program, arguments, shown) in [
        (0, "emit-log-direct", ["error", "x"], "error: x"),
        (0, "emit-log-direct", ["info", "x"], "info: x"),
        (1, "emit-log-topic", ["kern.info", "x"], "kern.info: x"),
        (1, "emit-log-topic", ["critical", "x"], "critical: x"),
        (2, "emit-log-headers", ["x", "a=1"], "x"),
        (2, "emit-log-headers", ["x", "b=2"], "x"),
    ] {
        lines(program, &arguments, &url);
        receivers[index].expect(&format!(" [x] Received {shown}"));
    }
    for receiver in receivers {
        receiver.interrupt();
    }
}
