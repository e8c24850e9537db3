//! What a broker may do to a program that works: end its consumer for time, be short of memory, not
//! let it in, be silent. The programs say what is the matter, and lose nothing.

use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::Service;
use lapin::BasicProperties;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Mutex, MutexGuard};

use crate::peers::{pika, publish_unreadable};
use crate::support::{
    AGAIN, Client, LIMIT, LOST, NONE, Servers, Terminal, WAITING, breakable, database, lines,
    output, program, rabbitmqctl, shared, vhost, wait_for_messages, wait_for_orders,
};

const TOO_LONG: &str = " [!] RabbitMQ has waited too long for an acknowledgement. Reconnecting ...";
const ORDERS: &str = " [*] Waiting for orders. To exit press CTRL+C";
/// The MD5 of 1.
const ONE: &str = "c4ca4238a0b923820dcc509a6f75849b";

/// Servers for the tests here, one test at a time.
async fn own() -> MutexGuard<'static, Servers> {
    static OWN: LazyLock<Mutex<Servers>> =
        LazyLock::new(|| Mutex::new(Servers::start(&Service::ALL)));
    OWN.lock().await
}

fn receive_orders(servers: &Servers) -> Terminal {
    let urls = (&*servers.instance.amqp_url(), &*servers.instance.mysql_url());
    let receiver = Terminal::run_with("receive-orders", &NONE, urls);
    receiver.expect(ORDERS);
    receiver
}

/// Ctrl-C: the last line must be this one.
fn stop(receiver: Terminal, last: &str) {
    receiver.signal(Signal::INT);
    let (lines, status) = receiver.finish();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    assert_eq!(lines.last().map(String::as_str), Some(last), "{lines:#?}");
}

/// MySQL is away for longer than RabbitMQ waits for an acknowledgement; so long is a task in work.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_ended_for_time_is_made_again() {
    let servers = own().await;
    let url = servers.instance.amqp_url();
    // RabbitMQ 3.10 looks at its channels once a minute, if it is not told otherwise.
    let timeout = |milliseconds: u32| {
        let set = format!(
            "application:set_env(rabbit, consumer_timeout, {milliseconds}), \
             application:set_env(rabbit, channel_tick_interval, 500)."
        );
        rabbitmqctl(&servers.instance, &["eval", &set]);
    };
    timeout(3000);
    let receiver = receive_orders(&servers);
    servers.instance.stop(Service::Mysql, true).unwrap();
    lines("send-order", &["1"], &url);
    let line = receiver.line().unwrap();
    assert!(line.starts_with(" [!] MySQL: "), "{line}");
    let client = Client::of_orders(&url).await;
    client.wait_for_waiting(1).await; // the broker has put the order back
    servers.instance.start(&[Service::Mysql], &Tasks::quiet()).unwrap();
    receiver.expect(" [!] MySQL is back");
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));
    receiver.expect(TOO_LONG);
    receiver.expect(AGAIN);
    receiver.expect(ORDERS);
    wait_until(LIMIT, || {
        let queue = servers.instance.management().get("queues/%2f/orders").unwrap();
        queue["messages"] == 0
    })
    .unwrap();
    stop(receiver, " [*] Orders stored: 2 (in the table already: 1), dead: 0");
    client.close().await;

    timeout(1_800_000); // the default
}

/// What cannot be stored is put aside although RabbitMQ takes no messages, or `orders.dead` is
/// down; and the others are stored.
#[tokio::test(flavor = "multi_thread")]
async fn orders_are_stored_while_others_cannot_be_put_aside() {
    let servers = own().await;
    let url = servers.instance.amqp_url();
    stop(receive_orders(&servers), " [*] Orders stored: 0 (in the table already: 0), dead: 0");
    let publish = async || {
        let client = Client::of_orders(&url).await;
        for _ in 0..3 {
            client.publish_with(b"bad", BasicProperties::default()).await;
            let good = BasicProperties::default().with_message_id(unique().into());
            client.publish_with(b"good", good).await;
        }
        client.close().await;
    };
    let stored = " [*] Orders stored: 3 (in the table already: 0), dead: 3";

    publish().await; // before the alarm: then RabbitMQ takes none
    rabbitmqctl(&servers.instance, &["set_vm_memory_high_watermark", "0.000001"]);
    let receiver = receive_orders(&servers);
    let client = Client::of_orders(&url).await;
    client.wait_for_waiting(0).await;
    finish(receiver, stored);
    rabbitmqctl(&servers.instance, &["set_vm_memory_high_watermark", "0.4"]);
    let dead = Client::of_dead_orders(&url).await;
    dead.wait_for_waiting(3).await;
    dead.close().await;

    let receiver = receive_orders(&servers);
    servers.stop_queue("orders.dead");
    publish().await;
    client.wait_for_waiting(0).await;
    finish(receiver, stored);
    client.close().await;
    assert!(servers.instance.mend_queues().unwrap());
    let dead = Client::of_dead_orders(&url).await;
    dead.wait_for_waiting(6).await;
    dead.close().await;

    let full = r#"{"max-length": 1, "overflow": "reject-publish"}"#;
    rabbitmqctl(&servers.instance, &["set_policy", "full", "^orders.dead$", full]);
    let receiver = receive_orders(&servers);
    publish().await;
    let client = Client::of_orders(&url).await;
    client.wait_for_waiting(0).await;
    finish(receiver, stored);
    client.close().await;
    rabbitmqctl(&servers.instance, &["clear_policy", "full"]);
    // RabbitMQ tries again after three minutes, or when it starts.
    servers.instance.stop(Service::Rabbitmq, false).unwrap();
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    let dead = Client::of_dead_orders(&url).await;
    dead.wait_for_waiting(9).await;
    dead.close().await;
}

