//! The exercises: what is handed out is refused with the words that its check promises, the
//! solution passes, and so do no other mistakes.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::{fs, io};

use lab::exercise::{EXERCISES, Exercise};
use lab::play::INSTANCE;
use lab::process::cargo;
use lab::servers::{Instance, Service};
use lab::{lessons, root};

use crate::all_starters::{PROFILE, target};
use crate::support::{Folder, Servers, Terminal, lab, shared};

/// What a program is refused with.
struct Case {
    exercise: &'static str,
    /// As it is handed out.
    handed_out: &'static str,
    /// A mistake: what stands in the solution and what stands here instead; and the words.
    mistakes: &'static [(&'static [(&'static str, &'static str)], &'static str)],
}

const CASES: [Case; 28] = [
    Case {
        exercise: "hello-confirm",
        handed_out: "`Sent` was said of 5, 2 are there",
        mistakes: &[
            (
                &[
                    ("other => bail!(", "_ => say!(\" [x] Sent {message}\")?,"),
                    ("\"the broker did not take the message: {other:?}\"),", ""),
                    ("use anyhow::bail;", ""),
                ],
                "`Sent` was said of 5, 2 are there",
            ),
            (&[("other => bail!(", "other => common::note!(")], "ended with exit code 0"),
        ],
    },
    Case {
        exercise: "hello-mandatory",
        handed_out: "`Sent` was said, and it is lost",
        mistakes: &[(
            &[("Ack(None) => say!", "Ack(_) => say!"), ("Confirmation::Ack(Some(_)) =>", "_ =>")],
            "`Sent` was said, and it is lost",
        )],
    },
    Case {
        exercise: "hello-acknowledge",
        handed_out: "killed after 3: 3 done, 7 lost, 0 still in the queue",
        mistakes: &[
            (
                &[(
                    "delivery.ack(BasicAckOptions::default()).await?;",
                    "let _ = BasicAckOptions::default();",
                )],
                "10 done, 0 lost, 10 still in the queue",
            ),
            (
                &[
                    ("delivery.ack(BasicAckOptions::default()).await?;", ""),
                    ("sleep(Dur", "delivery.ack(BasicAckOptions::default()).await?; sleep(Dur"),
                ],
                "9 done, 1 lost",
            ),
        ],
    },
    Case {
        exercise: "tasks-after-work",
        handed_out: "killed in the middle of `task 2`: 4 done, 1 lost",
        mistakes: &[(
            &[(
                "task.ack(BasicAckOptions::default()).await?;",
                "let _ = BasicAckOptions::default();",
            )],
            "no second task: has the worker acknowledged the first one?",
        )],
    },
    Case {
        exercise: "tasks-prefetch",
        handed_out: "the worker that was there did 10, the one that came later 0",
        mistakes: &[(
            &[
                ("channel.basic_qos(1, BasicQosOptions::default()).await?;", ""),
                (
                    "say!(\" [*]",
                    "channel.basic_qos(1, BasicQosOptions::default()).await?;say!(\" [*]",
                ),
            ],
            "the one that came later 0",
        )],
    },
    Case {
        exercise: "tasks-put-back",
        handed_out: "Ctrl-C in the middle of `task 2`: 1 done, 1 in the queue, 1 lost",
        mistakes: &[(&[("requeue: true", "requeue: false")], "1 lost")],
    },
    Case {
        exercise: "tasks-restart",
        handed_out: "the broker is restarted: 0 are there",
        mistakes: &[(&[("with_delivery_mode(2)", "with_delivery_mode(1)")], "0 are there")],
    },
    Case {
        exercise: "logs-own-queue",
        handed_out: "one received 5, the other 5",
        mistakes: &[(
            &[("queue_declare(\"\"", "queue_declare(\"logs\"")],
            "has not said `[*] Waiting`",
        )],
    },
    Case {
        exercise: "logs-ready",
        handed_out: "the first one was",
        mistakes: &[
            (
                &[
                    ("say!(\" [*] Waiting\")?;", ""),
                    ("let exclusive", "say!(\" [*] Waiting\")?; let exclusive"),
                ],
                "the first one was",
            ),
            (
                &[
                    ("say!(\" [*] Waiting\")?;", ""),
                    ("let options = QueueBind", "say!(\" [*] Waiting\")?; let options = QueueBind"),
                ],
                "the first one was",
            ),
        ],
    },
    Case {
        exercise: "routing-severities",
        handed_out: "missing: `a line, error`",
        mistakes: &[(
            &[("in &severities", "in severities.iter().skip(1)")],
            "missing: `a line, warning`",
        )],
    },
    Case {
        exercise: "routing-pattern",
        handed_out: "missing: `eu.order`, `eu.order.item.added`, `eu.order.a.b.c`",
        mistakes: &[
            (&[("eu.order.#", "eu.#")], "not asked for: `eu.customer.created`, `eu.orders.sent`"),
            (&[("eu.order.#", "eu.*.*")], "missing: `eu.order`, `eu.order.item.added`"),
        ],
    },
    Case {
        exercise: "routing-headers",
        handed_out: "not asked for: `a report, text`, `a letter, PDF`, `a PDF`",
        mistakes: &[(
            &[(", (\"type\", \"report\")", "")],
            "not asked for: `a letter, PDF`, `a PDF`",
        )],
    },
    Case {
        exercise: "orders-twice",
        handed_out: "7 rows",
        mistakes: &[
            (
                &[
                    (
                        "message_id VARCHAR(36) NOT NULL PRIMARY KEY",
                        "message_id VARCHAR(36) NOT NULL",
                    ),
                    ("item VARCHAR(20) NOT NULL", "item VARCHAR(20) NOT NULL PRIMARY KEY"),
                ],
                "4 rows; 2 are for a book: 1 rows",
            ),
            (
                &[
                    (
                        "message_id VARCHAR(36) NOT NULL PRIMARY KEY",
                        "message_id VARCHAR(36) NOT NULL",
                    ),
                    ("    ON DUPLICATE KEY UPDATE message_id = message_id", ""),
                    (
                        "let (options",
                        "let mut seen = std::collections::HashSet::new(); let (options",
                    ),
                    (
                        "pool.get_conn().await?.exec",
                        "if seen.insert(id.to_owned()) { pool.get_conn().await?.exec",
                    ),
                    ("(id, item)).await?;", "(id, item)).await?; }"),
                ],
                "7 rows",
            ),
        ],
    },
    Case {
        exercise: "orders-commit",
        handed_out: "stored: `lamp`, `pen`; lost: 1",
        mistakes: &[
            (&[("transaction.commit().await?;", "drop(transaction);")], "lost: 3"),
            (
                &[
                    ("order.ack(BasicAckOptions::default()).await?;", ""),
                    (
                        "transaction.commit()",
                        "order.ack(BasicAckOptions::default()).await?; transaction.commit()",
                    ),
                ],
                "killed before its COMMIT: 0 stored",
            ),
        ],
    },
    Case {
        exercise: "orders-poison",
        handed_out: "stored, 0 in `orders.dead`",
        mistakes: &[(
            &[
                ("use common::mysql::is_fault_of_data;", ""),
                (" if is_fault_of_data(&error.state, error.code)", ""),
            ],
            "while the table was away for a moment: 0 stored, 1 in `orders.dead`",
        )],
    },
    Case {
        exercise: "products-outbox",
        handed_out: "without the table `outbox`: products: 2, events: 1",
        mistakes: &[(
            &[
                (", TxOpts}", "}"),
                ("pool.start_transaction(TxOpts::default())", "pool.get_conn()"),
                ("exec_drop(PRODUCT", "exec_drop(EVENT"),
                (
                    "exec_drop(EVENT, (&title,)).await?;\n    transaction.commit()",
                    "exec_drop(PRODUCT, (&title,))",
                ),
                ("pool.disconnect()", "drop(transaction);pool.disconnect()"),
            ],
            "without the table `products`: products: 1, events: 2",
        )],
    },
    Case {
        exercise: "products-inbox",
        handed_out: "one of which came twice: 4 counted",
        mistakes: &[
            (
                &[
                    (", TxOpts}", "}"),
                    ("pool.start_transaction(TxOpts::default())", "pool.get_conn()"),
                    ("transaction.commit().await?;", ""),
                ],
                "MySQL cut off in the middle of it: 3 counted",
            ),
            (
                &[
                    ("like.ack(BasicAckOptions::default()).await?;", ""),
                    (
                        "transaction.commit()",
                        "like.ack(BasicAckOptions::default()).await?; transaction.commit()",
                    ),
                ],
                "killed before its COMMIT: 4 counted",
            ),
        ],
    },
    Case {
        exercise: "jobs-attempts",
        handed_out: "parked: none",
        mistakes: &[
            (&[("attempts < 3", "attempts <= 3")], "received 4 and 4 times"),
            (
                &[
                    (
                        "let (options",
                        "let mut known = std::collections::HashMap::new(); let (options",
                    ),
                    (
                        "let attempts = attempts(&job) + 1;",
                        "let attempts = known.entry(job.data.clone()).or_insert(0); *attempts += 1; \
                         let attempts = *attempts;",
                    ),
                ],
                "received 4 and 4 times",
            ),
        ],
    },
    Case {
        exercise: "jobs-safe",
        handed_out: "lost: 2",
        mistakes: &[(
            &[(
                "matches!(confirm.await?, Confirmation::Ack(None))",
                "!matches!(confirm.await?, Confirmation::NotRequested)",
            )],
            "lost: 2",
        )],
    },
    Case {
        exercise: "jobs-pause",
        handed_out: "no job is there",
        mistakes: &[(
            &[("queue.as_str().into(), mandatory", "\"jobs\".into(), mandatory")],
            "`slow` came",
        )],
    },
    Case {
        exercise: "rpc-correlate",
        handed_out: "fib(10) = nobody asked",
        mistakes: &[(
            &[("Uuid::now_v7().to_string()", "\"1\".to_owned()"), ("use uuid::Uuid;", "")],
            "in reverse order: fib(30) = the answer to 30",
        )],
    },
    Case {
        exercise: "rpc-deadline",
        handed_out: "the program has not ended after 6 s",
        mistakes: &[(
            &[("from_secs(3)", "from_millis(200)")],
            "nobody answers: the program ended after 0.",
        )],
    },
    Case {
        exercise: "stream-from",
        handed_out: "5 after: read: `event 6`",
        mistakes: &[(&[("\"first\"", "\"last\"")], "5 after: read: `event 5`")],
    },
    Case {
        exercise: "stream-offset",
        handed_out: "never done: `event 6`",
        mistakes: &[(
            &[("store(&file, offset(&event)? + 1)?;", "")],
            "done twice: 5: it did not go on where it was",
        )],
    },
    Case {
        exercise: "steady-again",
        handed_out: "`Confirmed` was said of",
        mistakes: &[(
            &[
                ("note!(\" [!] {message} is refused\")", "bail!(\"{message} is refused\")"),
                ("note, ", ""),
            ],
            // Beside many other programs, RabbitMQ may take one more than the queue's length.
            "6 messages for a queue that takes 2 at a time: `Confirmed` was said of",
        )],
    },
    Case {
        exercise: "steady-addresses",
        handed_out: "the first node is away: 0 sent",
        mistakes: &[(&[("split(',')", "split(',').skip(1)")], "the second node is away: 0 sent")],
    },
    Case {
        exercise: "mails-not-now",
        handed_out: "3 mails, and no folder: 0 in the queue, 3 gone",
        mistakes: &[
            (
                &[("backoff.wait().await;", "break;")],
                "3 mails, and no folder: 0 in the queue, 3 gone",
            ),
            (
                &[
                    (
                        "let mut backoff",
                        "mail.ack(BasicAckOptions::default()).await?; let mut backoff",
                    ),
                    (
                        "{name}\")?;\n        mail.ack(BasicAckOptions::default()).await?;",
                        "{name}\")?;",
                    ),
                ],
                "3 mails, and no folder: 2 in the queue, 1 gone",
            ),
        ],
    },
    Case {
        exercise: "mails-trace",
        handed_out: "of 2 orders with a trace, 0 mails have it",
        mistakes: &[(
            &[("trace.clone()", "AMQPValue::LongString(\"00-1-1-01\".into())")],
            "of 2 orders with a trace, 0 mails have it",
        )],
    },
];

