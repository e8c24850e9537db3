//! The exercises of lesson 4.

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::trial::{Program, Trial, list};

/// The lines of the severities that were asked for, and no others.
pub async fn severities(trial: &Trial) -> Result<String> {
    let program = trial.start_ready(&["warning", "error"])?;
    for severity in ["info", "warning", "error", "info", "error"] {
        trial.publish("direct_logs", severity, &[format!("a line, {severity}")]).await?;
    }
    let wanted = ["a line, warning", "a line, error", "a line, error"];
    compare(program, "started with `warning error`", &wanted)
}

/// What fits the pattern, and nothing else.
pub async fn pattern(trial: &Trial) -> Result<String> {
    let program = trial.start_ready(&[])?;
    let wanted = ["eu.order", "eu.order.created", "eu.order.item.added", "eu.order.a.b.c"];
    let others = ["us.order.created", "eu.customer.created", "order.eu.created", "eu.orders.sent"];
    for key in wanted.iter().chain(&others) {
        trial.publish("events", key, &[(*key).to_owned()]).await?;
    }
    compare(program, "eight events", &wanted)
}

/// What has both headers.
pub async fn headers(trial: &Trial) -> Result<String> {
    let program = trial.start_ready(&[])?;
    for (name, headers) in [
        ("a report, PDF", &[("format", "pdf"), ("type", "report")][..]),
        ("a report, text", &[("format", "text"), ("type", "report")]),
        ("a letter, PDF", &[("format", "pdf"), ("type", "letter")]),
        ("a PDF", &[("format", "pdf")]),
        ("a long report, PDF", &[("format", "pdf"), ("type", "report"), ("pages", "100")]),
    ] {
        let mut table = FieldTable::default();
        for (key, value) in headers {
            table.insert((*key).into(), AMQPValue::LongString((*value).into()));
        }
        let headers = BasicProperties::default().with_headers(table);
        trial.publish_with("documents", "", name, headers).await?;
    }
    compare(program, "five documents", &["a report, PDF", "a long report, PDF"])
}

fn compare(program: Program, what: &str, wanted: &[&str]) -> Result<String> {
    let received = program.all("[x] Received ", wanted.len());
    let missing: Vec<_> =
        wanted.iter().filter(|name| !received.iter().any(|r| r == *name)).collect();
    let others: Vec<_> = received.iter().filter(|name| !wanted.contains(&name.as_str())).collect();
    let seen = format!("{what}: received: {}", list(&received));
    let missing = list(&missing.into_iter().copied().collect::<Vec<_>>());
    ensure!(missing == "none", "{seen}; missing: {missing}");
    ensure!(others.is_empty(), "{seen}; not asked for: {}", list(&others));
    ensure!(received.len() == wanted.len(), "{seen}; some came twice");
    Ok(seen)
}
