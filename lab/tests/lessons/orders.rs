//! Lesson 05: orders into MySQL.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use lab::progress::Tasks;
use lab::servers::Service;
use lapin::BasicProperties;
use lapin::options::BasicConsumeOptions;
use lapin::types::{AMQPValue, FieldTable};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use rustix::process::Signal;

use crate::support::{
    Client, LIMIT, NONE, Servers, Terminal, change_password, database, end_connections, lines,
    output, rabbitmqctl, refusals, shared, vhost, wait_for_messages,
};

const WAITING: &str = " [*] Waiting for orders. To exit press CTRL+C";
/// The MD5 of 1, 2 and `Hello World!`.
const ONE: &str = "c4ca4238a0b923820dcc509a6f75849b";
const TWO: &str = "c81e728d9d4c2f636f067f89cc14862c";
const HELLO: &str = "ed076287532e86365e841e92bfc50d8c";

struct Test {
    amqp: String,
    mysql: String,
}

impl Test {
    async fn new(name: &str) -> Self {
        Self { amqp: vhost(name), mysql: database(name).await }
    }

    fn receiver(&self, arguments: &[&str]) -> Terminal {
        let receiver = Terminal::run_with("receive-orders", arguments, (&self.amqp, &self.mysql));
        receiver.expect(WAITING);
        receiver
    }

    /// Runs a receiver that must end by itself: its one line.
    fn refused(&self) -> String {
        let receiver = Terminal::run_with("receive-orders", &NONE, (&self.amqp, &self.mysql));
        let (lines, status) = receiver.finish();
        assert_eq!((lines.len(), status.code()), (1, Some(1)), "{lines:#?}");
        lines[0].clone()
    }