fn exercise(name: &str) -> &'static Exercise {
    EXERCISES.iter().find(|exercise| exercise.0 == name).unwrap()
}

/// All programs, compiled: those that are handed out, the solutions, the mistakes, and the check.
/// They are modules of one program, and links say which one it is to be: to compile and to link
/// each for itself takes four times as long.
static COMPILED: LazyLock<Folder> = LazyLock::new(|| {
    let (package, target) = (Folder::temporary(), target());
    fs::create_dir(package.path().join("src")).unwrap();
    fs::create_dir_all(target.path().join("debug")).unwrap();
    let (mut modules, mut names) = (String::new(), String::new());
    let mut write = |exercise: &str, kind: &str, text: &str| {
        let name = format!("{exercise}-{kind}");
        let module = name.replace('-', "_");
        let text = text.replacen("\nasync fn main()", "\npub async fn main()", 1);
        let text = text.replace("env!(\"CARGO_BIN_NAME\")", &format!("{name:?}"));
        fs::write(package.path().join(format!("src/{module}.rs")), text).unwrap();
        modules += &format!("mod {module};\n");
        names += &format!("        {name:?} => {module}::main(),\n");
        symlink("exercises", target.path().join("debug").join(name)).unwrap();
    };
    for case in &CASES {
        let exercise = exercise(case.exercise);
        let task = fs::read_to_string(exercise.in_folder("tasks")).unwrap();
        write(case.exercise, "task", &task);
        let solution = fs::read_to_string(exercise.in_folder("solutions")).unwrap();
        write(case.exercise, "solution", &solution);
        let (_header, solution) = solution.split_once("\n\n").unwrap();
        for (number, (changes, _)) in case.mistakes.iter().enumerate() {
            let mistake = changes.iter().fold(solution.to_owned(), |text, (old, new)| {
                assert!(text.contains(old), "{}: {old}", case.exercise);
                text.replacen(old, new, 1)
            });
            write(case.exercise, &format!("mistake{number}"), &mistake);
        }
    }
    let main = format!(
        "#![allow(unused)] // mistakes leave something over
{modules}
fn main() {{
    let program = std::env::args().next().unwrap();
    match program.rsplit('/').next().unwrap() {{
{names}        _ => panic!(),
    }}
}}
"
    );
    fs::write(package.path().join("src/main.rs"), main).unwrap();
    let manifest = fs::read_to_string(root().join("exercises/Cargo.toml")).unwrap();
    let absolute = |path: &str| format!("{:?}", root().canonicalize().unwrap().join(path));
    let manifest = manifest
        .replace("\"../common\"", &absolute("common"))
        .replace("\"check/main.rs\"", &absolute("exercises/check/main.rs"));
    fs::write(package.path().join("Cargo.toml"), manifest + "[workspace]\n").unwrap();
    fs::copy(root().join("Cargo.lock"), package.path().join("Cargo.lock")).unwrap();
    let mut build = cargo();
    build.current_dir(package.path()).env("CARGO_TARGET_DIR", target.path());
    build.args(["build", "--quiet", "--offline", "--config", "profile.dev.debug=false"]);
    assert!(build.args(PROFILE).status().unwrap().success());
    target
});

