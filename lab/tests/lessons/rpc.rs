//! Lesson 08: calls and their answers.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::Service;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::support::{
    AGAIN, INTERNAL, LIMIT, LOST, NONE, Servers, Terminal, lines, output, program, vhost,
    wait_for_messages,
};

const WAITING: &str = " [*] Waiting for requests. To exit press CTRL+C";

fn server(arguments: &[&str], url: &str) -> Terminal {
    let server = Terminal::run("rpc-server", arguments, url);
    server.expect(WAITING);
    server
}

/// Interrupts a server: what it has printed since, and how many requests it says it has answered.
fn stop(server: Terminal) -> (Vec<String>, usize) {
    server.signal(Signal::INT);
    let (mut lines, status) = server.finish();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    let last = lines.pop().unwrap();
    let answered = last.strip_prefix(" [*] Requests answered: ").unwrap();
    (lines, answered.parse().unwrap())
}

fn fib(number: u64) -> u64 {
    (0..number).fold((0, 1), |(this, next), _| (next, this + next)).0
}

/// What the client must print for this answer.
fn got(number: u64) -> String {
    format!(" [.] Got {} for fib({number})", fib(number))
}

/// A test's own connection, to play a client or a server.
struct Peer {
    connection: Connection,
    channel: Channel,
}

impl Peer {
    async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel }
    }

    async fn quorum_queue(&self, name: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions::durable();
        self.channel.queue_declare(name.into(), durable, arguments).await.unwrap();
    }

    async fn reply_queue(&self) -> (ShortString, Consumer) {
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let none = FieldTable::default();
        let queue = self.channel.queue_declare("".into(), exclusive, none).await.unwrap();
        (queue.name().clone(), self.consume(queue.name().as_str()).await)
    }

    async fn consume(&self, queue: &str) -> Consumer {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        self.channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap()
    }

    /// Not mandatory: RabbitMQ 3.10 would send an answer and return it, too, if it goes by direct
    /// reply-to.
    async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let confirm =
            self.channel.basic_publish("".into(), queue.into(), options, body, properties);
        let confirmation = confirm.await.unwrap().await.unwrap();
        assert!(matches!(confirmation, lapin::Confirmation::Ack(None)), "{confirmation:?}");
    }

    async fn close(self) {
        self.connection.close(200, "Goodbye".into()).await.unwrap();
    }
}

/// The next message, acknowledged.
async fn next(consumer: &mut Consumer) -> Delivery {
    let message = timeout(LIMIT, consumer.next()).await.unwrap().unwrap().unwrap();
    message.ack(BasicAckOptions::default()).await.unwrap();
    message
}

fn with_id(id: &str) -> BasicProperties {
    BasicProperties::default().with_correlation_id(id.into())
}

fn text(property: &Option<ShortString>) -> Option<&str> {
    property.as_ref().map(ShortString::as_str)
}

#[test]
fn one_call() {
    let url = vhost("one_call");
    let server = server(&NONE, &url);
    let expected = [" [x] Requesting fib(30)", " [.] Got 832040"];
    assert_eq!(lines("rpc-client", &NONE, &url), expected);
    assert_eq!(lines("rpc-client", &["--reply-queue"], &url), expected);
    server.expect(" [.] fib(30)");
    server.expect(" [.] fib(30)");
    assert_eq!(stop(server), (Vec::new(), 2));
}

/// A thousand, fifty of them at once, over one channel: each gets the answer to its own question.
#[test]
fn many_calls_at_once() {
    let url = vhost("many_calls");
    let server = server(&["--at-once", "20"], &url);
    let numbers: Vec<String> = (0..1000).map(|number| (number * 7 % 19).to_string()).collect();
    let mut expected: Vec<_> = (0..1000).map(|number| got(number * 7 % 19)).collect();
    expected.sort();
    for more in [&["--at-once", "50"][..], &["--at-once", "50", "--reply-queue"]] {
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let mut answers = lines("rpc-client", &[&numbers[..], &more].concat(), &url);
        answers.retain(|line| !line.starts_with(" [x] Requesting "));
        answers.sort();
        assert_eq!(answers, expected);
    }
    let said = lines("rpc-client", &["5", "--calls", "1000", "--at-once", "50"], &url);
    assert_eq!((said.len(), said[0].as_str()), (3, " [.] Got 5, and so on ..."), "{said:#?}");
    assert!(said[1].starts_with(" [x] Calls answered: 1000, failed: 0; "), "{said:#?}");
    assert!(said[2].starts_with(" [x] Latency in ms: median "), "{said:#?}");
    assert_eq!(stop(server).1, 3000);
}