    async fn query<T: mysql_async::prelude::FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        let mut connection = Conn::from_url(&self.mysql).await.unwrap();
        let rows = connection.query(sql).await.unwrap();
        connection.disconnect().await.unwrap();
        rows
    }

    async fn rows(&self) -> u64 {
        self.query("SELECT COUNT(*) FROM tb_order").await[0]
    }

    async fn wait_for_rows(&self, count: u64) {
        let start = Instant::now();
        loop {
            let rows = self.rows().await;
            if rows == count {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{rows} rows instead of {count}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The properties of an order.
fn order(id: Option<&str>) -> BasicProperties {
    let properties = BasicProperties::default();
    match id {
        Some(id) => properties.with_message_id(id.into()),
        None => properties,
    }
}

/// Ctrl-C: how many orders a receiver says it has stored, found in the table and sent to
/// `orders.dead`.
fn stop(receiver: Terminal) -> [u64; 3] {
    receiver.signal(Signal::INT);
    let (lines, status) = receiver.finish();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    counts(lines.last().unwrap())
}

fn counts(line: &str) -> [u64; 3] {
    let numbers = line.strip_prefix(" [*] Orders stored: ").unwrap_or_else(|| panic!("{line}"));
    let numbers = numbers.replace(" (in the table already: ", ",").replace("), dead: ", ",");
    let numbers: Vec<u64> = numbers.split(',').map(|text| text.parse().unwrap()).collect();
    let [all, known, dead] = numbers.try_into().unwrap();
    [all - known, known, dead]
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_become_rows() {
    let test = Test::new("orders").await;
    let receiver = test.receiver(&[]);
    assert_eq!(lines("send-order", &NONE, &test.amqp), [format!(" [x] Sent {HELLO}")]);
    receiver.expect(&format!(" [x] Stored the order of {HELLO}"));
    lines("send-order", &["1"], &test.amqp);
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));
    let sent = lines("request-orders", &NONE, &test.amqp);
    assert!(sent[0].starts_with(" [x] Sent 100 of 100 orders, "), "{sent:?}");
    test.wait_for_rows(102).await;
    assert_eq!(stop(receiver), [102, 0, 0]);

    let users: Vec<String> = test.query("SELECT user_id FROM tb_order ORDER BY id").await;
    assert_eq!(users[..4], [HELLO, ONE, ONE, TWO]);
    assert_eq!(users.iter().collect::<HashSet<_>>().len(), 101);
    let times: Vec<Row> = test
        .query("SELECT id FROM tb_order WHERE db_insert_time IS NULL OR db_update_time < db_insert_time")
        .await;
    assert!(times.is_empty());
    let client = Client::of_orders(&test.amqp).await;
    client.wait_for_waiting(0).await;
    client.close().await;
}

/// Ctrl-C: what it says it has sent is what is in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn request_orders_can_be_interrupted() {
    let url = vhost("interrupted");
    lines("request-orders", &["1"], &url); // declares the queue
    let client = Client::of_orders(&url).await;
    let request = Terminal::run("request-orders", &["10000000"], &url);
    let start = Instant::now();
    while client.waiting().await < 1000 {
        assert!(start.elapsed() < LIMIT);
    }
    request.signal(Signal::INT);
    let (lines, status) = request.finish();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert_eq!(lines[1..], ["Error: interrupted"]);
    let sent = lines[0].strip_prefix(" [x] Sent ").unwrap();
    let sent: u32 = sent.split(' ').next().unwrap().parse().unwrap();
    client.wait_for_waiting(1 + sent).await;
    client.close().await;
}

/// A queue that is full refuses orders: they are sent again until there is room.
#[tokio::test(flavor = "multi_thread")]
async fn request_orders_waits_for_room() {
    let test = Test::new("full").await;
    lines("send-order", &["1"], &test.amqp); // declares the queue
    let mut policy = shared().rabbitmqctl().unwrap();
    policy.args(["-q", "set_policy", "-p", "full", "short", "^orders$"]);
    policy.arg(r#"{"max-length": 50}"#);
    assert!(policy.status().unwrap().success());
    let request = Terminal::run("request-orders", &["20000"], &test.amqp);
    request.expect(" [!] The queue `orders` is full, or down. Trying again ...");
    assert!(request.line_within(Duration::from_secs(1)).is_none());
    let receiver = test.receiver(&[]);
    let (sent, status) = request.finish();
    assert!(status.success(), "{sent:#?}");
    assert!(sent[0].starts_with(" [x] Sent 20000 of 20000 orders, "));
    test.wait_for_rows(20_001).await;
    assert_eq!(stop(receiver), [20_001, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_loses_no_order() {
    let test = Test::new("breaks").await;
    lines("request-orders", &["300"], &test.amqp);
    let arguments = ["--batch", "1", "--break-connection", "0.3"];
    let receiver = test.receiver(&arguments);
    test.wait_for_rows(300).await;
    receiver.signal(Signal::INT);
    let (lines, _) = receiver.finish();
    let broken = lines.iter().filter(|line| line.contains("Breaking"));
    let broken = broken.count() as u64;
    assert!(broken > 20, "{lines:#?}");
    // what was committed when the connection broke is known already when it is stored again
    let counts = counts(lines.last().unwrap());
    assert_eq!(counts, [300 - broken, broken, 0]);
    let ids: Vec<u64> = test.query("SELECT COUNT(DISTINCT message_id) FROM tb_order").await;
    assert_eq!(ids, [300]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_goes_to_the_dead_letter_queue() {
    let test = Test::new("dead").await;
    lines("send-order", &["1"], &test.amqp); // declares the queues
    let client = Client::of_orders(&test.amqp).await;
    let random: Vec<u8> = (0..=255).rev().collect();
    let long = "x".repeat(300);
    let longest = "ü".repeat(256);
    let injection = "'); DROP TABLE tb_order; --";
    let large = vec![b'x'; 15_000_000];
    let orders: [(&[u8], Option<&str>); 12] = [
        (&random, Some("random")),
        (b"good", Some("good")),
        (long.as_bytes(), Some("long")),
        (longest.as_bytes(), Some("longest")),
        (b"", Some("empty")),
        (injection.as_bytes(), Some("injection")),
        (b"anonymous", None),
        (b"empty", Some("")),
        (b"twice", Some("twice")),
        (b"twice", Some("twice")),
        (&large, Some("large")),
        ("é😀\0 ".as_bytes(), Some("Twice")), // not the same id as `twice`
    ];
    for (body, id) in orders {
        client.publish_with(body, order(id)).await;
    }
    // Since RabbitMQ 4.0, a broker takes no more than 16 MiB, unless it is told to.
    let huge = vec![b'x'; 20_000_000];
    let sender = Client::of_orders(&test.amqp).await;
    let confirm = sender.send_with(&huge, order(Some("huge"))).await;
    let taken = confirm.await.is_ok();
    assert_eq!(taken, shared().management().version().unwrap() < (4, 0));

    // What the broker adds when it moves this one does not fit into a frame beside it.
    let mut headers = FieldTable::default();
    headers.insert("x".into(), AMQPValue::LongString("x".repeat(130_900).into()));
    client.publish_with(b"headers", order(None).with_headers(headers)).await;

    let receiver = test.receiver(&[]);
    test.wait_for_rows(7).await;
    wait_for_messages(&test.amqp, "orders", 0);
    assert_eq!(stop(receiver), [7, 1, 6 + u64::from(taken)]);
    let users: Vec<String> = test.query("SELECT user_id FROM tb_order ORDER BY id").await;
    let expected = [ONE, "good", &longest, "", injection, "twice", "é😀\0 "];
    assert_eq!(users, expected);

    let dead = Client::of_dead_orders(&test.amqp).await;
    let mut lengths = vec![256, 300, 9, 5, large.len()];
    lengths.extend(taken.then_some(huge.len()));
    for length in lengths {
        let order = dead.wait_for_message().await;
        assert_eq!((order.data.len(), order.exchange.as_str()), (length, "orders.dlx"));
    }
    wait_for_messages(&test.amqp, "orders.dead", 1);
    client.close().await;
    dead.close().await;
}

/// What limits the life of an order, or says who may publish it, is for its way to us only.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_aside_stays() {
    let test = Test::new("aside").await;
    lines("send-order", &["1"], &test.amqp); // declares the queues
    let mut user = shared().rabbitmqctl().unwrap();
    user.args(["-q", "add_user", "shop", "shop"]).output().unwrap(); // it may be there already
    let mut permit = shared().rabbitmqctl().unwrap();
    permit.args(["-q", "set_permissions", "-p", "aside", "shop", ".*", ".*", ".*"]);
    assert!(permit.status().unwrap().success());
    let client = Client::of_orders(&test.amqp.replace("guest:guest", "shop:shop")).await;
    let lifetime = Duration::from_secs(3);
    let properties = order(Some("mortal")).with_user_id("shop".into());
    let properties = properties.with_expiration(lifetime.as_millis().to_string().into());
    let receiver = test.receiver(&[]);
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));
    client.publish_with(b"\xff", properties).await;
    let line = receiver.line().unwrap();
    assert_eq!(line, " [!] Cannot store the order `mortal`: not UTF-8. It goes to orders.dead");
    assert_eq!(stop(receiver), [1, 0, 1]);
    thread::sleep(lifetime + Duration::from_secs(1)); // it would be gone now
    let dead = Client::of_dead_orders(&test.amqp).await;
    assert_eq!(dead.wait_for_message().await.data, b"\xff");
    client.close().await;
    dead.close().await;
}

/// Only a row with this message id is this order. Another conflict loses none.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_on_another_key_is_no_known_order() {
    let test = Test::new("conflict").await;
    stop(test.receiver(&[]));
    let used_up = "ALTER TABLE tb_order MODIFY id INT UNSIGNED NOT NULL AUTO_INCREMENT,
        AUTO_INCREMENT = 4294967294";
    test.query::<Row>(used_up).await;
    lines("request-orders", &["5"], &test.amqp);
    let receiver = test.receiver(&[]);
    let line = receiver.line().unwrap();
    assert!(line.starts_with(" [!] MySQL: ") && line.ends_with(". Trying again ..."), "{line}");
    test.query::<Row>("ALTER TABLE tb_order MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT")
        .await;
    receiver.expect(" [!] MySQL is back");
    test.wait_for_rows(5).await;
    assert_eq!(stop(receiver), [5, 0, 0]);

    for (name, change) in [
        ("id tinyint", "MODIFY id TINYINT UNSIGNED NOT NULL AUTO_INCREMENT"),
        ("message_id varchar", "MODIFY message_id VARCHAR(255) NOT NULL"),
        ("UNIQUE (user_id,db_insert_time)", "ADD UNIQUE KEY (user_id, db_insert_time)"),
        ("UNIQUE (message_id(8))", "DROP KEY message_id, ADD UNIQUE KEY (message_id(8))"),
    ] {
        test.query::<Row>("DROP TABLE tb_order").await;
        stop(test.receiver(&[]));
        test.query::<Row>(&format!("ALTER TABLE tb_order {change}")).await;
        let line = test.refused();
        assert!(
            line.contains("does not have the columns and unique keys that this program needs"),
            "{line}"
        );
        assert!(line.contains(name), "{name} is not in {line}");
    }
}

/// A table whose character set is smaller than ours: MySQL refuses one order, and not its
/// neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn what_mysql_refuses_goes_to_the_dead_letter_queue_alone() {
    let test = Test::new("refused").await;
    let receiver = test.receiver(&[]);
    stop(receiver);
    let latin = "ALTER TABLE tb_order MODIFY user_id VARCHAR(256) CHARACTER SET latin1 NOT NULL";
    test.query::<Row>(latin).await;
    let client = Client::of_orders(&test.amqp).await;
    for (number, body) in ["one", "你好", "three"].into_iter().enumerate() {
        let id = number.to_string();
        client.publish_with(body.as_bytes(), order(Some(&id))).await;
    }
    let receiver = test.receiver(&[]);
    test.wait_for_rows(2).await;
    assert_eq!(stop(receiver), [2, 0, 1]);
    client.wait_for_waiting(0).await;
    client.close().await;
}

/// The orders of a batch may be more than MySQL takes in one statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_for_mysql_is_stored_order_by_order() {
    let test =
        Test { mysql: database("large").await + "?max_allowed_packet=2048", amqp: vhost("large") };
    lines("request-orders", &["200"], &test.amqp);
    let receiver = test.receiver(&[]);
    test.wait_for_rows(200).await;
    assert_eq!(stop(receiver), [200, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_or_a_table_that_will_not_do() {
    let mut test = Test::new("wrong").await;
    lines("send-order", &["1"], &test.amqp);
    let right = test.mysql.clone();
    let port = shared().ports.mysql.to_string();
    for (url, parts) in [
        (right.replace(":guest@", ":secret@"), ["Access denied for user 'guest'", "MYSQL_URL"]),
        (right.replace("/test_", "/nowhere_"), ["nowhere_wrong", "MYSQL_URL"]),
        (right.replace("/test_", "/test_nowhere_"), ["test_nowhere_wrong", "MYSQL_URL"]),
        (right.replace("/test_wrong", ""), ["No database selected", "MYSQL_URL"]),
        (right.replace(&port, "1"), ["Connection refused", "cargo lab up"]),
        ("secret".to_owned(), ["MYSQL_URL must be", "mysql://user:password@host:port/database"]),
    ] {
        test.mysql = url;
        let line = test.refused();
        assert!(line.starts_with("Error: "), "{line}");
        assert!(!line.contains("secret"), "{line}");
        for part in parts {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    // a certificate from nobody that we know, or no TLS at all: it runs, and need not be started
    test.mysql = right.clone() + "?require_ssl=true";
    let line = test.refused();
    assert!(
        line.contains("SSL_CERT_FILE") || line.contains("does not have this capability"),
        "{line}"
    );
    assert!(!line.contains("cargo lab up"), "{line}");
    test.mysql = right;

    // the table of the document that this lesson started from
    test.query::<Row>(
        "CREATE TABLE tb_order (
          id int unsigned NOT NULL AUTO_INCREMENT COMMENT '自增主鍵',
          user_id varchar(256) NOT NULL COMMENT '下訂單的user_id',
          db_insert_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '寫入時間',
          db_update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP COMMENT '更新時間',
          PRIMARY KEY (id)
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8",
    )
    .await;
    let line = test.refused();
    assert!(
        line.contains("does not have the columns and unique keys that this program needs"),
        "{line}"
    );
    assert!(line.contains("RENAME TABLE tb_order TO tb_order_old"), "{line}");
    test.query::<Row>("RENAME TABLE tb_order TO tb_order_old").await;
    let receiver = test.receiver(&[]);
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));

    // a table that is gone while we work: we wait for it
    test.query::<Row>("RENAME TABLE tb_order TO tb_order_away").await;
    lines("send-order", &["2"], &test.amqp);
    let line = receiver.line().unwrap();
    assert!(line.contains("tb_order' doesn't exist. Trying again ..."), "{line}");
    test.query::<Row>("RENAME TABLE tb_order_away TO tb_order").await;
    receiver.expect(" [!] MySQL is back");
    receiver.expect(&format!(" [x] Stored the order of {TWO}"));
    stop(receiver);
    for arguments in [["--batch", "0"], ["--batch", "5001"], ["--break-connection", "2"]] {
        let (lines, code) = output("receive-orders", &arguments, &test.amqp);
        assert_eq!(code, Some(2), "{lines:?}");
    }
}

/// A user who may only read: a clear line, and the order stays in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_user() {
    let mut test = Test::new("read_only").await;
    stop(test.receiver(&[]));
    lines("send-order", &["1"], &test.amqp);
    let right = test.mysql.clone();
    test.mysql = right.replace("guest:guest", "reader:reader");
    let receiver = Terminal::run_with("receive-orders", &NONE, (&test.amqp, &test.mysql));
    let (lines, status) = receiver.finish();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert!(lines.last().unwrap().contains("command denied to user 'reader'"), "{lines:#?}");
    test.mysql = right;
    let receiver = test.receiver(&[]);
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));
    stop(receiver);
}

#[test]
fn help() {
    for program in ["send-order", "request-orders", "receive-orders"] {
        let (help, code) = output(program, &["--help"], "amqp://localhost:1");
        assert_eq!(code, Some(0));
        assert!(help.iter().any(|line| line.starts_with("Usage: ")));
        assert_eq!(output(program, &["--wrong"], "amqp://localhost:1").1, Some(2));
    }
}

/// MySQL goes away and comes back: said once, nothing lost, nothing done by hand.
#[tokio::test(flavor = "multi_thread")]
async fn receive_orders_waits_for_mysql() {
    let servers = Servers::start(&[Service::Mysql]);
    let (amqp, mysql) = (vhost("waits"), servers.instance.mysql_url());
    let receiver = Terminal::run_with("receive-orders", &NONE, (&amqp, &mysql));
    receiver.expect(WAITING);
    for kill in [false, true] {
        servers.instance.stop(Service::Mysql, kill).unwrap();
        lines("send-order", &["1"], &amqp);
        let line = receiver.line().unwrap();
        assert!(line.starts_with(" [!] MySQL: ") && line.ends_with(". Trying again ..."), "{line}");
        thread::sleep(Duration::from_secs(1)); // the length of the outage
        servers.instance.start(&[Service::Mysql], &Tasks::quiet()).unwrap();
        receiver.expect(" [!] MySQL is back");
        receiver.expect(&format!(" [x] Stored the order of {ONE}"));
    }

    // it refuses to talk to us, and says why
    let other = change_password(&mysql, "other").await;
    end_connections(&other).await;
    lines("send-order", &["1"], &amqp);
    let line = receiver.line().unwrap();
    assert!(line.starts_with(" [!] MySQL: "), "{line}");
    if !line.contains("Access denied") {
        let line = receiver.line().unwrap();
        assert!(line.starts_with(" [!] MySQL: Access denied for user 'guest'"), "{line}");
    }
    change_password(&other, "guest").await;
    receiver.expect(" [!] MySQL is back");
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));

    // it is silent
    servers.instance.pause(Service::Mysql).unwrap();
    lines("send-order", &["1"], &amqp);
    receiver.expect(" [!] MySQL: it does not answer. Trying again ...");
    servers.instance.resume(Service::Mysql).unwrap();
    receiver.expect(" [!] MySQL is back");
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));

    // it takes no orders for now: none of them is at fault
    let operator = mysql.replace("guest:guest", "operator:operator");
    let mut operator = Conn::from_url(&operator).await.unwrap();
    let (mut stored, mut known) = (5, 0); // with the one below
    for [begin, end] in refusals(&mut operator, "test").await {
        if operator.query_drop(begin).await.is_err() {
            continue;
        }
        end_connections(&mysql).await; // a session keeps what it has begun with
        lines("send-order", &["1"], &amqp);
        let line = receiver.line().unwrap();
        assert!(line.starts_with(" [!] MySQL: "), "{line}");
        operator.query_drop(end).await.unwrap();
        end_connections(&mysql).await;
        // the first cause may have been the end of the connection
        let mut line = receiver.line().unwrap();
        while line.starts_with(" [!] MySQL: ") {
            line = receiver.line().unwrap();
        }
        assert_eq!(line, " [!] MySQL is back");
        // the end of the connection may have hidden that it was stored
        match &*receiver.line().unwrap() {
            line if line.ends_with("(in the table already: 1)") => known += 1,
            line => assert_eq!(line, format!(" [x] Stored the order of {ONE}")),
        }
        stored += 1;
    }

    // a commit is ours to make
    operator.query_drop("SET GLOBAL autocommit = 0").await.unwrap();
    end_connections(&mysql).await;
    lines("send-order", &["1"], &amqp);
    receiver.line().unwrap();
    receiver.expect(" [!] MySQL is back");
    receiver.expect(&format!(" [x] Stored the order of {ONE}"));
    operator.query_drop("SET GLOBAL autocommit = 1").await.unwrap();

    // it lets in nobody without TLS; MariaDB calls that "Access denied", too
    let version: Option<String> = operator.query_first("SELECT VERSION()").await.unwrap();
    if !version.unwrap().contains("MariaDB") {
        operator.query_drop("SET GLOBAL require_secure_transport = 1").await.unwrap();
        let refused = Terminal::run_with("receive-orders", &NONE, (&amqp, &mysql));
        let (lines, status) = refused.finish();
        assert_eq!((lines.len(), status.code()), (1, Some(1)), "{lines:#?}");
        assert!(lines[0].contains("require_ssl=true"), "{lines:#?}");
        operator.query_drop("SET GLOBAL require_secure_transport = 0").await.unwrap();
    }
    operator.disconnect().await.unwrap();

    // Ctrl-C while it is away: the order stays in the queue
    servers.instance.stop(Service::Mysql, true).unwrap();
    lines("send-order", &["2"], &amqp);
    receiver.line().unwrap();
    assert_eq!(stop(receiver), [stored - known, known, 0]);
    servers.instance.start(&[Service::Mysql], &Tasks::quiet()).unwrap();
    let receiver = Terminal::run_with("receive-orders", &NONE, (&amqp, &mysql));
    receiver.expect(WAITING);
    receiver.expect(&format!(" [x] Stored the order of {TWO}"));
    stop(receiver);
}

