//! A network that falls silent, or that is slow. The servers behind it are real.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lab::amqp::{method, short};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;

use crate::support::{
    AGAIN, DOWN, LIMIT, LOST, NONE, Terminal, WAITING, database, lines, mysql, output, program,
    shared, vhost, wait_for_messages,
};

#[derive(Clone, Copy)]
enum Network {
    /// When the client has said this, so many more bytes come back, and then nothing does. It
    /// happens to one connection.
    SilentAfter(&'static [u8], usize),
    /// Each answer comes so much later.
    Slow(Duration),
    /// The first answer in which this is comes twice.
    Twice(&'static [u8]),
    /// When the client has said this for the first time, it goes on with these bytes.
    Adds(&'static [u8], &'static [u8]),
    /// Instead of the first answer in which this is come these bytes.
    Instead(&'static [u8], &'static [u8]),
}

/// A way to this server on this machine: its port.
fn network(to: u16, network: Network) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            // Of a connection that was there before, the other one must not end the silence.
            let mine = Arc::new(AtomicUsize::new(usize::MAX));
            let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (all, this) = (Arc::clone(&left), Arc::clone(&mine));
            thread::spawn(move || {
                forward(from, into, |bytes| {
                    if let Network::SilentAfter(word, more) = network
                        && bytes.windows(word.len()).any(|window| window == word)
                        && all.swap(0, Relaxed) > 0
                    {
                        this.store(more, Relaxed);
                    }
                    if let Network::Adds(word, more) = network
                        && bytes.windows(word.len()).any(|window| window == word)
                        && all.swap(0, Relaxed) > 0
                    {
                        return [bytes, more].concat();
                    }
                    bytes.to_vec()
                });
            });
            let all = Arc::clone(&left);
            thread::spawn(move || {
                forward(server, client, |bytes| {
                    if let Network::Twice(word) = network
                        && bytes.windows(word.len()).any(|window| window == word)
                        && all.swap(0, Relaxed) > 0
                    {
                        return bytes.repeat(2);
                    }
                    if let Network::Instead(word, other) = network
                        && bytes.windows(word.len()).any(|window| window == word)
                        && all.swap(0, Relaxed) > 0
                    {
                        return other.to_vec();
                    }
                    if let Network::Slow(time) = network {
                        thread::sleep(time);
                    }
                    let left = mine.load(Relaxed);
                    let passes = bytes.len().min(left);
                    if left < usize::MAX {
                        mine.store(left - passes, Relaxed);
                    }
                    bytes[..passes].to_vec()
                });
            });
        }
    });
    port
}

/// Forwards what `passes` makes of each portion, until one end is closed.
fn forward(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> Vec<u8>) {
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&passes(&buffer[..length])).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both); // it may be closed already
    }
}

/// The URL of RabbitMQ or MySQL, by that way. A client of MySQL would find out that the server is
/// near, and take its Unix socket instead.
fn by_way_of(url: &str, port: u16) -> String {
    let ports = shared().ports;
    let socket = if url.starts_with("mysql:") { "?prefer_socket=false" } else { "" };
    url.replace(&format!(":{}/", ports.amqp), &format!(":{port}/"))
        .replace(&format!(":{}/", ports.mysql), &format!(":{port}/"))
        + socket
}

/// The class and the number of a method, as they stand in a frame.
const GET: &[u8] = &[0, 60, 0, 70];
const DECLARE_OK: &[u8] = &[0, 50, 0, 11];
const CONSUME: &[u8] = &[0, 60, 0, 20];
const CONSUME_OK: &[u8] = &[0, 60, 0, 21];

/// RabbitMQ 3.10 has answered `basic.consume` twice, when two of three nodes had just been killed.
/// lapin ends the connection then, and the program goes on with another one.
#[test]
fn an_answer_that_comes_twice() {
    connects_again("twice", Network::Twice(CONSUME_OK));
}

/// Over this network, `receive` loses its connection once, and goes on with another one.
fn connects_again(name: &str, way: Network) {
    let url = vhost(name);
    let way = network(shared().ports.amqp, way);
    let receive = Terminal::run("receive", &NONE, &by_way_of(&url, way));
    // It waits once RabbitMQ has accepted the consumer, if the connection does not end before that.
    if let Some(line) = receive.line()
        && line != LOST
    {
        assert_eq!(line, WAITING);
        receive.expect(LOST);
    }
    receive.expect(AGAIN);
    receive.expect(WAITING);
    lines("send", &["next"], &url);
    receive.expect(" [x] Received next");
    receive.interrupt();
}

/// lapin agrees that a channel is closed, and sends what it still has for it. RabbitMQ ends the
/// connection then: "CHANNEL_ERROR - expected 'channel.open'".
#[test]
fn a_frame_for_a_channel_that_is_closed() {
    // basic.ack of delivery 1 on channel 9
    const ACK: &[u8] = b"\x01\0\x09\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0\xce";
    connects_again("closed-channel", Network::Adds(CONSUME, ACK));
}

