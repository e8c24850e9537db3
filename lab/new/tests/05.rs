//! Each order is stored once, though the program that stores it is killed.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use support::Servers;
use tokio::time::sleep;

const ORDERS: u64 = 5000;

async fn stored(servers: &Servers) -> u64 {
    let mut connection = Conn::from_url(&servers.mysql_url).await.unwrap();
    let count = connection.query_first("SELECT COUNT(*) FROM tb_order").await;
    connection.disconnect().await.unwrap();
    count.unwrap().unwrap()
}

/// Waits until there are so many rows.
async fn wait_for(servers: &Servers, wanted: u64) {
    let start = Instant::now();
    loop {
        let rows = stored(servers).await;
        if rows >= wanted {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{rows} rows of {wanted}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_or_stored_twice() {
    let servers = Servers::with_mysql();
    let receiver = servers.start("receive-orders", &["--batch", "10"]); // creates the table
    let before = stored(&servers).await;
    servers.run("request-orders", &[&ORDERS.to_string()]);
    wait_for(&servers, before + 1).await;
    receiver.kill();

    let receiver = servers.start("receive-orders", &[]);
    wait_for(&servers, before + ORDERS).await;
    receiver.stop();
    assert_eq!(stored(&servers).await, before + ORDERS);
}
