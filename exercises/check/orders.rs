//! The exercises of lesson 5.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use crate::proxy::{Line, Proxy};
use crate::trial::{Program, Trial, WHILE, list};

/// An order that comes twice is stored once.
pub async fn twice(trial: &Trial) -> Result<String> {
    let database = trial.database()?;
    for orders in [
        &[("1", "book"), ("2", "lamp"), ("3", "book"), ("4", "chair"), ("5", "pen")][..],
        &[("2", "lamp"), ("4", "chair")],
    ] {
        // Those that come again come to another process: it has died before it could acknowledge.
        let program = trial.start_ready(&[])?;
        for (id, item) in orders {
            let id = BasicProperties::default().with_message_id((*id).into());
            trial.publish_with("", "orders", item, id).await?;
        }
        program.all("[x] Stored ", orders.len());
        program.kill("")?;
    }
    let left = trial.take_all("orders").await?.len();
    let rows = database.number("SELECT COUNT(*) FROM orders").await?;
    let books = database.number("SELECT COUNT(*) FROM orders WHERE item = 'book'").await?;
    let seen = format!(
        "5 orders, 2 of them twice: {rows} rows; 2 are for a book: {books} rows; {left} orders are \
         still in the queue"
    );
    ensure!((rows, books, left) == (5, 2, 0), "{seen}");
    Ok(seen)
}

/// An order is acknowledged when it is stored.
pub async fn commit(trial: &Trial) -> Result<String> {
    let database = trial.database()?;
    let program = trial.start_ready(&[])?;
    database.run(&["INSERT INTO orders (item) VALUES ('a chair of before')"]).await?;
    let mut lock = database.connect().await?;
    lock.query_drop("LOCK TABLES orders WRITE").await?;
    trial.publish("", "orders", &["book", "lamp", "pen"].map(str::to_owned)).await?;
    let received = program.says("[x] Received ")?;
    database.wait_for_statement("orders").await?;
    program.kill("")?;
    database.cut(lock.id()).await?;
    lock.disconnect().await?;
    let program = trial.start_ready(&[])?;
    program.all("[x] Stored ", 3);
    program.kill("")?;
    let left = trial.take_all("orders").await?;
    let mut stored = Vec::new();
    for item in ["book", "lamp", "pen"] {
        let query = format!("SELECT COUNT(*) FROM orders WHERE item = '{item}'");
        if database.number(&query).await? > 0 {
            stored.push(item);
        }
    }
    let lost = 3 - stored.len().min(3);
    let seen = format!(
        "3 orders, killed while MySQL was busy with `{received}`: stored: {}; lost: {lost}; still \
         in the queue: {}",
        list(&stored),
        list(&left)
    );
    ensure!(lost == 0 && left.is_empty(), "{seen}");

    let program =
        cut_at_commit(trial, async || trial.publish("", "orders", &["desk".to_owned()]).await)
            .await?;
    program.all("[x] Stored ", 1);
    program.kill("")?;
    let desks = database.number("SELECT COUNT(*) FROM orders WHERE item = 'desk'").await?;
    let left = trial.take_all("orders").await?.len();
    let seen = format!(
        "{seen}; 1 order, killed before its COMMIT: {desks} stored, {left} still in the queue"
    );
    ensure!((desks, left) == (1, 0), "{seen}");
    Ok(seen)
}

/// Lets the program work on a message until it says COMMIT to MySQL, which does not hear it. Then
/// kills it, and starts it again. A program without transactions is killed after a while.
pub async fn cut_at_commit(
    trial: &Trial,
    publish: impl AsyncFnOnce() -> Result<()>,
) -> Result<Program> {
    let proxy = Proxy::start(&trial.database()?.url, Line::CutAt(b"COMMIT"))?;
    // mysql_async would go round the proxy, through MySQL's Unix socket
    let url = format!("{}?prefer_socket=false", proxy.url);
    let program = trial.start_with(&[], &[("MYSQL_URL", &url)])?;
    program.says("[*] Waiting")?;
    publish().await?;
    let start = Instant::now();
    while start.elapsed() < WHILE && !proxy.has_cut() {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(100)).await; // for an acknowledgement that came before
    program.kill("")?;
    trial.start_ready(&[])
}

/// What can never be stored is put aside, and what cannot be stored now is not.
pub async fn poison(trial: &Trial) -> Result<String> {
    let database = trial.database()?;
    let program = trial.start_ready(&[])?;
    let long = "a chair that is longer than twenty characters";
    trial.publish("", "orders", &["lamp", long, "pen"].map(str::to_owned)).await?;
    program.all("[x] Stored ", 2);
    let rows = database.number("SELECT COUNT(*) FROM orders").await?;
    let dead = trial.take_all("orders.dead").await?.len();
    let seen = format!("3 orders, one of them too long: {rows} stored, {dead} in `orders.dead`");
    ensure!((rows, dead) == (2, 1), "{seen}");

    let mut program = program;
    database.run(&["RENAME TABLE orders TO orders_away"]).await?;
    trial.publish("", "orders", &["desk".to_owned()]).await?;
    program.let_it_try().await;
    database.run(&["DROP TABLE IF EXISTS orders", "RENAME TABLE orders_away TO orders"]).await?;
    if program.has_ended() {
        program = trial.start_ready(&[])?;
    }
    program.all("[x] Stored ", 1);
    program.kill("")?;
    let rows = database.number("SELECT COUNT(*) FROM orders WHERE item = 'desk'").await?;
    let dead = trial.take_all("orders.dead").await?.len();
    let seen = format!(
        "{seen}; 1 order while the table was away for a moment: {rows} stored, {dead} in \
         `orders.dead`"
    );
    ensure!((rows, dead) == (1, 0), "{seen}");
    Ok(seen)
}
