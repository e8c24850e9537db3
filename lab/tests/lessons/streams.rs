//! Lesson 09: streams, over AMQP and over the stream protocol.

use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::StreamExt;
use lab::LEFT_OUT;
use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::{Instance, Service};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::peers::publish_unreadable;
use crate::support::{
    AGAIN, Folder, LIMIT, LOST, NONE, Servers, Terminal, lines, output, rabbitmqctl, shared,
    stream_url, vhost,
};

const WAITING: &str = " [*] Waiting for events. To exit press CTRL+C";

/// Whether the client of the stream protocol can speak to this RabbitMQ.
fn is_new(broker: &Instance) -> bool {
    broker.management().version().unwrap() >= (3, 11)
}

/// The same; if it cannot, says that this test is left out.
fn has_client(broker: &Instance) -> bool {
    if !is_new(broker) {
        let test = thread::current().name().unwrap_or_default().to_owned();
        let mut shown = io::stdout().lock(); // what `println!` prints in a test is not
        writeln!(shown, "{LEFT_OUT}{test}: the stream client needs RabbitMQ 3.11").unwrap();
        return false;
    }
    true
}

/// The two readers, or the one that this RabbitMQ knows.
fn readers() -> &'static [&'static str] {
    if is_new(shared()) { &["read-events", "stream-read"] } else { &["read-events"] }
}

/// Starts a reader, and waits until it waits.
fn reader(program: &str, arguments: &[&str], url: &str) -> Terminal {
    let reader = Terminal::run(program, arguments, url);
    reader.expect(WAITING);
    reader
}

/// What a reader that ends by itself has read: offsets and events. What else it says, too.
fn read(program: &str, arguments: &[&str], url: &str) -> (Vec<(u64, String)>, Vec<String>) {
    let said = lines(program, arguments, url);
    let event = |line: &String| {
        let (offset, event) = line.strip_prefix(" [x] ")?.split_once(": ")?;
        Some((offset.parse().unwrap(), event.to_owned()))
    };
    let events = said.iter().filter_map(event).collect();
    let other =
        |line: &&String| !line.starts_with(" [x] ") && !line.starts_with(" [*] Events read");
    (events, said.iter().filter(other).cloned().collect())
}

fn append(events: &[&str], url: &str) {
    assert_eq!(lines("append-events", events, url).len(), events.len());
}

/// Appends `event 1`, `event 2`, and so on.
fn append_many(count: u64, more: &[&str], url: &str) {
    let count = count.to_string();
    let said = lines("append-events", &[&["--count", &count], more].concat(), url);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].starts_with(&format!(" [x] Events appended: {count}; ")), "{said:#?}");
}

/// Ctrl-C: the lines that were left, and how many events it says it has read.
fn stop(reader: Terminal) -> (Vec<String>, u64) {
    reader.signal(Signal::INT);
    let (mut lines, status) = reader.finish();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    let last = lines.pop().unwrap();
    let count = last.strip_prefix(" [*] Events read: ").unwrap().split(';').next().unwrap();
    (lines, count.parse().unwrap())
}

/// A test's own consumer of a stream, from its first event on.
async fn consume(url: &str, stream: &str, prefetch: u16) -> (Connection, Channel, Consumer) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(stream.into(), "".into(), options, arguments);
    let consumer = consumer.await.unwrap();
    (connection, channel, consumer)
}