/// No queue: an error at once. A queue and no server: an error at the deadline, and the request is
/// gone then.
#[tokio::test]
async fn calls_that_nobody_answers() {
    let url = vhost("nobody");
    program("rpc-client"); // compiled before the clock runs
    let start = Instant::now();
    let (said, code) = output("rpc-client", &["--timeout", "100"], &url);
    assert!(start.elapsed() < Duration::from_secs(50));
    let error = "Error: NO_ROUTE: no queue `rpc_queue`: start `rpc-server`, which declares it";
    assert_eq!((said, code), (vec![" [x] Requesting fib(30)".to_owned(), error.into()], Some(1)));
    let calls = ["--calls", "20", "--at-once", "5", "--reply-queue"];
    let (said, code) = output("rpc-client", &calls, &url);
    assert_eq!((said.len(), code), (3, Some(1)), "{said:#?}");
    assert!(said[0].starts_with(" [x] Calls answered: 0, failed: 20; "), "{said:#?}");
    assert!(said[2].starts_with("Error: 20 of 20 calls have failed: NO_ROUTE: "), "{said:#?}");

    let peer = Peer::connect(&url).await;
    peer.quorum_queue("rpc_queue").await;
    let start = Instant::now();
    let (said, code) = output("rpc-client", &["--timeout", "2.5"], &url);
    let took = start.elapsed();
    let error = "Error: no answer within 2.5s: no `rpc-server` runs, or it needs longer";
    assert_eq!((said, code), (vec![" [x] Requesting fib(30)".to_owned(), error.into()], Some(1)));
    assert!(took >= Duration::from_millis(2500) && took < Duration::from_secs(30), "{took:?}");
    // RabbitMQ has nothing left to give to a server. Had it, this would come second.
    let (reply_to, mut answers) = peer.reply_queue().await;
    let server = server(&NONE, &url);
    peer.publish("rpc_queue", b"3", with_id("x").with_reply_to(reply_to)).await;
    assert_eq!(next(&mut answers).await.data, b"2");
    server.expect(" [.] fib(3)");
    assert_eq!(stop(server), (Vec::new(), 1));
    peer.close().await;
}

/// The test plays the server.
#[tokio::test]
async fn answers_that_nobody_waits_for() {
    for (name, more) in [("late", &[][..]), ("late_queue", &["--reply-queue"])] {
        let url = vhost(name);
        let peer = Peer::connect(&url).await;
        peer.quorum_queue("rpc_queue").await;
        let mut requests = peer.consume("rpc_queue").await;
        let client =
            Terminal::run("rpc-client", &[&["1", "2", "--timeout", "3"], more].concat(), &url);
        client.expect(" [x] Requesting fib(1)");
        let first = next(&mut requests).await;
        let reply_to = text(first.properties.reply_to()).unwrap();
        assert_eq!(first.data, b"1");
        assert_eq!(reply_to.starts_with("amq.rabbitmq.reply-to."), more.is_empty(), "{reply_to}");
        let expiration: u32 = text(first.properties.expiration()).unwrap().parse().unwrap();
        assert!((1..=3000).contains(&expiration), "{expiration}");
        peer.publish(reply_to, b"100", with_id("unknown")).await;
        peer.publish(reply_to, b"101", BasicProperties::default()).await;

        client.expect(" [!] fib(1): no answer within 3s: no `rpc-server` runs, or it needs longer");
        client.expect(" [x] Requesting fib(2)");
        let second = next(&mut requests).await;
        assert_eq!(second.properties.reply_to(), first.properties.reply_to());
        let [first, second] =
            [&first, &second].map(|it| text(it.properties.correlation_id()).unwrap());
        assert_ne!(first, second);
        for (body, id) in [("102", first), ("\u{1b}2", second), ("103", second), ("104", first)] {
            peer.publish(reply_to, body.as_bytes(), with_id(id)).await;
        }
        client.expect(" [.] Got \\u{1b}2 for fib(2)");
        let (said, status) = client.finish();
        assert_eq!(
            said,
            [
                "Error: 1 of 2 calls have failed: no answer within 3s: no `rpc-server` runs, or it needs longer"
            ]
        );
        assert_eq!(status.code(), Some(1));
        peer.close().await;
    }
}