/// Checks a program on these servers: what is said, and the exit code.
fn check(instance: &Instance, exercise: &str, kind: &str, number: usize) -> (String, Option<i32>) {
    let folder = COMPILED.path().join("debug");
    let mut said = String::new();
    for attempt in 0..5 {
        let name = format!("{exercise}-{kind}-{number}-{attempt}");
        let mut check = Command::new(folder.join("check-exercise"));
        check.arg(exercise).arg(folder.join(format!("{exercise}-{kind}")));
        check.env("AMQP_URL", instance.create_vhost(&name).unwrap());
        check
            .env("MYSQL_URL", instance.mysql_url())
            .env("LAB", lab())
            .env(INSTANCE, &instance.folder);
        let (lines, status) = Terminal::start(check).finish();
        said = lines.join("\n");
        if status.code() != Some(2) {
            return (said, status.code());
        }
    }
    (said, Some(2))
}

/// Both ways, each solution five times.
#[test]
fn each_is_refused_and_each_solution_passes() {
    let names: Vec<_> = CASES.iter().map(|case| case.exercise).collect();
    assert_eq!(names, EXERCISES.each_ref().map(|exercise| exercise.0));
    LazyLock::force(&COMPILED);
    let cases = Mutex::new(CASES.iter().collect::<Vec<_>>());
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = { cases.lock().unwrap().pop() } {
                    let found = try_out(case);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is not as it should be.
fn try_out(case: &Case) -> Vec<String> {
    let name = case.exercise;
    let mut wrong = Vec::new();
    // it restarts the broker
    let own = (name == "tasks-restart").then(|| Servers::start(&[Service::Rabbitmq]));
    let instance = own.as_ref().map_or(shared(), |servers| &servers.instance);
    let mut refused = |kind: &str, words: &str| {
        let (said, code) = check(instance, name, kind, 0);
        if !said.contains(words) || code != Some(1) {
            wrong.push(format!("{name}, {kind}: {code:?}: {said}"));
        }
    };
    refused("task", case.handed_out);
    for (number, (_, words)) in case.mistakes.iter().enumerate() {
        refused(&format!("mistake{number}"), words);
    }
    for number in 0..5 {
        let (said, code) = check(instance, name, "solution", number);
        if code != Some(0) {
            wrong.push(format!("{name}, solution: {code:?}: {said}"));
        }
    }
    wrong
}

/// What is said of names that are wrong, of hints, and to nobody.
#[test]
fn what_the_command_says() {
    let lab = |arguments: &[&str]| {
        let mut command = Command::new(lab());
        command.arg("exercise").args(arguments);
        let (lines, status) = Terminal::start(command).finish();
        (lines, status.code())
    };
    let (lines, code) = lab(&["hello-confrim"]);
    assert_eq!(code, Some(1));
    let near = "hello-confirm, hello-mandatory, hello-acknowledge";
    let expected =
        format!("Error: there is no exercise `hello-confrim`; did you mean one of {near}?");
    assert_eq!(lines, [expected]);
    let (lines, code) = lab(&["-"]);
    assert_eq!(code, Some(1));
    assert_eq!(lines, ["Error: there is no exercise `-`: see `cargo lab exercise`"]);
    for Exercise(name) in &EXERCISES {
        let (lines, code) = lab(&["--hint", name]);
        assert_eq!((lines[0].as_str(), code), (*name, Some(0)));
        assert!(lines[1].starts_with("Hint: "), "{lines:?}");
        let (lines, code) = lab(&["--solution", name]);
        assert!(lines.iter().any(|line| line.starts_with("//! Why: ")), "{name}");
        assert_eq!(code, Some(0));
    }
    assert_eq!(lab(&["--hint", "--solution"]).1, Some(2));
    assert_eq!(lab(&["--watch", "hello-confirm"]).1, Some(2));
    assert_eq!(lab(&["--reset"]).1, Some(2));

    // who reads no further (`| head -1`) has not met an error
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(crate::support::lab());
    command.args(["exercise", "--hint", "hello-confirm"]).stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(
        (String::from_utf8_lossy(&output.stderr), output.status.code()),
        ("".into(), Some(1))
    );
}

/// The section of a lesson that each exercise names is there.
#[test]
fn the_help_is_there() {
    let mut sections: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for exercise in &EXERCISES {
        let text = fs::read_to_string(exercise.in_folder("tasks")).unwrap();
        let header = text.lines().map_while(|line| line.strip_prefix("//!"));
        let header = header.map(str::trim).collect::<Vec<_>>().join(" ");
        let help = header.split("Help: ").nth(1).unwrap();
        let (page, rest) = help.split_once(", ").unwrap();
        let page = root().join(Path::new(page));
        let text = fs::read_to_string(&page).unwrap();
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let headings: Vec<_> = headings.map(|line| line.trim_start_matches('#').trim()).collect();
        for section in rest.split('"').skip(1).step_by(2) {
            assert!(headings.contains(&section), "{}: {section}", exercise.0);
            sections.entry(page.clone()).or_default().push(section.to_owned());
        }
    }
    for folder in lessons().unwrap() {
        let page = folder.join("README.md");
        assert!(sections.get(&page).is_some_and(|sections| sections.len() > 1), "{folder:?}");
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.contains("[exercises](../exercises/README.md)"), "{folder:?}");
    }
}