/// Late or early, from anywhere, each at its own pace: all of them read the same.
#[test]
fn readers_take_nothing_away() {
    let url = vhost("streams");
    append(&["zero", "one", "two"], &url);
    let all = [(0, "zero".to_owned()), (1, "one".to_owned()), (2, "two".to_owned())];
    for program in readers() {
        for _ in 0..2 {
            assert_eq!(read(program, &["--count", "3"], &url).0, all);
        }
        let first = read(program, &["--from", "first", "--count", "1"], &url).0;
        assert_eq!(first, all[..1]);
        assert_eq!(read(program, &["--from", "1", "--count", "2"], &url).0, all[1..]);
        // Each was appended alone: the last chunk is the last event.
        assert_eq!(read(program, &["--from", "last", "--count", "1"], &url).0, all[2..]);
        assert_eq!(read(program, &["--from", "1h", "--count", "3"], &url).0, all);
    }
    let slow = readers().iter().map(|program| {
        let slow = reader(program, &["--work", "60000"], &url);
        slow.expect(" [x] 0: zero");
        slow
    });
    let slow: Vec<_> = slow.collect();
    let new = readers().iter().map(|program| reader(program, &["--from", "next"], &url));
    let new: Vec<_> = new.collect();
    append(&["three"], &url);
    for new in new {
        new.expect(" [x] 3: three");
        assert_eq!(stop(new), (vec![], 1));
    }
    drop(slow); // killed
    for program in readers() {
        assert_eq!(read(program, &["--count", "4"], &url).0.len(), 4);
    }
}

/// From a time on. The time must pass; there is nothing to wait for.
#[test]
fn from_a_time() {
    let url = vhost("streams_time");
    append(&["old", "older"], &url);
    thread::sleep(Duration::from_secs(20));
    let begin = Instant::now();
    append(&["new"], &url);
    for program in readers() {
        // Between the two, even if the reader takes seconds to start.
        let ago = format!("{}s", begin.elapsed().as_secs() + 10);
        let got = read(program, &["--from", &ago, "--count", "1"], &url).0;
        assert_eq!(got, [(2, "new".to_owned())], "{program}");
    }
}

/// A reader of twelve events that stores its offset after each five is killed (-9), and started
/// again: it says `says`, and goes on with the eleventh. After Ctrl-C nothing comes again.
fn a_killed_reader_goes_on(program: &str, arguments: &[&str], url: &str, says: [&str; 2]) {
    let arguments = [arguments, &["--store-every", "5"]].concat();
    append_many(12, &[], url);
    let first = reader(program, &arguments, url);
    for offset in 0..12 {
        first.expect(&format!(" [x] {offset}: event {}", offset + 1));
    }
    first.signal(Signal::KILL);
    assert_eq!(first.finish().1.code(), None);
    let goes_on = |says: &str| {
        let again = Terminal::run(program, &arguments, url);
        again.expect(says);
        again.expect(WAITING);
        again
    };
    let [killed, stopped] = says;
    let second = goes_on(killed);
    second.expect(" [x] 10: event 11");
    second.expect(" [x] 11: event 12");
    assert_eq!(stop(second), (vec![], 2));
    assert_eq!(stop(goes_on(stopped)), (vec![], 0));
}

