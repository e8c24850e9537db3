//! Lesson 02: tasks and workers.

use std::time::{Duration, Instant};

use lab::progress::Tasks;
use lab::servers::Service;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use rustix::process::Signal;

use crate::support::{
    AGAIN, Client, LIMIT, LOST, NONE, Terminal, WAITING, breakable, lines, output, shared, vhost,
    wait_for_messages,
};

fn worker<S: AsRef<std::ffi::OsStr>>(arguments: &[S], url: &str) -> Terminal {
    let worker = Terminal::run("worker", arguments, url);
    worker.expect(WAITING);
    worker
}

/// Interrupts a worker: how many tasks it says it has done. It must say nothing else.
fn stop(worker: Terminal) -> usize {
    stop_at(worker, &[])
}

/// Interrupts a worker that must say this, and then how many tasks it has done.
fn stop_at(worker: Terminal, said: &[&str]) -> usize {
    worker.signal(Signal::INT);
    let (mut lines, status) = worker.finish();
    let last = lines.pop().unwrap();
    assert_eq!((lines, status.code()), (said.iter().map(ToString::to_string).collect(), Some(0)));
    let done = last.strip_prefix(" [*] Tasks done: ").unwrap();
    done.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_task_takes_a_second_for_each_dot() {
    let url = vhost("dots");
    let worker = worker(&NONE, &url);
    assert_eq!(lines("new-task", &NONE, &url), [" [x] Sent Hello World!"]);
    worker.expect(" [x] Received Hello World!");
    worker.expect(" [x] Done");
    let start = Instant::now();
    lines("new-task", &["A.", "task."], &url);
    worker.expect(" [x] Received A. task.");
    worker.expect(" [x] Done");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert_eq!(stop(worker), 2);
}

#[tokio::test]
async fn tasks_are_dealt_out_in_turn() {
    let url = vhost("in_turn");
    let client = Client::of_tasks(&url).await;
    let workers = [0, 1].map(|_| worker(&["--prefetch", "0"], &url));
    for number in 1..=20 {
        client.publish(format!("Task {number}").as_bytes()).await;
    }
    for (worker, numbers) in workers.iter().zip([[1, 3, 5, 7, 9], [2, 4, 6, 8, 10]]) {
        for number in numbers.into_iter().chain(numbers.map(|number| number + 10)) {
            worker.expect(&format!(" [x] Received Task {number}"));
            worker.expect(" [x] Done");
        }
    }
    for worker in workers {
        assert_eq!(stop(worker), 10);
    }
    client.wait_for_waiting(0).await;
    client.close().await;
}

/// How long two workers need for eight tasks of which each odd one is long and each even one short.
async fn time_of(prefetch: &str) -> Duration {
    let url = vhost(&format!("prefetch_{prefetch}"));
    let client = Client::of_tasks(&url).await;
    let workers = [0, 1].map(|_| worker(&["--prefetch", prefetch], &url));
    let start = Instant::now();
    for task in ["1 ..", "2", "3 ..", "4", "5 ..", "6", "7 ..", "8"] {
        client.publish(task.as_bytes()).await;
    }
    client.close().await;
    let mut done = 0;
    while done < 8 {
        assert!(start.elapsed() < LIMIT, "{done} tasks are done");
        for worker in &workers {
            let line = worker.line_within(Duration::from_millis(10));
            done += usize::from(line.as_deref() == Some(" [x] Done"));
        }
    }
    let took = start.elapsed();
    assert_eq!(workers.map(stop).iter().sum::<usize>(), 8);
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fair_dispatch_ends_sooner() {
    let (in_turn, fair) = tokio::join!(tokio::spawn(time_of("0")), tokio::spawn(time_of("1")));
    let (in_turn, fair) = (in_turn.unwrap(), fair.unwrap());
    println!("round-robin: {in_turn:.1?}; fair dispatch: {fair:.1?}");
    assert!(in_turn >= Duration::from_secs(8), "{in_turn:?}");
    assert!(fair.mul_f64(1.5) < in_turn, "{fair:?}, {in_turn:?}");
}

#[tokio::test]
async fn the_task_of_a_killed_worker_goes_to_another() {
    let url = vhost("killed_worker");
    let client = Client::of_tasks(&url).await;
    let first = worker(&NONE, &url);
    let second = worker(&NONE, &url);
    client.publish(b"long .....").await;
    first.expect(" [x] Received long .....");
    first.signal(Signal::KILL);
    second.expect(" [x] Received long ..... (redelivered)");
    second.expect(" [x] Done");
    assert_eq!(first.finish().0, NONE);
    assert_eq!(stop(second), 1);
    client.wait_for_waiting(0).await;
    client.close().await;
}

#[tokio::test]
async fn with_automatic_acknowledgement_the_tasks_of_a_killed_worker_are_lost() {
    let url = vhost("auto_ack");
    let client = Client::of_tasks(&url).await;
    let first = worker(&["--auto-ack"], &url);
    for task in ["long .....", "two", "three"] {
        client.publish(task.as_bytes()).await;
    }
    first.expect(" [x] Received long .....");
    client.wait_for_waiting(0).await;
    first.signal(Signal::KILL);
    assert_eq!(first.finish().0, NONE);
    let second = worker(&NONE, &url);
    client.publish(b"four").await;
    second.expect(" [x] Received four");
    second.expect(" [x] Done");
    assert_eq!(stop(second), 1);
    client.close().await;
}

#[tokio::test]
async fn ctrl_c_puts_the_tasks_back_at_once() {
    let url = vhost("ctrl_c");
    let client = Client::of_tasks(&url).await;
    for task in ["long ..........", "two", "three"] {
        client.publish(task.as_bytes()).await;
    }
    let first = worker(&["--prefetch", "2"], &url);
    first.expect(" [x] Received long ..........");
    let start = Instant::now();
    assert_eq!(stop_at(first, &[" [ ] Put back: long .........."]), 0);
    assert!(start.elapsed() < Duration::from_secs(3));
    client.wait_for_waiting(3).await;
    // Some order, but both of the two that the first worker had are marked.
    let second = worker(&["--auto-ack"], &url);
    let mut marked = 0;
    let mut received = Vec::new();
    while received.len() < 3 {
        let line = second.line().unwrap();
        let Some(task) = line.strip_prefix(" [x] Received ") else {
            continue;
        };
        marked += usize::from(task.ends_with(" (redelivered)"));
        received.push(task.replace(" (redelivered)", ""));
    }
    received.sort();
    assert_eq!(received, ["long ..........", "three", "two"]);
    assert_eq!(marked, 2);
    client.close().await;
}

/// RabbitMQ 4 drops a message whose consumer fails more than 20 times. To be stopped is no failure,
/// except for RabbitMQ 4.0 to 4.2.
#[tokio::test]
async fn a_task_outlives_that_its_worker_is_stopped_often() {
    let url = vhost("stopped_often");
    let version = shared().management().version().unwrap();
    let counts = ((4, 0)..(4, 3)).contains(&version);
    let times = if counts { 20 } else { 25 };
    let client = Client::of_tasks(&url).await;
    client.publish(b"long ..........").await;
    for round in 0..times {
        let worker = worker(&["--prefetch", "3"], &url);
        let again = if round == 0 { "" } else { " (redelivered)" };
        worker.expect(&format!(" [x] Received long ..........{again}"));
        stop_at(worker, &[" [ ] Put back: long .........."]);
    }
    client.wait_for_waiting(1).await;
    client.close().await;
}

#[tokio::test]
async fn any_body_is_a_task() {
    let url = vhost("any_task");
    let client = Client::of_tasks(&url).await;
    let worker = worker(&NONE, &url);
    for (body, shown) in [
        (&b""[..], ""),
        (b"\xff.\xfe", "\\xff.\\xfe"),
        ("\u{1b}[2J你好".as_bytes(), "\\u{1b}[2J你好"),
    ] {
        client.publish(body).await;
        worker.expect(&format!(" [x] Received {shown}"));
        worker.expect(" [x] Done");
    }
    assert_eq!(stop(worker), 3);
    client.close().await;
}

#[tokio::test]
async fn wrong_usage_and_a_queue_of_another_kind() {
    let url = vhost("other_tasks");
    for arguments in [
        &["--prefetch", "-1"][..],
        &["--prefetch", "65536"],
        &["--prefetch", "1", "--auto-ack"],
        &["more"],
    ] {
        let (lines, code) = output("worker", arguments, &url);
        assert_eq!(code, Some(2), "{lines:?}");
    }
    for program in ["new-task", "worker"] {
        let (help, code) = output(program, &["--help"], &url);
        assert_eq!(code, Some(0));
        assert!(help.iter().any(|line| line.starts_with("Usage: ")));
    }

    let client = Client::connect(&url).await;
    let classic = QueueDeclareOptions::durable();
    client
        .channel
        .queue_declare("task_queue".into(), classic, FieldTable::default())
        .await
        .unwrap();
    for program in ["new-task", "worker"] {
        let (lines, code) = output(program, &NONE, &url);
        assert_eq!((lines.len(), code), (1, Some(1)), "{lines:#?}");
        assert!(
            lines[0].starts_with("Error: cannot declare the queue `task_queue`: "),
            "{lines:?}"
        );
    }
    client.close().await;
}

#[tokio::test]
async fn a_worker_whose_queue_is_deleted_ends_with_an_error() {
    let url = vhost("deleted_tasks");
    let client = Client::of_tasks(&url).await;
    let worker = worker(&NONE, &url);
    let options = QueueDeleteOptions::default();
    let deleted = client.channel.queue_delete("task_queue".into(), options);
    deleted.await.unwrap();
    let (lines, status) = worker.finish();
    assert_eq!(status.code(), Some(1));
    assert!(lines[0].starts_with("Error: the broker ended the consumer"), "{lines:?}");
    client.close().await;
}

/// Tasks that wait outlive the broker, and so do workers.
fn tasks_outlive_a_broker(kill: bool) {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let restart = || {
        servers.instance.stop(Service::Rabbitmq, kill).unwrap();
        servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    };
    for task in ["one", "two"] {
        lines("new-task", &[task], &url);
    }
    restart();
    let workers = [0, 1].map(|_| worker(&NONE, &url));
    let mut received = Vec::new();
    for worker in &workers {
        // both tasks may have gone to the first worker, before the second one was there
        while received.len() < 2 {
            match worker.line_within(Duration::from_secs(1)) {
                Some(line) if line == " [x] Done" => {}
                Some(line) => received.push(line),
                None => break,
            }
        }
    }
    received.sort();
    assert_eq!(received, [" [x] Received one", " [x] Received two"]);

    servers.instance.stop(Service::Rabbitmq, kill).unwrap();
    for worker in &workers {
        while worker.line().unwrap() != LOST {}
    }
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    for worker in &workers {
        worker.expect(AGAIN);
        worker.expect(WAITING);
    }
    let mut done = 0;
    for number in 0..10 {
        lines("new-task", &[format!("after {number}")], &url);
    }
    for worker in workers {
        done += wait_for_idle(&worker);
        stop(worker);
    }
    assert_eq!(done, 10);
}

/// How many tasks a worker has done, once it does no more.
fn wait_for_idle(worker: &Terminal) -> usize {
    let lines = std::iter::from_fn(|| worker.line_within(Duration::from_secs(2)));
    lines.filter(|line| line == " [x] Done").count()
}

#[test]
fn tasks_outlive_a_restart() {
    tasks_outlive_a_broker(false);
}

/// lapin's heartbeats go on beside work that blocks its thread: the broker does not take the
/// connection for dead, and the task is done once.
#[test]
fn work_that_blocks_keeps_its_connection() {
    let url = vhost("blocking");
    let task = ".".repeat(30);
    lines("new-task", &[&task], &url);
    let worker = Terminal::run("worker", &["--blocking"], &format!("{url}?heartbeat=5"));
    worker.expect(WAITING);
    worker.expect(&format!(" [x] Received {task}"));
    worker.expect(" [x] Done");
    wait_for_messages(&url, "task_queue", 0);
    worker.stop();
}

#[test]
fn tasks_outlive_a_killed_broker() {
    tasks_outlive_a_broker(true);
}

/// A task that is in work when the broker goes away is given up, and comes again.
#[test]
fn a_task_in_work_outlives_a_killed_broker() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    let worker = worker(&["--prefetch", "2"], &url);
    for task in ["long ..........", "two"] {
        lines("new-task", &[task], &url);
    }
    worker.expect(" [x] Received long ..........");
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    let mut rest = Vec::new();
    while rest.iter().filter(|line| *line == " [x] Done").count() < 2 {
        rest.push(worker.line().unwrap());
    }
    rest.sort();
    let expected = [
        AGAIN,
        LOST,
        WAITING,
        " [x] Done",
        " [x] Done",
        " [x] Received long .......... (redelivered)",
        // in its hands too, but not begun
        " [x] Received two (redelivered)",
    ];
    assert_eq!(rest, expected);
    stop(worker);
}
