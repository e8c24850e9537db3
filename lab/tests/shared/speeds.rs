//! The table of speeds on the front page. Its figures are those of BENCHMARKS.md.

use std::fmt::Write;

use anyhow::{Context, Result};

/// Where the table is in README.md.
const MARKS: [&str; 2] = ["<!-- speeds of BENCHMARKS.md -->\n", "<!-- end of speeds -->\n"];

/// With whom the lessons are compared.
const CLIENTS: [&str; 5] = ["pika", "amqplib", "amqprs", "amqp-client", "bare socket"];

/// What a row is called here, and what in BENCHMARKS.md.
const ROWS: [(&str, &str); 5] = [
    ("`send`, from its start to its end", "`send`"),
    ("publish, up to 1000 unconfirmed", "`request-orders`: up to 1000 unconfirmed"),
    ("publish, wait for each confirm", "as in `send`: one at a time"),
    ("consume, one acknowledgement for 500", "as in `receive-orders`: 500 per ack"),
    (
        "consume, one for all that has come; the others: for each",
        "as in `receive-until-idle`: what has come per ack",
    ),
];

/// The front page with the table that belongs to these benchmarks.
///
/// # Errors
///
/// The front page has no place for it.
pub fn put(readme: &str, benchmarks: &str) -> Result<String> {
    let [begin, end] = MARKS.map(|mark| readme.split_once(mark));
    let ((before, _), (_, after)) =
        begin.zip(end).context("README.md has no place for the speeds")?;
    Ok(format!("{before}{}\n{}\n{}{after}", MARKS[0], table(benchmarks), MARKS[1]))
}

fn table(benchmarks: &str) -> String {
    let rows: Vec<Vec<&str>> = benchmarks
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let mut table = format!("| | {} |\n| --- |{}\n", CLIENTS.join(" | "), " --: |".repeat(5));
    for (name, what) in ROWS {
        let speedup = |client: &str| {
            let compared = |row: &&Vec<&str>| row[1] == what && row[3].contains(client);
            rows.iter().find(compared).map_or("", |row| row[5])
        };
        let cells = CLIENTS.map(speedup).join(" | ");
        _ = writeln!(table, "| {name} | {cells} |");
    }
    table
}
