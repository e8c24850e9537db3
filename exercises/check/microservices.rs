//! The exercises of lesson 6.

use anyhow::{Result, ensure};
use lapin::BasicProperties;
use mysql_async::prelude::Queryable;

use crate::orders::cut_at_commit;
use crate::trial::Trial;

/// There is never a product without its event, nor an event without its product.
pub async fn outbox(trial: &Trial) -> Result<String> {
    let database = trial.database()?;
    let products = "CREATE TABLE products (id INT AUTO_INCREMENT PRIMARY KEY, title VARCHAR(99))";
    let outbox = "CREATE TABLE outbox (id BIGINT AUTO_INCREMENT PRIMARY KEY, kind VARCHAR(99),
        body TEXT)";
    database.run(&[products, outbox]).await?;
    let mut seen = Vec::new();
    for away in [None, Some("outbox"), Some("products")] {
        if let Some(table) = away {
            database.run(&[&format!("RENAME TABLE {table} TO away")]).await?;
        }
        let ran = trial.run(&["Boat"])?;
        if let Some(table) = away {
            database.run(&[&format!("RENAME TABLE away TO {table}")]).await?;
        }
        let products = database.number("SELECT COUNT(*) FROM products").await?;
        let events = database.number("SELECT COUNT(*) FROM outbox").await?;
        let what = match away {
            Some(table) => format!("without the table `{table}`"),
            None => "when all is well".to_owned(),
        };
        seen.push(format!("{what}: products: {products}, events: {events}"));
        let seen = seen.join("; ");
        ensure!((products, events) == (1, 1), "{seen}");
        let said = ran.said("[x] Created ").len();
        let expected = usize::from(away.is_none());
        ensure!(said == expected, "{seen}; `Created` was said {said} times");
        let succeeded = ran.status.success();
        ensure!(succeeded == away.is_none(), "{seen}; the program ended with {}", ran.status);
    }
    Ok(seen.join("; "))
}

/// A like counts once, and it counts.
pub async fn inbox(trial: &Trial) -> Result<String> {
    let database = trial.database()?;
    database
        .run(&[
            "CREATE TABLE products (id INT PRIMARY KEY, likes INT NOT NULL)",
            "INSERT INTO products (id, likes) VALUES (1, 0)",
            "CREATE TABLE inbox (message_id VARCHAR(36) PRIMARY KEY)",
        ])
        .await?;
    let likes = "SELECT likes FROM products WHERE id = 1";
    let like = async |id: &str| {
        let id = BasicProperties::default().with_message_id(id.into());
        trial.publish_with("", "likes", "1", id).await
    };
    let mut program = trial.start_ready(&[])?;
    for id in ["a", "b", "b", "c"] {
        like(id).await?;
    }
    program.all("[x] Liked ", 4);
    let counted = database.number(likes).await?;
    let seen = format!("3 likes, one of which came twice: {counted} counted");
    ensure!(counted == 3, "{seen}");

    // It waits for the row, and its connection is cut there.
    let mut lock = database.connect().await?;
    lock.query_drop("BEGIN").await?;
    lock.query_drop("SELECT * FROM products WHERE id = 1 FOR UPDATE").await?;
    like("d").await?;
    database.wait_for_statement("products").await?;
    database.cut(lock.id()).await?;
    lock.query_drop("ROLLBACK").await?;
    lock.disconnect().await?;
    program.let_it_try().await;
    if program.has_ended() {
        program = trial.start_ready(&[])?;
    }
    program.all("[x] Liked ", 1);
    let counted = database.number(likes).await?;
    let seen = format!("{seen}; 1 more, and MySQL cut off in the middle of it: {counted} counted");
    ensure!(counted == 4, "{seen}");

    program.kill("")?;
    let program = cut_at_commit(trial, async || like("e").await).await?;
    program.all("[x] Liked ", 1);
    let counted = database.number(likes).await?;
    let seen = format!("{seen}; 1 more, killed before its COMMIT: {counted} counted");
    ensure!(counted == 5, "{seen}");
    Ok(seen)
}
