//! What a service knows of its products, and whom it tells when one changes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::CancellationToken;
use mysql_async::prelude::Queryable;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::database::{Database, Failure, within};
use crate::events::ProductId;
use crate::feed::Feed;
use crate::outbox;

/// After how many seconds we look for what another instance of this service has changed.
const REFRESH: u64 = 5;

/// A product as both services show it.
#[derive(Clone, PartialEq, Serialize)]
pub struct Product {
    pub id: u32,
    pub title: String,
    pub image: String,
    pub likes: u32,
}

/// What the routes of a service work with.
pub struct Service {
    pub database: Database,
    /// An event has been written into the outbox.
    pub written: Notify,
    /// The service ends: pages that wait for news are let go.
    pub ending: CancellationToken,
    /// Names of ours besides `localhost`.
    pub hosts: Vec<String>,
    /// The products as we have seen them last.
    known: Mutex<BTreeMap<u32, Product>>,
    /// Locked while we read: what was read earlier must not replace what was read later.
    reading: tokio::sync::Mutex<()>,
    /// What the pages are told.
    pub feed: Feed,
}

impl Service {
    pub fn new(database: Database, hosts: Vec<String>) -> Self {
        Self {
            database,
            written: Notify::new(),
            ending: CancellationToken::new(),
            hosts,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            feed: Feed::new(),
        }
    }

    /// To be called after each change of a product: tells the pages, and wakes the relay.
    pub async fn changed(&self, id: u32) {
        self.written.notify_one();
        let _reading = self.reading.lock().await;
        if let Ok(products) = within(self.read(Some(id))).await {
            self.tell(id, products.into_iter().next());
        }
    }

    /// To be called after each event that was applied.
    pub async fn applied(&self, event: &[u8]) {
        match serde_json::from_slice(event) {
            Ok(ProductId { id }) => self.changed(id).await,
            Err(_) => self.written.notify_one(),
        }
    }

    /// Reads all products, and tells the pages of those that have changed.
    pub async fn refresh(&self) {
        let _reading = self.reading.lock().await;
        let Ok(products) = within(self.read(None)).await else { return };
        let products: BTreeMap<_, _> =
            products.into_iter().map(|product| (product.id, product)).collect();
        let known: Vec<u32> = self.known().keys().copied().collect();
        for id in known.into_iter().filter(|id| !products.contains_key(id)) {
            self.tell(id, None);
        }
        for (id, product) in products {
            self.tell(id, Some(product));
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, Product>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, id: u32, product: Option<Product>) {
        let mut known = self.known();
        if known.get(&id) == product.as_ref() {
            return;
        }
        match product {
            Some(product) => {
                self.feed.send("product", &product);
                known.insert(id, product);
            }
            None => {
                known.remove(&id);
                self.feed.send("product", &json!({ "deleted": id }));
            }
        }
    }

    /// All products, or this one. If MySQL is away, as they were the last time.
    pub async fn products(&self, id: Option<u32>) -> Vec<Product> {
        match within(self.read(id)).await {
            Ok(products) => products,
            Err(_) => {
                let known = self.known();
                known.values().filter(|known| id.is_none_or(|id| id == known.id)).cloned().collect()
            }
        }
    }

    async fn read(&self, id: Option<u32>) -> Result<Vec<Product>, Failure> {
        let mut connection = self.database.connection().await?;
        let select = "SELECT id, title, image, likes FROM products";
        let product = |(id, title, image, likes)| Product { id, title, image, likes };
        Ok(match id {
            Some(id) => {
                connection.exec_map(format!("{select} WHERE id = ?"), (id,), product).await?
            }
            None => connection.query_map(format!("{select} ORDER BY id"), product).await?,
        })
    }

    /// As long as a page is open, looks for what waits in the outbox, and for what another instance
    /// of this service has changed.
    pub async fn follow<T>(&self) -> T {
        for second in 1u64.. {
            sleep(Duration::from_secs(1)).await;
            if !self.feed.is_watched() {
                continue;
            }
            self.feed.outbox(within(outbox::latest(&self.database)).await.ok());
            if second.is_multiple_of(REFRESH) {
                self.refresh().await;
            }
        }
        std::future::pending().await
    }
}