/// A server is killed in the middle. Another one does the work again, and answers.
#[test]
fn a_call_outlives_its_server() {
    let url = vhost("killed_server");
    let first = server(&NONE, &url);
    let client = Terminal::run("rpc-client", &["38", "--timeout", "100"], &url);
    first.expect(" [.] fib(38)");
    first.signal(Signal::KILL);
    let second = server(&NONE, &url);
    second.expect(" [.] fib(38) (redelivered)");
    client.expect(" [x] Requesting fib(38)");
    client.expect(" [.] Got 39088169");
    assert_eq!(client.finish().1.code(), Some(0));
    assert_eq!(stop(second), (Vec::new(), 1));
    wait_for_messages(&url, "rpc_queue", 0);
}

/// Each gets an error, or is dropped if there is nobody to answer to. None comes back for ever.
#[tokio::test]
async fn wrong_requests() {
    let url = vhost("wrong_requests");
    let server = server(&NONE, &url);
    let peer = Peer::connect(&url).await;
    let (reply_to, mut answers) = peer.reply_queue().await;
    let reply = || BasicProperties::default().with_reply_to(reply_to.clone());
    for (body, reason) in [
        (&b""[..], "not a number from 0 to 45: \"\""),
        (b"-1", "not a number from 0 to 45: \"-1\""),
        (b"1.5", "not a number from 0 to 45: \"1.5\""),
        (b"\x1b", "not a number from 0 to 45: \"\\u{1b}\""),
        (b"46", "too large: 46; 45 is the largest"),
        (b"\xff", "not a number: not UTF-8 text"),
    ] {
        peer.publish("rpc_queue", body, reply().with_correlation_id("id".into())).await;
        let answer = next(&mut answers).await;
        assert_eq!(String::from_utf8_lossy(&answer.data), reason);
        assert_eq!(text(answer.properties.kind()), Some("error"));
        assert_eq!(text(answer.properties.correlation_id()), Some("id"));
        server.expect(&format!(" [!] A wrong request: {reason}"));
    }
    // No id to tell the answer by: that is the client's affair.
    peer.publish("rpc_queue", b" 7\n", reply()).await;
    let answer = next(&mut answers).await;
    assert_eq!(answer.data, b"13");
    assert_eq!((answer.properties.kind(), answer.properties.correlation_id()), (&None, &None));
    server.expect(" [.] fib(7)");

    for reply_to in [None, Some("")] {
        let to = |it: &str| BasicProperties::default().with_reply_to(it.into());
        peer.publish("rpc_queue", b"8", reply_to.map_or_else(BasicProperties::default, to)).await;
        server.expect(" [!] A request without `reply_to` cannot be answered");
    }
    // Nowhere; names that RabbitMQ 3.10 cannot read; and its answer is a request, without a queue
    // to answer to.
    let odd = [
        "nowhere",
        "amq.gen-nothing",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.x",
        "amq.rabbitmq.reply-to.x.y",
        "amq.rabbitmq.reply-to.AAAA.BBBB",
        "amq.rabbitmq.reply-to.g2dkAAA=.AAAA",
        &"x".repeat(255),
        "rpc_queue",
    ];
    for reply_to in odd {
        let properties = with_id("odd").with_reply_to(reply_to.into());
        peer.publish("rpc_queue", b"9", properties).await;
    }
    wait_for_messages(&url, "rpc_queue", 0);
    assert_eq!(lines("rpc-client", &["10"], &url)[1], " [.] Got 55");
    let (said, status) = output("rpc-client", &["10", "-2"], &url);
    let reason = "the server says: not a number from 0 to 45: \"-2\"";
    assert_eq!(
        (said[3].as_str(), said[4].as_str(), status),
        (
            format!(" [!] fib(-2): {reason}").as_str(),
            format!("Error: 1 of 2 calls have failed: {reason}").as_str(),
            Some(1)
        )
    );
    stop(server);
    peer.close().await;
}

/// RabbitMQ never says what has become of an answer to a queue whose process is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_queue_that_is_down() {
    let servers = Servers::start(&[Service::Rabbitmq]);
    let url = servers.instance.amqp_url();
    let server = server(&NONE, &url);
    let peer = Peer::connect(&url).await;
    peer.quorum_queue("down").await;
    servers.stop_queue("down");
    peer.publish("rpc_queue", b"9", with_id("x").with_reply_to("down".into())).await;
    server.expect(" [.] fib(9)");
    assert_eq!(lines("rpc-client", &["10"], &url)[1], " [.] Got 55");
    // RabbitMQ may refuse the answer at once, or not say anything for 20 seconds.
    let mut said = [server.line().unwrap(), server.line().unwrap()];
    said.sort();
    assert_eq!(said, [" [!] A reply queue does not take an answer", " [.] fib(10)"]);
    let left = || {
        let queue = servers.instance.management().get("queues/%2f/rpc_queue");
        queue.is_ok_and(|queue| queue["messages"] == 0)
    };
    wait_until(LIMIT, left).unwrap();
    assert_eq!(lines("rpc-client", &["10"], &url)[1], " [.] Got 55");
    stop(server);
}

