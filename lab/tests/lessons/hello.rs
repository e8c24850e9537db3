//! The five programs of lesson 01.

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use crate::support::{Client, NONE, Terminal, WAITING, lines, output, vhost, wait_for_messages};

#[test]
fn help_and_wrong_usage() {
    for program in ["send", "receive", "receive-callback", "receive-get", "receive-until-idle"] {
        let (help, code) = output(program, &["--help"], "amqp://localhost:1");
        assert_eq!(code, Some(0));
        assert!(help.iter().any(|line| line.starts_with("Usage: ")), "{help:?}");
        assert_eq!(output(program, &["--wrong"], "amqp://localhost:1").1, Some(2));
    }
}

#[tokio::test]
async fn ten_thousand_messages_in_order() {
    let url = vhost("ten_thousand");
    let client = Client::connect(&url).await;
    client.declare().await;
    let mut confirms = Vec::new();
    for number in 0..10_000 {
        confirms.push(client.send(format!("message {number}").as_bytes()).await);
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
    wait_for_messages(&url, "hello", 10_000);
    let receive = Terminal::run("receive", &NONE, &url);
    receive.expect(WAITING);
    for number in 0..10_000 {
        receive.expect(&format!(" [x] Received message {number}"));
    }
    // RabbitMQ hands acknowledgements on to a quorum queue in portions. If the connection closes
    // right behind them, the last may be lost, and their messages come again (120 seen with 4.3.6).
    wait_for_messages(&url, "hello", 0);
    receive.interrupt();
    assert_eq!(lines("receive-get", &NONE, &url), [" [ ] The queue is empty"]);
    let (said, code) = output("receive-get", &["--queue", "nowhere"], &url);
    assert_eq!(code, Some(1));
    assert!(said[0].contains("NOT_FOUND"), "{said:?}");
    client.close().await;
}

#[tokio::test]
async fn any_body_comes_through() {
    let url = vhost("any_body");
    let client = Client::connect(&url).await;
    client.declare().await;
    let bytes: Vec<u8> = (0..=255).rev().collect();
    let large = "0123456789".repeat(1_000_000);
    let bodies: [(&[u8], String); 7] = [
        (b"", String::new()),
        (&bytes, bytes.escape_ascii().to_string()),
        ("你好, dünya".as_bytes(), "你好, dünya".to_owned()),
        (b"two\nlines", "two\\nlines".to_owned()),
        ("\u{1b}[2Jgrö\nße".as_bytes(), "\\u{1b}[2Jgrö\\nße".to_owned()),
        ("\u{202e}lia".as_bytes(), "\\u{202e}lia".to_owned()),
        (large.as_bytes(), large.clone()),
    ];
    for (body, _) in &bodies {
        client.publish(body).await;
    }
    for program in ["receive", "receive-callback"] {
        let receive = Terminal::run(program, &NONE, &url);
        let mut received: Vec<String> = Vec::new();
        while received.len() < bodies.len() {
            received.push(receive.line().unwrap());
            let line = received.last().unwrap();
            println!("{program}: line {}: {line:.60}", received.len()); // shown if it fails
            // RabbitMQ 3.10 may be too busy for the queue at first, and says so.
            received.retain(|line| line.starts_with(" [x] Received "));
        }
        let expected = bodies.each_ref().map(|(_, shown)| format!(" [x] Received {shown}"));
        if program == "receive" {
            assert!(received == expected, "the lines differ");
        } else {
            let (mut received, mut expected) = (received, expected.to_vec());
            received.sort();
            expected.sort();
            assert!(received == expected, "the lines differ");
        }
        receive.interrupt();
        client.wait_for_waiting(0).await;
        for (body, _) in &bodies {
            client.publish(body).await;
        }
    }
    for (_, shown) in &bodies {
        assert!(lines("receive-get", &NONE, &url)[0] == format!(" [x] Received {shown}"));
    }
    client.close().await;
}

#[tokio::test]
async fn a_queue_that_exists_with_other_properties() {
    let url = vhost("other_properties");
    let client = Client::connect(&url).await;
    let classic = QueueDeclareOptions::durable();
    client.channel.queue_declare("hello".into(), classic, FieldTable::default()).await.unwrap();
    for program in ["send", "receive", "receive-callback", "receive-get", "receive-until-idle"] {
        let (lines, code) = output(program, &NONE, &url);
        assert_eq!((lines.len(), code), (1, Some(1)), "{lines:#?}");
        assert!(lines[0].starts_with("Error: cannot declare the queue `hello`: "), "{lines:?}");
        assert!(lines[0].contains("PRECONDITION_FAILED - inequivalent arg"), "{lines:?}");
    }
    client.close().await;
}

#[tokio::test]
async fn a_consumer_whose_queue_is_deleted_ends_with_an_error() {
    let url = vhost("deleted");
    let client = Client::connect(&url).await;
    for (program, arguments) in
        [("receive", vec![]), ("receive-callback", vec![]), ("receive-until-idle", vec!["60"])]
    {
        client.declare().await;
        let receive = Terminal::run(program, &arguments, &url);
        client.publish(b"first").await;
        while !receive.line().unwrap().ends_with("Received first") {}
        client.channel.queue_delete("hello".into(), QueueDeleteOptions::default()).await.unwrap();
        let (mut lines, status) = receive.finish();
        lines.retain(|line| line != WAITING);
        assert_eq!(lines, ["Error: the broker ended the consumer: was the queue `hello` deleted?"]);
        assert_eq!(status.code(), Some(1));
    }
    client.close().await;
}