/// To be given back at Ctrl-C is no failure of an order, however often. RabbitMQ before 4.3 counts
/// it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_outlives_that_its_receiver_is_stopped_often() {
    let test = Test::new("stopped").await;
    stop(test.receiver(&[]));
    let counts = shared().management().version().unwrap() < (4, 3);
    let limit = if counts { 4 } else { 2 };
    let limit = format!(r#"{{"delivery-limit": {limit}}}"#);
    rabbitmqctl(shared(), &["set_policy", "-p", "stopped", "limit", "^orders$", &limit]);
    lines("send-order", &["1"], &test.amqp);
    let mut lock = Conn::from_url(&test.mysql).await.unwrap();
    lock.query_drop("LOCK TABLES tb_order WRITE").await.unwrap();
    let client = Client::of_orders(&test.amqp).await;
    for _ in 0..4 {
        let receiver = test.receiver(&[]);
        client.wait_for_waiting(0).await; // it has the order
        assert_eq!(stop(receiver), [0, 0, 0]);
        client.wait_for_waiting(1).await;
    }
    lock.query_drop("UNLOCK TABLES").await.unwrap();
    lock.disconnect().await.unwrap();
    let receiver = test.receiver(&[]);
    test.wait_for_rows(1).await;
    assert_eq!(stop(receiver), [1, 0, 0]);
    client.close().await;
}

