//! The service that owns the products: creates, changes and deletes them, and counts their likes.
//!
//!     cargo run -p microservices --bin admin

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use common::{beside, note, supervise};
use microservices::database::{Database, Failure, persist, within};
use microservices::events::{self, CREATED, DELETED, LIKED, ProductId, UPDATED, WANTED};
use microservices::service::{Product, Service};
use microservices::web::Refusal;
use microservices::{inbox, outbox, web};
use mysql_async::Transaction;
use mysql_async::prelude::Queryable;
use serde::Deserialize;

const PRODUCTS: &str = "CREATE TABLE IF NOT EXISTS products (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    title VARCHAR(200) NOT NULL,
    image VARCHAR(2000) NOT NULL,
    likes INT UNSIGNED NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

/// What there is to like before anybody has added something.
const SAMPLES: [(&str, &str); 3] = [
    ("Lighthouse", "/images/lighthouse.svg"),
    ("Mountain", "/images/mountain.svg"),
    ("Sailboat", "/images/sailboat.svg"),
];

/// Manage products, and tell the other service about them, until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where to listen for HTTP
    #[arg(long, env = "ADMIN_LISTEN", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// Answer requests to this host, too, such as the public name of a reverse proxy
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// How many users there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Answers requests, tells the other service what has changed, and hears what has changed there.
async fn run(args: Args) -> anyhow::Result<()> {
    let database = Database::open("admin", &[PRODUCTS]).await?;
    let service = Arc::new(Service::new(database, args.hosts));
    samples(&service.database).await?;
    service.refresh().await; // to be known should MySQL go away

    let user = async move || Json(serde_json::json!({ "id": fastrand::u32(1..=args.users) }));
    let routes = Router::new()
        .route("/api/products", get(web::list).post(create))
        .route("/api/products/{id}", get(read).put(update).delete(delete))
        .route("/api/user", get(user));
    let page = include_str!("../../static/admin.html");
    let script = include_str!("../../static/admin.js");
    let router = web::router(page, script, routes, &service);
    let work = supervise(env!("CARGO_BIN_NAME"), async |connection, stop| {
        tokio::try_join!(
            beside("admin: relay", async |connection| {
                outbox::relay(connection, stop, &service).await
            }),
            inbox::consume(connection, stop, "admin", &service, apply),
            inbox::forget(&service.database, stop),
            service.feed.watch(connection, stop, "main"),
        )?;
        Ok(())
    });
    web::serve_while(args.listen, router, &service, work).await
}

/// Puts the samples in, if there is nothing. If two of us start at once, one of them does.
async fn samples(database: &Database) -> anyhow::Result<()> {
    let insert = async || {
        let mut transaction = database.begin().await?;
        transaction.query_drop("SELECT GET_LOCK('samples of admin', 10)").await?;
        let known: Option<u32> = transaction.query_first("SELECT 1 FROM products LIMIT 1").await?;
        if known.is_none() {
            for (title, image) in SAMPLES {
                insert(&mut transaction, title, image).await?;
            }
        }
        transaction.query_drop("COMMIT").await?;
        transaction.query_drop("SELECT RELEASE_LOCK('samples of admin')").await?;
        Ok(transaction.commit().await?)
    };
    persist(insert).await.map_err(anyhow::Error::msg)
}

/// Main tells of a like, or asks for all products.
async fn apply(
    transaction: &mut Transaction<'static>,
    kind: &str,
    body: &[u8],
) -> Result<(), Failure> {
    match kind {
        LIKED => {
            let product: ProductId = serde_json::from_slice(body)?;
            let add = "UPDATE products SET likes = likes + 1 WHERE id = ?";
            transaction.exec_drop(add, (product.id,)).await?;
            if transaction.affected_rows() == 0 {
                // The two have crossed on their way.
                note!(" [*] A like of product {} came too late: it is deleted", product.id);
            }
        }
        WANTED => {
            // Locked: what changes meanwhile comes later in the outbox, too.
            let select = "SELECT id, title, image FROM products ORDER BY id FOR UPDATE";
            let product = |(id, title, image)| events::Product { id, title, image };
            let products = transaction.query_map(select, product).await?;
            outbox::write_all(transaction, UPDATED, &products).await?;
        }
        _ => return Err(Failure::Refused(format!("{kind} is nothing we know"))),
    }
    Ok(())
}