#[test]
fn servers_share_the_calls() {
    let url = vhost("shared_calls");
    let servers = [0, 1].map(|_| server(&["--at-once", "2"], &url));
    lines("rpc-client", &["5", "--calls", "200", "--at-once", "20"], &url);
    let answered = servers.map(|server| stop(server).1);
    assert_eq!(answered.iter().sum::<usize>(), 200);
    assert!(answered.iter().all(|answered| *answered > 20), "{answered:?}");
}

/// A fast request overtakes a slow one: in one server that works on two at once, and with two
/// servers that work on one each. One server that works on one keeps it waiting.
#[test]
fn a_slow_request_and_a_fast_one() {
    for (name, servers, at_once, first) in
        [("slow_1_2", 1, "2", 5), ("slow_2_1", 2, "1", 5), ("slow_1_1", 1, "1", 38)]
    {
        let url = vhost(name);
        let servers: Vec<_> = (0..servers).map(|_| server(&["--at-once", at_once], &url)).collect();
        let calls = ["38", "5", "--at-once", "2", "--timeout", "100"];
        let answers = lines("rpc-client", &calls, &url);
        assert_eq!(answers[2], got(first), "{name}: {answers:#?}");
        assert_eq!(answers[3], got(43 - first), "{name}: {answers:#?}");
        servers.into_iter().for_each(|server| _ = stop(server));
    }
}

/// In the middle of a thousand calls. Each ends, none with another's answer.
fn calls_outlive_a_broker(kill: bool) {
    let servers = Servers::start(&[Service::Rabbitmq]);
    let url = servers.instance.amqp_url();
    let server = server(&NONE, &url);
    thread::sleep(Duration::from_secs(1)); // the queue is on disk then: see `support::breakable`
    let numbers = (0..1000).map(|number| (number * 7 % 23).to_string());
    let more = ["--at-once", "50", "--timeout", "100"].map(str::to_owned);
    let client = Terminal::run("rpc-client", &numbers.chain(more).collect::<Vec<_>>(), &url);
    let mut answers: Vec<String> = std::iter::from_fn(|| client.line())
        .filter(|line| line.starts_with(" [.] "))
        .take(100)
        .collect();
    servers.instance.stop(Service::Rabbitmq, kill).unwrap();
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    if kill {
        servers.instance.mend_queues().unwrap();
    }
    let (mut said, status) = client.finish();
    assert!(said.iter().any(|line| line == LOST), "{said:#?}");
    said.retain(|line| ![LOST, AGAIN, INTERNAL].contains(&line.as_str()));
    said.retain(|line| !line.starts_with(" [x] Requesting "));
    answers.extend(said);
    answers.sort();
    let mut expected: Vec<_> = (0..1000).map(|number| got(number * 7 % 23)).collect();
    expected.sort();
    assert_eq!(answers, expected);
    assert_eq!(status.code(), Some(0));
    stop(server);
}

#[test]
fn calls_outlive_a_restart() {
    calls_outlive_a_broker(false);
}

#[test]
fn calls_outlive_a_killed_broker() {
    calls_outlive_a_broker(true);
}

