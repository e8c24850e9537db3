//! The service that people see: lists the products and takes their likes.
//!
//!     cargo run -p microservices --bin main

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use clap::Parser;
use common::{note, supervise};
use microservices::database::{Database, Failure, within};
use microservices::events::{self, CREATED, DELETED, LIKED, UPDATED};
use microservices::web::{Refusal, Service};
use microservices::{inbox, outbox, web};
use mysql_async::Transaction;
use mysql_async::prelude::Queryable;
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
    PRIMARY KEY (user_id, product_id)
) ENGINE = InnoDB";

/// List products and take likes until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// Where to listen for HTTP
    #[arg(long, env = "MAIN_LISTEN", default_value = "127.0.0.1:8001")]
    listen: SocketAddr,

    /// Where the other service is
    #[arg(long, env = "ADMIN_URL", default_value = "http://localhost:8000")]
    admin: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    common::exit(run(Args::parse()).await)
}

/// Answers requests, tells the other service what has changed, and hears what has changed there.
async fn run(args: Args) -> anyhow::Result<()> {
    let database = Database::open("main", &[PRODUCTS, LIKES]).await?;
    let service = Arc::new(Service::new(database));
    service.changed().await; // to be known should MySQL go away

    // The other service is near: it is asked directly, whatever proxy this machine uses.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(4)).no_proxy();
    let url = format!("{}/api/user", args.admin.trim_end_matches('/'));
    let admin = Arc::new(Admin { client: client.build()?, url });
    let routes = Router::new()
        .route("/api/products", get(web::list))
        .route("/api/products/{id}/like", post(like))
        .layer(Extension(admin));
    let page = include_str!("../../static/main.html");
    let router = web::router(page, routes, &service);
    let work = supervise(env!("CARGO_BIN_NAME"), async |connection, stop| {
        let changed = async || service.changed().await;
        tokio::try_join!(
            outbox::relay(connection, stop, &service.database, &service.written),
            inbox::consume(connection, stop, "main", &service.database, apply, changed),
        )?;
        Ok(())
    });
    web::serve_while(args.listen, router, service.ending.clone(), work).await
}

/// Admin tells what has become of a product.
async fn apply(
    transaction: &mut Transaction<'static>,
    kind: &str,
    body: &[u8],
) -> Result<(), Failure> {
    let id = match kind {
        CREATED => {
            let product: events::Product = serde_json::from_slice(body)?;
            let insert = "INSERT INTO products (id, title, image) VALUES (?, ?, ?)";
            transaction.exec_drop(insert, (product.id, product.title, product.image)).await?;
            return Ok(());
        }
        UPDATED => {
            let product: events::Product = serde_json::from_slice(body)?;
            let select = "SELECT id FROM products WHERE id = ?";
            let known: Option<u32> = transaction.exec_first(select, (product.id,)).await?;
            let update = "UPDATE products SET title = ?, image = ? WHERE id = ?";
            transaction.exec_drop(update, (product.title, product.image, product.id)).await?;
            known.is_none().then_some(product.id)
        }
        DELETED => {
            let product: events::ProductId = serde_json::from_slice(body)?;
            // First the product, as a like does: or else the two could wait for each other.
            let delete = "DELETE FROM products WHERE id = ?";
            transaction.exec_drop(delete, (product.id,)).await?;
            let known = transaction.affected_rows() > 0;
            let delete = "DELETE FROM likes WHERE product_id = ?";
            transaction.exec_drop(delete, (product.id,)).await?;
            (!known).then_some(product.id)
        }
        _ => return Err(Failure::Refused(format!("{kind} is nothing we know"))),
    };
    match id {
        Some(id) => Err(Failure::Refused(format!("there is no product {id}"))),
        None => Ok(()),
    }
}

/// The other service, as far as we need it.
struct Admin {
    client: reqwest::Client,
    url: String,
}

#[derive(Deserialize)]
struct User {
    id: u32,
}

impl Admin {
    /// Who likes: a user that admin chooses.
    async fn user(&self) -> reqwest::Result<User> {
        self.client.get(&self.url).send().await?.error_for_status()?.json().await
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
        outbox::write(&mut transaction, LIKED, &events::ProductId { id }).await?;
        transaction.commit().await?;
        Ok(Like::New)
    })
    .await?;
    match like {
        Like::New => {
            service.changed().await;
            Ok(Json(json!({ "message": "success" })))
        }
        Like::Known => {
            Err(Refusal(StatusCode::BAD_REQUEST, "this user likes it already".to_owned()))
        }
        Like::NoProduct => Err(Refusal::not_found()),
    }
}