/// RabbitMQ 4.3 on a busy machine: the queue is there, and cannot be used now.
#[test]
fn a_queue_that_is_down() {
    let url = vhost("down");
    for why in [
        "home node 'x' of durable queue 'hello' in vhost 'down' is down or inaccessible",
        "queue 'hello' in vhost 'down' process is stopped by supervisor",
        "queue 'hello' in vhost 'down' has crashed and failed to restart",
        "failed to perform operation on queue 'hello' in vhost 'down' due to timeout",
    ] {
        // channel.close of channel 1, for queue.declare
        let why = short(&format!("NOT_FOUND - {why}"));
        let close = [&404_u16.to_be_bytes()[..], &why, &[0, 50, 0, 10]].concat();
        let close = method(1, (20, 40), &close).leak();
        let down = network(shared().ports.amqp, Network::Instead(DECLARE_OK, close));
        let receive = Terminal::run("receive", &NONE, &by_way_of(&url, down));
        receive.expect(DOWN);
        receive.expect(AGAIN);
        receive.expect(WAITING);
        receive.interrupt();
    }
}

#[test]
fn a_connection_that_ends_in_the_middle_of_a_message() {
    let url = vhost("cut");
    lines("send", &["x".repeat(100_000)], &url);
    let amqp = shared().ports.amqp;

    let cut = by_way_of(&url, network(amqp, Network::SilentAfter(GET, 50_000)));
    let start = Instant::now();
    let (said, code) = output("receive-get", &NONE, &cut);
    assert_eq!((said.len(), code), (1, Some(1)), "{said:#?}");
    assert!(said[0].starts_with("Error: RabbitMQ has not answered for 20s: "), "{said:#?}");
    assert!(start.elapsed() < Duration::from_secs(40));
    wait_for_messages(&url, "hello", 1);

    let cut = network(amqp, Network::SilentAfter(CONSUME, 50_000));
    let receive = Terminal::run("receive", &NONE, &(by_way_of(&url, cut) + "?heartbeat=2"));
    receive.expect(WAITING);
    receive.expect(LOST);
    receive.expect(AGAIN);
    receive.expect(WAITING);
    assert!(receive.line().unwrap().starts_with(" [x] Received xxx"));
    receive.interrupt();
}

/// MySQL lets us in and then says nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_that_is_silent_at_the_start() {
    let (amqp, url) = (vhost("silent"), database("silent").await);
    program("receive-orders"); // compiled before the clock runs
    let arguments = ["--listen", "127.0.0.1:0"];
    for (program, arguments, word) in [
        ("receive-orders", &[][..], &b"information_schema"[..]),
        ("receive-orders", &[], b"JSON_TABLE"),
        ("admin", &arguments, b"CREATE DATABASE"),
        ("main", &arguments, b"JSON_TABLE"),
    ] {
        let port = network(shared().ports.mysql, Network::SilentAfter(word, 0));
        let start = Instant::now();
        let silent = by_way_of(&url, port);
        let (lines, status) = Terminal::run_with(program, arguments, (&amqp, &silent)).finish();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!((lines.len(), status.code()), (1, Some(1)), "{lines:#?}");
        assert!(lines[0].starts_with("Error: cannot connect to "), "{lines:#?}");
        assert!(lines[0].contains("Is it running there?"), "{lines:#?}");
    }
}

/// Each answer of MySQL takes 800 ms. An event is applied all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mysql() {
    let (amqp, url) = (vhost("slow"), database("slow").await);
    mysql(shared(), "DROP DATABASE IF EXISTS test_slow_main");
    let slow = Network::Slow(Duration::from_millis(800));
    let slow = by_way_of(&url, network(shared().ports.mysql, slow));
    let main = Terminal::run_with("main", &["--listen", "127.0.0.1:0"], (&amqp, &slow));
    while main.line().unwrap() != " [*] Waiting for events. To exit press CTRL+C" {}
    let connection = Connection::connect(&amqp, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let created = BasicProperties::default().with_type("product_created".into());
    let product = json!({"id": 1, "title": "Hills", "image": "/x"}).to_string();
    let confirm = channel.basic_publish(
        "products".into(),
        "product_created".into(),
        BasicPublishOptions::default(),
        product.as_bytes(),
        created.with_message_id("slow".into()),
    );
    assert!(confirm.await.unwrap().await.unwrap().is_ack());
    let start = Instant::now();
    while !main.line().unwrap().starts_with(" [x] Received product_created ") {
        assert!(start.elapsed() < LIMIT);
    }
    assert_eq!(mysql(shared(), "SELECT title FROM test_slow_main.products"), "Hills");
    connection.close(200, "Goodbye".into()).await.unwrap();
}
