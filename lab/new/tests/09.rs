//! A reader that is killed goes on behind the offset that it has stored.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Servers, unique};

#[test]
fn a_reader_that_is_killed_goes_on_and_misses_nothing() {
    let (servers, stream) = (Servers::rabbitmq(), unique());
    let file = std::env::temp_dir().join(format!("{stream}.offset"));
    let file = file.to_str().unwrap();
    servers.run("append-events", &["--stream", &stream, "--count", "20"]);
    let reading = ["--stream", &stream, "--offset-file", file, "--store-every", "5"];
    let reader = servers.start("read-events", &[&reading[..], &["--work", "100"]].concat());
    reader.wait_for(" [x] 7: ");
    reader.kill();

    servers.run("append-events", &["--stream", &stream, "last"]);
    let reader = servers.start("read-events", &reading);
    let first = reader.wait_for(" [x] ");
    let first: u64 = first.split_once(':').unwrap().0.parse().unwrap();
    assert!(first <= 8, "the first one is {first}");
    for offset in first + 1..=20 {
        let next = reader.wait_for(" [x] ");
        assert_eq!(next.split_once(':').unwrap().0, offset.to_string());
    }
    reader.stop();
    std::fs::remove_file(file).unwrap();
}