/// An order alone does not wait for others: it is in the table soon after it was confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_order_does_not_wait() {
    let test = Test::new("single").await;
    let receiver = test.receiver(&[]);
    let client = Client::of_orders(&test.amqp).await;
    let mut connection = Conn::from_url(&test.mysql).await.unwrap();
    let mut times = Vec::new();
    for number in 0..21 {
        let id = number.to_string();
        client.publish_with(b"x", order(Some(&id))).await;
        let start = Instant::now();
        loop {
            let found: Option<u64> = connection
                .exec_first("SELECT id FROM tb_order WHERE message_id = ?", (&id,))
                .await
                .unwrap();
            if found.is_some() {
                break;
            }
            assert!(start.elapsed() < LIMIT);
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!("shortest: {:?}, median: {:?}", times[0], times[10]);
    // The fastest tells: this machine may be busy, but nothing else is waited for.
    assert!(times[0] < Duration::from_millis(20), "{times:?}");
    connection.disconnect().await.unwrap();
    client.close().await;
    stop(receiver);
}

/// What one consumer has been given waits at the broker beyond the prefetch, not in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_takes_no_more_than_four_batches() {
    let test = Test::new("prefetch").await;
    lines("request-orders", &["1000"], &test.amqp);
    let blocker = test.receiver(&["--batch", "10"]);
    test.wait_for_rows(1000).await;
    stop(blocker);
    // MySQL keeps the receiver waiting: the table is locked
    let mut lock = Conn::from_url(&test.mysql).await.unwrap();
    lock.query_drop("LOCK TABLES tb_order WRITE").await.unwrap();
    lines("request-orders", &["1000"], &test.amqp);
    // it checks its table before that
    let waiting =
        Terminal::run_with("receive-orders", &["--batch", "10"], (&test.amqp, &test.mysql));
    waiting.expect(WAITING);
    let client = Client::of_orders(&test.amqp).await;
    client.wait_for_waiting(960).await;
    lock.query_drop("UNLOCK TABLES").await.unwrap();
    lock.disconnect().await.unwrap();
    test.wait_for_rows(2000).await;
    stop(waiting);
    let mut consumer = client
        .channel
        .basic_consume(
            "orders.dead".into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), consumer.next()).await.is_err());
    client.close().await;
}