/// Waits until it has stored an order and put one aside, each three times, and stops it.
fn finish(receiver: Terminal, last: &str) {
    let (mut stored, mut dead) = (0, 0);
    while stored < 3 || dead < 3 {
        let line = receiver.line().unwrap();
        dead += u32::from(line.starts_with(" [!] Cannot store the order ``: no message id"));
        if let Some(rest) = line.strip_prefix(" [x] Stored ") {
            // or "the order of", if it is one
            stored += rest.split(' ').next().unwrap().parse().unwrap_or(1);
        }
    }
    stop(receiver, last);
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("of a failure {}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A program that is not let in again says why, once, and goes on when it is.
#[test]
fn a_refusal_is_said() {
    let url = vhost("refusal");
    let admit = || {
        rabbitmqctl(shared(), &["add_user", "visitor", "visitor"]);
        rabbitmqctl(shared(), &["set_permissions", "-p", "refusal", "visitor", ".*", ".*", ".*"]);
    };
    admit();
    let receive = Terminal::run("receive", &NONE, &url.replace("guest:guest", "visitor:visitor"));
    receive.expect(WAITING);
    rabbitmqctl(shared(), &["delete_user", "visitor"]);
    rabbitmqctl(shared(), &["close_all_connections", "-p", "refusal", "no more visitors"]);
    receive.expect(LOST);
    let line = receive.line().unwrap();
    assert!(line.starts_with(" [!] cannot connect to amqp://visitor:***@"), "{line}");
    assert!(line.contains("ACCESS_REFUSED") && line.ends_with("password in AMQP_URL"), "{line}");
    admit();
    // between the two commands it is a user without permissions: another reason
    let lines = std::iter::from_fn(|| receive.line()).take_while(|line| line != AGAIN);
    assert!(lines.count() <= 1);
    receive.expect(WAITING);

    // advice that fits, or none
    rabbitmqctl(shared(), &["set_vhost_limits", "-p", "refusal", r#"{"max-connections": 1}"#]);
    let (lines, code) = output("send", &NONE, &url);
    assert_eq!((lines.len(), code), (1, Some(1)), "{lines:#?}");
    assert!(lines[0].contains("limit") && !lines[0].contains("AMQP_URL"), "{lines:#?}");
    receive.interrupt();
}

/// The same for a receiver: it tries again and again, and does not become larger by that.
#[test]
fn a_silent_broker_costs_no_threads() {
    let servers = breakable();
    let url = servers.instance.amqp_url() + "?heartbeat=2";
    let receive = Terminal::run("receive", &NONE, &url);
    receive.expect(WAITING);
    let before = receive.threads();
    servers.instance.pause(Service::Rabbitmq).unwrap();
    receive.expect(LOST);
    std::thread::sleep(Duration::from_secs(20)); // four attempts, if each of them were one of lapin
    let after = receive.threads();
    servers.instance.resume(Service::Rabbitmq).unwrap();
    receive.expect(AGAIN);
    receive.expect(WAITING);
    let grown = after.zip(before).map(|(after, before)| after.saturating_sub(before));
    assert!(grown.is_none_or(|grown| grown <= 1), "{before:?}, {after:?}");
    receive.interrupt();
}

/// Nobody reads what it prints. Ctrl-C ends it all the same, and the message is not lost.
#[test]
fn ctrl_c_ends_a_program_that_cannot_print() {
    let url = vhost("unread");
    lines("send", &["x".repeat(100_000)], &url); // more than a pipe takes
    let mut receive = std::process::Command::new(program("receive"));
    receive.env("AMQP_URL", &url).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut receive = receive.spawn().unwrap();
    let management = shared().management();
    wait_until(LIMIT, || {
        let queue = management.get("queues/unread/hello").unwrap();
        queue["messages_unacknowledged"] == 1
    })
    .unwrap();
    kill_process(Pid::from_child(&receive), Signal::INT).unwrap();
    wait_until(LIMIT, || receive.try_wait().unwrap().is_some()).unwrap();
    assert_eq!(receive.wait().unwrap().code(), Some(1));
    let said = std::io::read_to_string(receive.stderr.take().unwrap()).unwrap();
    let last = "Error: 15s after Ctrl-C still at work, or nobody reads my output\n";
    assert!(said.ends_with(last), "{said}");
    wait_for_messages(&url, "hello", 1);
}

/// lapin ends the connection at a message that it cannot read. RabbitMQ counts that against all
/// that were prefetched; only the bad one is put aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_takes_no_others_with_it() {
    let url = vhost("unreadable");
    let mysql = database("unreadable").await;
    let receiver = || {
        let receiver = Terminal::run_with("receive-orders", &NONE, (&url, &mysql));
        receiver.expect(ORDERS);
        receiver
    };
    stop(receiver(), " [*] Orders stored: 0 (in the table already: 0), dead: 0");
    let limit = r#"{"delivery-limit": 3}"#;
    rabbitmqctl(shared(), &["set_policy", "-p", "unreadable", "limit", "^orders$", limit]);
    publish_unreadable("orders", &url);
    lines("request-orders", &["50"], &url);
    let receiver = receiver();
    let dead = Client::of_dead_orders(&url).await;
    dead.wait_for_waiting(1).await;
    wait_for_messages(&url, "orders", 0);
    dead.close().await;
    receiver.signal(Signal::INT);
    let (lines, status) = receiver.finish();
    assert!(status.success());
    let careful = " [!] lapin cannot read a message, so we take one at a time. Reconnecting ...";
    assert!(lines.iter().any(|line| line == careful), "{lines:#?}");
    let last = " [*] Orders stored: 50 (in the table already: 0), dead: 0";
    assert_eq!(lines.last().map(String::as_str), Some(last), "{lines:#?}");
}

/// lapin reads headers that are nested with a function that calls itself: deep ones overflow its
/// stack, and the program is aborted. A larger stack can hold them.
#[test]
fn headers_that_are_nested_deep_need_a_larger_stack() {
    let url = vhost("nested");
    lines("receive-get", &NONE, &url); // declares the queue
    let nested = "import os, pika, struct
table = b''
for _ in range(4000):
    table = b'\\x01aF' + struct.pack('>I', len(table)) + table
table = struct.pack('>I', len(table)) + table
plain = pika.data.encode_table
def encode_table(pieces, value):
    if 'nested' not in value:
        return plain(pieces, value)
    pieces.append(table)
    return len(table)
pika.data.encode_table = encode_table
connection = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL']))
channel = connection.channel()
channel.confirm_delivery()
nested = pika.BasicProperties(headers={'nested': True})
channel.basic_publish('', 'hello', b'nested', nested)
connection.close()";
    assert!(pika(&["-c", nested], &url).finish().1.success());
    lines("send", &["next"], &url);
    let mut receive = std::process::Command::new(crate::support::program("receive"));
    receive.env("AMQP_URL", &url).env("RUST_MIN_STACK", "400000000");
    let receive = Terminal::start(receive);
    receive.expect(WAITING);
    receive.expect(" [x] Received nested");
    receive.expect(" [x] Received next");
    receive.stop();
}

/// A broker that takes what it is sent and answers nothing.
#[test]
fn a_silent_broker_is_not_waited_for_for_ever() {
    let servers = breakable();
    let url = servers.instance.amqp_url();
    lines("request-orders", &["1"], &url); // declares the queue, in which this one stays
    let orders = Terminal::run("request-orders", &["100000"], &url);
    let many: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let tasks = Terminal::run("new-task", &[&["--each".to_owned()], &many[..]].concat(), &url);
    tasks.expect(" [x] Sent 0");
    wait_for_orders(&url, 2);
    servers.instance.pause(Service::Rabbitmq).unwrap();
    let start = Instant::now();
    let (mut said, status) = tasks.finish();
    let last = said.pop().unwrap();
    assert!(last.starts_with("Error: RabbitMQ has not answered for 20s: "), "{last}");
    assert_eq!(status.code(), Some(1));
    orders.expect(" [!] RabbitMQ does not confirm. Reconnecting ...");
    assert!(start.elapsed() < Duration::from_secs(40));
    servers.instance.resume(Service::Rabbitmq).unwrap();
    orders.expect(AGAIN);
    let (sent, status) = orders.finish();
    assert!(status.success(), "{sent:#?}");
    assert!(sent[0].starts_with(" [x] Sent 100000 of 100000 orders, "), "{sent:#?}");
}
