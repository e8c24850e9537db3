//! Lesson 6: a change and its event
//!
//! This program writes a product into the table `products`, and an event that tells of it into the
//! table `outbox`, and says `[x] Created ...`.
//!
//! Wanted: there is never one without the other.
//!
//! The check: it is run once when all is well, once when the table `outbox` has another name, and
//! once when `products` has. The rows are counted.
//!
//! Help: 06-microservices/README.md, "The outbox".

use std::env;

use anyhow::Context;
use common::address::mysql_url;
use common::say;
use mysql_async::Pool;
use mysql_async::prelude::Queryable;

const PRODUCT: &str = "INSERT INTO products (title) VALUES (?)";
const EVENT: &str = "INSERT INTO outbox (kind, body) VALUES ('product_created', ?)";

#[tokio::main]
async fn main() {
    common::exit(create().await)
}

async fn create() -> anyhow::Result<()> {
    let title = env::args().nth(1).context("usage: products-outbox TITLE")?;
    let pool = Pool::new(mysql_url()?.as_str());
    let mut connection = pool.get_conn().await?;
    connection.exec_drop(PRODUCT, (&title,)).await?;
    connection.exec_drop(EVENT, (&title,)).await?;
    drop(connection);
    say!(" [x] Created {title}")?;
    pool.disconnect().await?;
    Ok(())
}
