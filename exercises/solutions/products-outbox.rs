//! Hint: `pool.start_transaction(TxOpts::default())` gives a transaction, which executes statements
//! as a connection does. It ends with `commit()`.
//!
//! Why: in one transaction there are both, the product and its event, or neither. A relay publishes
//! the event later, from the table.

use std::env;

use anyhow::Context;
use common::address::mysql_url;
use common::say;
use mysql_async::prelude::Queryable;
use mysql_async::{Pool, TxOpts};

const PRODUCT: &str = "INSERT INTO products (title) VALUES (?)";
const EVENT: &str = "INSERT INTO outbox (kind, body) VALUES ('product_created', ?)";

#[tokio::main]
async fn main() {
    common::exit(create().await)
}

async fn create() -> anyhow::Result<()> {
    let title = env::args().nth(1).context("usage: products-outbox TITLE")?;
    let pool = Pool::new(mysql_url()?.as_str());
    let mut transaction = pool.start_transaction(TxOpts::default()).await?;
    transaction.exec_drop(PRODUCT, (&title,)).await?;
    transaction.exec_drop(EVENT, (&title,)).await?;
    transaction.commit().await?;
    say!(" [x] Created {title}")?;
    pool.disconnect().await?;
    Ok(())
}
