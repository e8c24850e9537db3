//! What happens in one service arrives in the other one, though that is killed.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Program, Servers, unique};

/// Starts a service at a free port: its address.
fn start(servers: &Servers, name: &str, arguments: &[&str]) -> (Program, String) {
    let service = servers.begin(name, &[&["--listen", "127.0.0.1:0"], arguments].concat());
    let port = service.wait_for(" [*] http://localhost:");
    service.wait_for(" [*] Waiting for events");
    (service, format!("http://localhost:{port}"))
}

async fn products(url: &str) -> Vec<Value> {
    reqwest::get(format!("{url}/api/products")).await.unwrap().json().await.unwrap()
}

/// The product of this title, once it is so.
async fn product(url: &str, title: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let products = products(url).await;
        let found = products.into_iter().find(|product| product["title"] == title);
        match found.filter(&is_so) {
            Some(product) => return product,
            None => assert!(start.elapsed() < Duration::from_secs(60), "{title} at {url}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_when_a_service_is_killed() {
    let (servers, title) = (Servers::with_mysql(), unique());
    let (admin, admin_url) = start(&servers, "admin", &["--users", "1000000"]);
    let (main, _) = start(&servers, "main", &[]);
    main.kill();
    let draft = json!({"title": title, "image": "/images/mountain.svg"});
    let client = reqwest::Client::new();
    let create = client.post(format!("{admin_url}/api/products")).json(&draft);
    assert_eq!(create.send().await.unwrap().status(), 201);

    let arguments = ["--admin", &admin_url];
    let (main, main_url) = start(&servers, "main", &arguments);
    let id = product(&main_url, &title, |_| true).await["id"].clone();
    let like = client.post(format!("{main_url}/api/products/{id}/like"));
    assert_eq!(like.send().await.unwrap().status(), 200);
    main.kill(); // the like may still be in its outbox

    let (main, _) = start(&servers, "main", &arguments);
    product(&admin_url, &title, |product| product["likes"] == 1).await;
    main.stop();
    admin.stop();
}
