//! The service that people see: lists the products and takes their likes.
//!
//!     cargo run -p microservices --bin main

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use clap::Parser;
use common::{beside, note, supervise};
use microservices::database::{Database, Failure, persist, within};
use microservices::events::{self, CREATED, DELETED, LIKED, ProductId, UPDATED, WANTED};
use microservices::service::Service;
use microservices::web::Refusal;
use microservices::{inbox, outbox, web};
use mysql_async::prelude::Queryable;
use mysql_async::{Transaction, params};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

/// A copy of admin's products, with the likes that we know of.
const PRODUCTS: &str = "CREATE TABLE IF NOT EXISTS products (
    id INT UNSIGNED NOT NULL PRIMARY KEY,
    title VARCHAR(200) NOT NULL,
    image VARCHAR(2000) NOT NULL,
    likes INT UNSIGNED NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

/// A user likes a product once.
const LIKES: &str = "CREATE TABLE IF NOT EXISTS likes (
    user_id INT UNSIGNED NOT NULL,
    product_id INT UNSIGNED NOT NULL,
    PRIMARY KEY (user_id, product_id),
    KEY (product_id)
) ENGINE = InnoDB";

/// List products and take likes until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where to listen for HTTP
    #[arg(long, env = "MAIN_LISTEN", default_value = "127.0.0.1:8001")]
    listen: SocketAddr,

    /// Answer requests to this host, too, such as the public name of a reverse proxy
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// Where the other service is
    #[arg(
        long,
        env = "ADMIN_URL",
        hide_env_values = true,
        default_value = "http://localhost:8000"
    )]
    admin: String,

    /// Ask admin to send all products again: for when ours are gone
    #[arg(long)]
    resync: bool,
}

#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Answers requests, tells the other service what has changed, and hears what has changed there.
async fn run(args: Args) -> anyhow::Result<()> {
    let database = Database::open("main", &[PRODUCTS, LIKES]).await?;
    let service = Arc::new(Service::new(database, args.hosts));
    if args.resync {
        let ask = async || {
            let mut transaction = service.database.begin().await?;
            outbox::write(&mut transaction, WANTED, &json!({})).await?;
            Ok(transaction.commit().await?)
        };
        persist(ask).await.map_err(anyhow::Error::msg)?;
    }
    service.refresh().await; // to be known should MySQL go away

    // The other service is near: it is asked directly, whatever proxy this machine uses.
    // It closes a connection that was idle for 20 seconds; we must not use one at that moment.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(4)).no_proxy();
    let client = client.pool_idle_timeout(Duration::from_secs(10));
    let url = Url::parse(&format!("{}/api/user", args.admin.trim_end_matches('/')));
    let url = url.ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    let url = url.context("ADMIN_URL is not an address like http://localhost:8000")?;
    let admin = Arc::new(Admin { client: client.build()?, url });
    let routes = Router::new()
        .route("/api/products", get(web::list))
        .route("/api/products/{id}/like", post(like))
        .layer(Extension(admin));
    let page = include_str!("../../static/main.html");
    let script = include_str!("../../static/main.js");
    let router = web::router(page, script, routes, &service);
    let work = supervise(env!("CARGO_BIN_NAME"), async |connection, stop| {
        tokio::try_join!(
            beside("main: relay", async |connection| {
                outbox::relay(connection, stop, &service).await
            }),
            inbox::consume(connection, stop, "main", &service, apply),
            inbox::forget(&service.database, stop),
            service.feed.watch(connection, stop, "admin"),
        )?;
        Ok(())
    });
    web::serve_while(args.listen, router, &service, work).await
}

/// Admin tells what has become of a product.
async fn apply(
    transaction: &mut Transaction<'static>,
    kind: &str,
    body: &[u8],
) -> Result<(), Failure> {
    match kind {
        // The same for both: a product that we do not know is new to us.
        CREATED | UPDATED => {
            let events::Product { id, title, image } = serde_json::from_slice(body)?;
            events::Product::check(&title, &image)
                .map_err(|reason| Failure::Refused(reason.to_owned()))?;
            let store = "INSERT INTO products (id, title, image) VALUES (:id, :title, :image)
                ON DUPLICATE KEY UPDATE title = :title, image = :image";
            transaction.exec_drop(store, params! { id, title, image }).await?;
        }
        DELETED => {
            let ProductId { id } = serde_json::from_slice(body)?;
            // First the product, as a like does: or else the two could wait for each other.
            transaction.exec_drop("DELETE FROM products WHERE id = ?", (id,)).await?;
            transaction.exec_drop("DELETE FROM likes WHERE product_id = ?", (id,)).await?;
        }
        _ => return Err(Failure::Refused(format!("{kind} is nothing we know"))),
    }
    Ok(())
}

/// The other service, as far as we need it.
struct Admin {
    client: reqwest::Client,
    url: Url,
}

#[derive(Deserialize)]
struct User {
    id: u32,
}

impl Admin {
    /// Who likes: a user that admin chooses.
    async fn user(&self) -> reqwest::Result<User> {
        self.client.get(self.url.clone()).send().await?.error_for_status()?.json().await
    }
}

enum Like {
    New,
    Known,
    NoProduct,
}

async fn like(
    State(service): State<Arc<Service>>,
    Extension(admin): Extension<Arc<Admin>>,
    id: Result<Path<u32>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(id) = id?;
    let user = admin.user().await.map_err(|error| {
        note!(" [!] The service admin: {error}");
        Refusal::unavailable("the service admin")
    })?;
    let like = within(async {
        let mut transaction = service.database.begin().await?;
        // The row is locked until the end of the transaction: the product stays.
        let select = "SELECT id FROM products WHERE id = ? FOR UPDATE";
        let known: Option<u32> = transaction.exec_first(select, (id,)).await?;
        if known.is_none() {
            return Ok(Like::NoProduct);
        }
        let insert = "INSERT INTO likes (user_id, product_id) VALUES (?, ?) ON DUPLICATE KEY UPDATE user_id = user_id";
        transaction.exec_drop(insert, (user.id, id)).await?;
        if transaction.affected_rows() == 0 {
            return Ok(Like::Known);
        }
        let add = "UPDATE products SET likes = likes + 1 WHERE id = ?";
        transaction.exec_drop(add, (id,)).await?;
        outbox::write(&mut transaction, LIKED, &ProductId { id }).await?;
        transaction.commit().await?;
        Ok(Like::New)
    })
    .await?;
    match like {
        Like::New => {
            service.changed(id).await;
            Ok(Json(json!({ "message": "success" })))
        }
        Like::Known => {
            Err(Refusal(StatusCode::BAD_REQUEST, "this user likes it already".to_owned()))
        }
        Like::NoProduct => Err(Refusal::not_found()),
    }
}