/// RabbitMQ goes away in the middle of a call and stays away.
#[test]
fn a_call_ends_at_its_deadline_without_rabbitmq() {
    let servers = Servers::start(&[Service::Rabbitmq]);
    let url = servers.instance.amqp_url();
    let server = server(&NONE, &url);
    let start = Instant::now();
    let client = Terminal::run("rpc-client", &["45", "--timeout", "8"], &url);
    server.expect(" [.] fib(45)");
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    let (said, status) = client.finish();
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    let error = "Error: no answer within 8s: no `rpc-server` runs, or it needs longer";
    assert_eq!(said, [" [x] Requesting fib(45)", LOST, error]);
    assert_eq!(status.code(), Some(1));
    // It has given up a computation whose answer nobody would get.
    let start = Instant::now();
    while server.line().unwrap() != LOST {} // perhaps its deadline was first
    stop(server);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

/// A server does not go on with a request whose client has given up.
#[test]
fn a_request_whose_client_has_given_up() {
    let url = vhost("given_up");
    let server = server(&["--at-once", "1"], &url);
    let (said, code) = output("rpc-client", &["45", "--timeout", "1"], &url);
    let error = "Error: no answer within 1s: no `rpc-server` runs, or it needs longer";
    assert_eq!(
        (said.as_slice(), code),
        (&[" [x] Requesting fib(45)".into(), error.into()][..], Some(1))
    );
    // a minute in a debug build, if it went on
    let start = Instant::now();
    lines("rpc-client", &["5", "--timeout", "100"], &url);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    server.expect(" [.] fib(45)");
    server.expect(" [!] fib(45) is given up: its client waits no longer");
    server.expect(" [.] fib(5)");
    assert_eq!(stop(server), (Vec::new(), 1));
}

/// A computation that takes longer than two heartbeats does not keep lapin from sending them.
#[test]
fn a_long_computation_keeps_its_connection() {
    let url = vhost("long_computation");
    let server = server(&NONE, &format!("{url}?heartbeat=5"));
    let computing = |number: &u64| {
        let start = Instant::now();
        let number = number.to_string();
        lines("rpc-client", &[&number, "--timeout", "1000"], &url);
        server.expect(&format!(" [.] fib({number})"));
        start.elapsed() > Duration::from_secs(11)
    };
    // as large a number as this machine needs
    let tried = 1 + (42..=45).position(|number| computing(&number)).unwrap();
    assert_eq!(stop(server), (Vec::new(), tried));
}

/// Ctrl-C: a server finishes what it can within four seconds, and gives the rest back.
#[test]
fn a_server_that_is_stopped() {
    let url = vhost("stopped_server");
    let first = server(&NONE, &url);
    let short = Terminal::run("rpc-client", &["35", "--timeout", "100"], &url);
    first.expect(" [.] fib(35)");
    assert_eq!(stop(first), (Vec::new(), 1));
    short.expect(" [x] Requesting fib(35)");
    short.expect(" [.] Got 9227465");

    let second = server(&NONE, &url);
    let long = Terminal::run("rpc-client", &["45", "--timeout", "1000"], &url);
    second.expect(" [.] fib(45)");
    let start = Instant::now();
    assert_eq!(stop(second), (Vec::new(), 0));
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    let third = server(&NONE, &url);
    third.expect(" [.] fib(45) (redelivered)");
    // a client that is interrupted
    long.expect(" [x] Requesting fib(45)");
    long.signal(Signal::INT);
    let (said, status) = long.finish();
    assert_eq!((said, status.code()), (vec!["Error: interrupted".to_owned()], Some(1)));
    stop(third);
}

#[tokio::test]
async fn wrong_usage_and_a_queue_of_another_kind() {
    let url = vhost("other_calls");
    for (program, arguments) in [
        ("rpc-server", &["--at-once", "0"][..]),
        ("rpc-server", &["more"]),
        ("rpc-client", &["--at-once", "0"]),
        ("rpc-client", &["--calls", "0"]),
        ("rpc-client", &["--timeout", "0"]),
        ("rpc-client", &["--timeout", "-1"]),
        ("rpc-client", &["--timeout", "soon"]),
        ("rpc-client", &["--nonsense"]),
    ] {
        let (lines, code) = output(program, arguments, &url);
        assert_eq!(code, Some(2), "{program} {arguments:?}: {lines:?}");
    }
    for program in ["rpc-server", "rpc-client"] {
        let help = lines(program, &["--help"], &url);
        assert!(help.iter().any(|line| line.starts_with("Usage: ")));
    }
    let peer = Peer::connect(&url).await;
    let classic = QueueDeclareOptions::durable();
    let none = FieldTable::default();
    peer.channel.queue_declare("rpc_queue".into(), classic, none).await.unwrap();
    let (lines, code) = output("rpc-server", &NONE, &url);
    assert_eq!((lines.len(), code), (1, Some(1)), "{lines:#?}");
    assert!(lines[0].starts_with("Error: cannot declare the queue `rpc_queue`: "), "{lines:?}");
    peer.close().await;
}

/// Ids are never used twice, whatever the number of clients.
#[tokio::test]
async fn each_call_has_an_id_of_its_own() {
    let url = vhost("ids");
    let peer = Peer::connect(&url).await;
    peer.quorum_queue("rpc_queue").await;
    let mut requests = peer.consume("rpc_queue").await;
    let calls = ["1", "--calls", "50", "--at-once", "25"];
    let clients = [0, 1].map(|_| Terminal::run("rpc-client", &calls, &url));
    let mut ids = HashSet::new();
    for _ in 0..100 {
        let request = next(&mut requests).await;
        let id = text(request.properties.correlation_id()).unwrap();
        assert!(ids.insert(id.to_owned()));
        peer.publish(text(request.properties.reply_to()).unwrap(), b"1", with_id(id)).await;
    }
    for client in clients {
        assert_eq!(client.finish().1.code(), Some(0));
    }
    peer.close().await;
}