/// A reader that keeps its offset in a file goes on there, killed or not.
#[test]
fn a_killed_reader_goes_on_at_the_offset_in_its_file() {
    let url = vhost("streams_file");
    let folder = Folder::temporary();
    let file = folder.path().join("offset");
    let arguments = ["--offset-file", file.to_str().unwrap()];
    let says = [" [*] Goes on at offset 10", " [*] Goes on at offset 12"];
    a_killed_reader_goes_on("read-events", &arguments, &url, says);

    fs::write(&file, "twelve").unwrap();
    let (said, code) = output("read-events", &arguments, &url);
    assert_eq!((said.len(), code), (1, Some(1)), "{said:#?}");
    assert!(said[0].starts_with("Error: no offset in "), "{said:#?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "twelve");
}

/// By size and by age. Who wants what is deleted is told so.
#[test]
fn what_a_stream_deletes() {
    let url = vhost("streams_small");
    let small = ["--stream", "small", "--max-length-bytes", "20000", "--segment-bytes", "5000"];
    // One by one: a chunk that is larger than a segment would count as one.
    append_many(500, &[&small[..], &["--window", "1"]].concat(), &url);
    for program in readers() {
        let from = |begin: &str| {
            read(program, &[&small[..], &["--from", begin, "--count", "1"]].concat(), &url)
        };
        let (first, said) = from("first");
        let first = first[0].0;
        assert!((1..500).contains(&first), "{first}");
        assert_eq!(said, [WAITING]);
        let (event, said) = from("7");
        assert_eq!(event[0].0, first);
        let deleted = format!(" [!] Offsets 7 to {} are deleted", first - 1);
        assert_eq!(said, [WAITING, &deleted]);
        let (event, said) = from(&first.to_string());
        assert_eq!((event[0].0, said), (first, vec![WAITING.to_owned()]));
    }

    let aged = ["--stream", "aged", "--max-age", "1s", "--segment-bytes", "5000"];
    append_many(200, &[&aged[..], &["--window", "1"]].concat(), &url);
    let first =
        |program: &str| read(program, &[&aged[..], &["--count", "1"]].concat(), &url).0[0].0;
    thread::sleep(Duration::from_secs(3)); // the age: nothing to wait for
    // Older than that, and still there: nobody looks before there is a new segment.
    let before = first("read-events");
    append_many(100, &[&aged[..], &["--window", "1"]].concat(), &url);
    for program in readers() {
        wait_until(LIMIT, || first(program) > before).unwrap(); // it is deleted a moment later
    }

    // With other arguments.
    for program in readers() {
        let (said, code) = output(program, &["--stream", "small"], &url);
        assert_eq!((said.len(), code), (1, Some(1)), "{said:#?}");
        let error = match *program {
            "read-events" => "Error: cannot declare the stream `small`: ",
            _ => "Error: the stream `small` exists with other arguments, or they are wrong",
        };
        assert!(said[0].starts_with(error), "{said:#?}");
    }
}

/// It says how much may come, and nothing about the events.
#[tokio::test]
async fn an_acknowledgement_takes_nothing_away() {
    let url = vhost("streams_acks");
    append_many(10, &["--window", "1"], &url); // each is a chunk
    let (connection, channel, mut events) = consume(&url, "hello-rust-stream", 3).await;
    let mut tags = Vec::new();
    for _ in 0..3 {
        tags.push(timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap().delivery_tag);
    }
    assert!(timeout(Duration::from_secs(1), events.next()).await.is_err());
    channel.basic_ack(tags[2], BasicAckOptions { multiple: true }).await.unwrap();
    for _ in 0..3 {
        let event = timeout(LIMIT, events.next()).await.unwrap().unwrap().unwrap();
        assert!(!event.redelivered);
        tags.push(event.delivery_tag);
    }
    assert!(timeout(Duration::from_secs(1), events.next()).await.is_err());

    // RabbitMQ 4 takes it for an acknowledgement, and 3.10 for an offence.
    let nack = BasicNackOptions { requeue: true, ..Default::default() };
    channel.basic_nack(tags[3], nack).await.unwrap();
    let next = timeout(LIMIT, events.next()).await.unwrap().unwrap();
    match shared().management().version().unwrap() >= (4, 0) {
        true => {
            let next = next.unwrap();
            let offset =
                next.properties.headers().as_ref().unwrap().inner()["x-stream-offset"].clone();
            assert_eq!((offset, next.redelivered), (AMQPValue::LongLongInt(6), false));
            connection.close(200, "Goodbye".into()).await.unwrap();
        }
        false => assert!(next.unwrap_err().to_string().contains("NOT_IMPLEMENTED")),
    }
    assert_eq!(read("read-events", &["--count", "10"], &url).0.len(), 10);
}

/// It holds nobody up, gets no more than it can take, and ends at Ctrl-C.
#[test]
fn a_reader_that_is_slower_than_the_stream() {
    let url = vhost("streams_slow");
    for program in readers() {
        let slow = reader(program, &["--stream", program, "--work", "100"], &url);
        append_many(50_000, &["--stream", program], &url);
        slow.expect(" [x] 0: event 1");
        // What RabbitMQ has sent and may send: chunks of up to 1000 events, of this producer.
        let sent = ["list_channels", "vhost", "messages_unacknowledged"];
        let credits = ["list_stream_consumers", "-p", "streams_slow", "credits"];
        let (asked, before) = match *program {
            "read-events" => (&sent[..], "streams_slow\t"),
            _ => (&credits[..], ""),
        };
        let said = rabbitmqctl(shared(), asked);
        // RabbitMQ 4.3 draws the second table.
        let number = |line: &str| {
            line.strip_prefix(before)?.split_whitespace().find_map(|word| word.parse().ok())
        };
        let ahead: Vec<u32> = said.lines().filter_map(number).collect();
        let limit = if *program == "read-events" { 5000 } else { 1 };
        let most = ahead.iter().max(); // the producer's channel may still be there
        assert!(most.is_some_and(|most| *most <= limit), "{program}: {said}");
        let start = Instant::now();
        let (lines, count) = stop(slow);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(count, lines.len() as u64 + 1);
        assert!(count < 5000, "{count}");
    }
}

/// Readers of AMQP and of the stream protocol, while RabbitMQ is killed.
#[test]
fn readers_and_producers_outlive_a_killed_broker() {
    let servers = Servers::start(&[Service::Rabbitmq]);
    let url = servers.instance.amqp_url();
    let new = is_new(&servers.instance);
    append_many(1000, &[], &url);
    thread::sleep(Duration::from_secs(1)); // see `breakable`
    let mut readers = vec![reader("read-events", &["--count", "3000"], &url)];
    let producer = new.then(|| {
        readers.push(reader("stream-read", &["--count", "3000"], &url));
        let slow = ["--name", "p", "--count", "1000", "--window", "10", "--pause", "100"];
        let producer = Terminal::run("stream-append", &slow, &url);
        producer.expect(" [x] Confirmed: event 1 to event 10, and so on ...");
        producer
    });
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    // RabbitMQ 3.10 may not know at once where the stream is.
    wait_until(LIMIT, || output("read-events", &["--count", "1"], &url).1 == Some(0)).unwrap();
    let rest = if new { 1000 } else { 2000 };
    append_many(rest, &[], &url);
    if let Some(producer) = producer {
        producer.expect(LOST);
        producer.expect(AGAIN);
        let (mut said, status) = producer.finish();
        said.retain(|line| ![LOST, AGAIN].contains(&line.as_str())); // it may be lost once more
        assert_eq!((said.len(), status.code()), (2, Some(0)), "{said:#?}");
        assert!(said[0].starts_with(" [*] RabbitMQ has the first "), "{said:#?}");
        assert!(said[1].starts_with(" [x] Events confirmed: "), "{said:#?}");
    }
    for reader in readers {
        let (mut said, status) = reader.finish();
        assert_eq!(status.code(), Some(0), "{:#?}", said.last());
        let (events, other): (Vec<_>, Vec<_>) =
            said.drain(..).partition(|line| line.starts_with(" [x] "));
        assert_eq!((other[0].as_str(), other[1].as_str()), (LOST, AGAIN));
        assert_eq!(other[other.len() - 2], WAITING, "{other:#?}");
        // Each once, in the order of the stream.
        let offset = |line: &String| line[5..].split(':').next().unwrap().parse::<u64>().unwrap();
        let offsets: Vec<_> = events.iter().map(offset).collect();
        assert!(offsets.is_sorted_by(|one, next| one < next));
        assert_eq!(offsets.len(), 3000);
        for number in [1, 10, 11, 500, 999, 1000] {
            let event = format!(": event {number}");
            let times = events.iter().filter(|line| line.ends_with(&event)).count();
            assert_eq!(times, if new { 3 } else { 2 }, "{event}");
        }
    }
}

/// What was appended over one protocol is read over the other.
#[test]
fn both_protocols_share_a_stream() {
    if !has_client(shared()) {
        return;
    }
    let url = vhost("streams_both");
    append(&["zero"], &url);
    let said = lines("stream-append", &["--count", "2000"], &url);
    assert_eq!(said[0], " [x] Confirmed: event 1 to event 1000, and so on ...");
    assert!(said[1].starts_with(" [x] Events confirmed: 2000; "), "{said:#?}");
    append(&["last"], &url);
    let mut expected = vec![(0, "zero".to_owned())];
    expected.extend((1..=2000).map(|number| (number, format!("event {number}"))));
    expected.push((2001, "last".to_owned()));
    for program in readers() {
        assert_eq!(read(program, &["--count", "2002"], &url).0, expected, "{program}");
        // In the middle of a chunk.
        let some = read(program, &["--from", "1500", "--count", "502"], &url).0;
        assert_eq!(some, expected[1500..], "{program}");
    }
}

/// RabbitMQ keeps the offset of each name.
#[test]
fn a_killed_reader_goes_on_behind_the_offset_that_rabbitmq_has() {
    if !has_client(shared()) {
        return;
    }
    let url = vhost("streams_tracked");
    let says = [" [*] Goes on after offset 9", " [*] Goes on after offset 11"];
    a_killed_reader_goes_on("stream-read", &["--name", "consumer-1"], &url, says);
    let other = read("stream-read", &["--name", "other", "--count", "1"], &url);
    assert_eq!(other, (vec![(0, "event 1".to_owned())], vec![WAITING.to_owned()]));
}

/// A producer with a name is killed again and again, and leaves each event once.
#[test]
fn each_event_of_a_named_producer_is_there_once() {
    if !has_client(shared()) {
        return;
    }
    let url = vhost("streams_once");
    let producer = ["--name", "importer", "--count", "20000", "--window", "100"];
    let slow = [&producer[..], &["--pause", "5"]].concat();
    for round in 0..3 {
        let producer = Terminal::run("stream-append", &slow, &url);
        if round > 0 {
            let line = producer.line().unwrap();
            assert!(line.starts_with(" [*] RabbitMQ has the first "), "{line}");
        }
        let line = producer.line().unwrap();
        assert!(line.starts_with(" [x] Confirmed: "), "{line}");
        thread::sleep(Duration::from_millis(100 * round)); // anywhere
        producer.signal(Signal::KILL);
        assert_eq!(producer.finish().1.code(), None);
    }
    lines("stream-append", &producer, &url);
    // SIGTERM is as good as Ctrl-C, and nobody is cut off.
    let other = Terminal::run("stream-append", &[&slow[..], &["--stream", "other"]].concat(), &url);
    other.expect(" [x] Confirmed: event 1 to event 100, and so on ...");
    other.signal(Signal::TERM);
    let (said, status) = other.finish();
    assert_eq!((said.len(), status.code()), (2, Some(1)), "{said:#?}");
    assert_eq!(said[1], "Error: interrupted");
    let again = lines("stream-append", &producer, &url);
    assert_eq!(again[0], " [*] RabbitMQ has the first 20000 events of `importer`");
    assert!(again[1].starts_with(" [x] Events confirmed: 0; "), "{again:#?}");
    let resent = lines("stream-append", &[&producer[..], &["--resend"]].concat(), &url);
    assert!(resent[1].starts_with(" [x] Events confirmed: 20000; "), "{resent:#?}");
    append(&["the end"], &url);
    for program in readers() {
        let events = read(program, &["--count", "20001"], &url).0;
        let expected = (1..=20_000).map(|number| format!("event {number}"));
        let expected: Vec<_> = expected.chain(["the end".to_owned()]).collect();
        let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
        assert!(events == expected, "{program}");
    }
    // Without a name nothing is known of them.
    lines("stream-append", &["--count", "1"], &url);
    lines("stream-append", &["--count", "1"], &url);
    append(&["end"], &url);
    let from = ["--from", "20001", "--count", "3"];
    let events = read("stream-read", &from, &url).0.into_iter().map(|(_, event)| event);
    assert_eq!(events.collect::<Vec<_>>(), ["event 1", "event 1", "end"]);
}

/// A broker that is not gone and does not answer either.
#[test]
fn a_paused_broker_is_noticed_over_the_stream_protocol() {
    let servers = Servers::start(&[Service::Rabbitmq]);
    if !has_client(&servers.instance) {
        return;
    }
    let url = servers.instance.amqp_url();
    let slow = ["--name", "p", "--count", "500", "--window", "10", "--pause", "100"];
    let producer = Terminal::run("stream-append", &slow, &url);
    producer.expect(" [x] Confirmed: event 1 to event 10, and so on ...");
    let reader = reader("stream-read", &["--count", "500"], &url);
    let stopped = ["stream-read", "read-events"].map(|program| Terminal::run(program, &NONE, &url));
    for stopped in &stopped {
        while !stopped.line().unwrap().starts_with(" [x] 0: ") {}
    }
    servers.instance.pause(Service::Rabbitmq).unwrap();
    let start = Instant::now();
    for stopped in stopped {
        stop(stopped);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    producer.expect(LOST);
    wait_until(LIMIT, || match reader.line() {
        Some(line) if line.starts_with(" [x] ") => false,
        line => line.as_deref() == Some(LOST) || panic!("{line:?}"),
    })
    .unwrap();
    servers.instance.resume(Service::Rabbitmq).unwrap();
    assert_eq!(producer.finish().1.code(), Some(0));
    let (said, status) = reader.finish();
    assert_eq!(status.code(), Some(0));
    assert_eq!(said[..2], [AGAIN, WAITING]);
    assert_eq!(said[said.len() - 2].split(": ").nth(1), Some("event 500"));
    assert!(said.last().unwrap().starts_with(" [*] Events read: 500; "), "{said:#?}");
}

/// It stays in the stream, so a reader that comes to it cannot get past it: it ends with an error.
#[test]
fn an_event_that_cannot_be_read() {
    let url = vhost("streams_unreadable");
    append(&["zero"], &url);
    publish_unreadable("hello-rust-stream", &url);
    append(&["two"], &url);
    let reader = reader("read-events", &[], &url);
    let mut said = String::new();
    while !said.starts_with("Error: ") {
        said = reader.line().unwrap();
        assert!(said.starts_with("Error: ") || said == " [x] 0: zero", "{said}");
    }
    assert_eq!(reader.finish().1.code(), Some(1));
    let (events, _) = read("read-events", &["--from", "2", "--count", "1"], &url);
    assert_eq!(events, [(2, "two".to_owned())]);
}

/// It is not made anew behind the back of those who use it.
#[test]
fn a_stream_that_is_deleted_under_a_program() {
    let url = vhost("streams_deleted");
    append(&["zero"], &url);
    let readers = readers().iter().map(|program| {
        let reader = reader(program, &[], &url);
        reader.expect(" [x] 0: zero");
        (*program, reader)
    });
    let readers: Vec<_> = readers.collect();
    let producer = is_new(shared()).then(|| {
        let slow = ["--count", "100000", "--window", "1", "--pause", "100"];
        let producer = Terminal::run("stream-append", &slow, &url);
        producer.expect(" [x] Confirmed: event 1 to event 1, and so on ...");
        producer
    });
    rabbitmqctl(shared(), &["delete_queue", "-p", "streams_deleted", "hello-rust-stream"]);
    for (program, reader) in readers {
        let (said, status) = reader.finish();
        assert_eq!(status.code(), Some(1), "{program}: {said:#?}");
        let error = said.last().unwrap();
        assert!(error.starts_with("Error: ") && error.contains("deleted?"), "{program}: {error}");
    }
    if let Some(producer) = producer {
        let (said, status) = producer.finish();
        assert_eq!(status.code(), Some(1), "{said:#?}");
        let error = "Error: the stream `hello-rust-stream` is gone: was it deleted?";
        assert_eq!(said.last().map(String::as_str), Some(error));
    }
}

/// While a program reconnects, its user is no more: it says so, once, and goes on when it is back.
#[test]
fn a_refusal_is_said() {
    if !has_client(shared()) {
        return;
    }
    let admit = || {
        rabbitmqctl(shared(), &["add_user", "streamer", "streamer"]);
        let all = ["-p", "streams_refusal", "streamer", ".*", ".*", ".*"];
        rabbitmqctl(shared(), &[&["set_permissions"], &all[..]].concat());
    };
    let url = vhost("streams_refusal");
    append(&["zero"], &url);
    admit();
    let reader = reader("stream-read", &[], &url.replacen("guest:guest", "streamer:streamer", 1));
    reader.expect(" [x] 0: zero");
    rabbitmqctl(shared(), &["delete_user", "streamer"]); // and RabbitMQ closes its connections
    reader.expect(LOST);
    let line = reader.line().unwrap();
    assert!(line.starts_with(" [!] cannot connect to rabbitmq-stream://streamer:***@"), "{line}");
    let why =
        "AuthenticationFailure. Check the user, the password and the virtual host in STREAM_URL";
    assert!(line.ends_with(why), "{line}");
    admit();
    // between the two commands it is a user without permissions: another reason
    let lines = std::iter::from_fn(|| reader.line()).take_while(|line| line != AGAIN);
    assert!(lines.count() <= 1);
    reader.expect(WAITING);
    append(&["one"], &url);
    reader.expect(" [x] 1: one");
    reader.stop();
}

/// One clear line, with the way out, and no password.
#[test]
fn a_stream_port_that_cannot_be_used() {
    let url = vhost("streams_errors");
    let good = stream_url(&url).unwrap();
    let with = |url: &str| {
        let mut command = std::process::Command::new(crate::support::program("stream-read"));
        command.env("STREAM_URL", url).args(["--count", "1"]);
        let (lines, status) = Terminal::start(command).finish();
        assert_eq!((lines.len(), status.code()), (1, Some(1)), "{lines:#?}");
        assert!(!lines[0].contains("secret"), "{lines:#?}");
        lines[0].clone()
    };
    let nobody = with("rabbitmq-stream://guest:secret@localhost:1/%2f");
    let expected = "Error: cannot connect to rabbitmq-stream://guest:***@localhost:1/%2F: ";
    assert!(nobody.starts_with(expected), "{nobody}");
    assert!(nobody.contains("rabbitmq_stream") && nobody.contains("STREAM_URL names"), "{nobody}");
    for form in ["secret", "amqp://guest:secret@localhost", "rabbitmq-stream://a:secret/b@c:1/x"] {
        let said = with(form);
        assert!(said.starts_with("Error: STREAM_URL must be rabbitmq-stream://"), "{said}");
    }
    let amqp = with(&url.replacen("amqp://guest:guest", "rabbitmq-stream://guest:secret", 1));
    assert!(amqp.contains("it closes the connection. "), "{amqp}");
    let refused = with(&good.replacen(":guest@", ":secret@", 1));
    let advice = "Check the user, the password and the virtual host in STREAM_URL";
    assert!(refused.ends_with(advice), "{refused}");
    if !is_new(shared()) {
        let old = with(&good);
        assert!(old.ends_with("RabbitMQ 3.11 or later"), "{old}");
        return;
    }
    let nowhere = with(&good.replace("/streams_errors", "/nowhere"));
    assert!(nowhere.ends_with(advice), "{nowhere}");
}