/// The body of a request that creates or changes a product.
#[derive(Deserialize)]
struct Draft {
    title: String,
    image: String,
}

impl Draft {
    fn checked(self) -> Result<Self, Refusal> {
        let title = self.title.trim().to_owned();
        events::Product::check(&title, &self.image)
            .map_err(|reason| Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason.to_owned()))?;
        Ok(Self { title, image: self.image })
    }
}

/// Inserts a product and writes its event: its id.
async fn insert(
    transaction: &mut Transaction<'static>,
    title: &str,
    image: &str,
) -> Result<u32, Failure> {
    let insert = "INSERT INTO products (title, image) VALUES (?, ?)";
    transaction.exec_drop(insert, (title, image)).await?;
    let id = transaction.last_insert_id().and_then(|id| u32::try_from(id).ok());
    let id = id.ok_or_else(|| Failure::Refused("no id".to_owned()))?;
    let (title, image) = (title.to_owned(), image.to_owned());
    outbox::write(transaction, CREATED, &events::Product { id, title, image }).await?;
    Ok(id)
}

async fn create(
    State(service): State<Arc<Service>>,
    draft: Result<Json<Draft>, JsonRejection>,
) -> Result<(StatusCode, Json<Product>), Refusal> {
    let Draft { title, image } = draft?.0.checked()?;
    let id = within(async {
        let mut transaction = service.database.begin().await?;
        let id = insert(&mut transaction, &title, &image).await?;
        transaction.commit().await?;
        Ok(id)
    })
    .await?;
    service.changed(id).await;
    Ok((StatusCode::CREATED, Json(Product { id, title, image, likes: 0 })))
}

async fn find(transaction: &mut Transaction<'static>, id: u32) -> Result<Option<Product>, Failure> {
    let select = "SELECT title, image, likes FROM products WHERE id = ? FOR UPDATE";
    let row: Option<(String, String, u32)> = transaction.exec_first(select, (id,)).await?;
    Ok(row.map(|(title, image, likes)| Product { id, title, image, likes }))
}

async fn read(
    State(service): State<Arc<Service>>,
    id: Result<Path<u32>, PathRejection>,
) -> Result<Json<Product>, Refusal> {
    let Path(id) = id?;
    let product = service.products(Some(id)).await.pop();
    product.map(Json).ok_or_else(Refusal::not_found)
}

async fn update(
    State(service): State<Arc<Service>>,
    id: Result<Path<u32>, PathRejection>,
    draft: Result<Json<Draft>, JsonRejection>,
) -> Result<(StatusCode, Json<Product>), Refusal> {
    let Path(id) = id?;
    let Draft { title, image } = draft?.0.checked()?;
    let product = within(async {
        let mut transaction = service.database.begin().await?;
        // The row is locked until the end of the transaction. So the events of a product stand in
        // the outbox in the order of its changes.
        let Some(known) = find(&mut transaction, id).await? else {
            return Ok(None);
        };
        let update = "UPDATE products SET title = ?, image = ? WHERE id = ?";
        transaction.exec_drop(update, (&title, &image, id)).await?;
        let event = events::Product { id, title: title.clone(), image: image.clone() };
        outbox::write(&mut transaction, UPDATED, &event).await?;
        transaction.commit().await?;
        Ok(Some(Product { title, image, ..known }))
    })
    .await?;
    service.changed(id).await;
    product.map(|product| (StatusCode::ACCEPTED, Json(product))).ok_or_else(Refusal::not_found)
}

async fn delete(
    State(service): State<Arc<Service>>,
    id: Result<Path<u32>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(id) = id?;
    let deleted = within(async {
        let mut transaction = service.database.begin().await?;
        if find(&mut transaction, id).await?.is_none() {
            return Ok(false);
        }
        let delete = "DELETE FROM products WHERE id = ?";
        transaction.exec_drop(delete, (id,)).await?;
        outbox::write(&mut transaction, DELETED, &ProductId { id }).await?;
        transaction.commit().await?;
        Ok(true)
    })
    .await?;
    service.changed(id).await;
    match deleted {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::not_found()),
    }
}
