//! The pages of lesson 06, in a real browser.

use std::process::Command;
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::services::Test;
use crate::support::{LIMIT, Terminal};

struct Browser {
    client: Client,
    _driver: Terminal,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0");
        let driver = Terminal::start(driver);
        let port = loop {
            let line = driver.line().expect("chromedriver has ended");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = tempfile::tempdir().unwrap();
        let arguments = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            format!("--user-data-dir={}", profile.path().display()),
        ]);
        let Value::Object(capabilities) = json!({"goog:chromeOptions": {"args": arguments}}) else {
            unreachable!()
        };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Self { client, _driver: driver, _profile: profile }
    }

    /// Waits until this JavaScript is true.
    async fn wait(&self, condition: &str) {
        let start = Instant::now();
        let script = format!("return {condition}");
        while self.client.execute(&script, Vec::new()).await.unwrap() != true {
            assert!(
                start.elapsed() < LIMIT,
                "{condition}: {}",
                self.client.source().await.unwrap()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    async fn fill(&self, name: &str, text: &str) {
        let input = self.client.find(Locator::Css(&format!("input[name={name}]"))).await.unwrap();
        input.clear().await.unwrap();
        input.send_keys(text).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_drawn_liked_and_changed_without_a_reload() {
    let test = Test::shared("page", 1).await;
    let [admin, main] = test.ports;
    let browser = Browser::start().await;
    let client = &browser.client;
    let items = "document.querySelectorAll('#products li')";

    client.goto(&format!("http://127.0.0.1:{main}/")).await.unwrap();
    browser.wait(&format!("{items}.length === 3")).await;
    browser
        .wait("[...document.images].length === 3 && [...document.images].every(image => image.complete && image.naturalWidth > 0)")
        .await;
    client.execute("window.loaded = 'once'", Vec::new()).await.unwrap();

    let first = |text: &str| format!("{items}[0].querySelector('span').textContent === '{text}'");
    browser.wait(&first("0 likes")).await;
    browser.click("#products li:first-child button").await;
    browser.wait(&first("1 like")).await;
    browser.click("#products li:first-child button").await;
    browser
        .wait("document.querySelector('#status').textContent === 'this user likes it already'")
        .await;
    browser.wait(&first("1 like")).await;

    // with the keyboard
    let second = client.find(Locator::Css("#products li:nth-child(2) button")).await.unwrap();
    second.send_keys("\u{E007}").await.unwrap(); // Enter
    browser.wait(&format!("{items}[1].querySelector('span').textContent === '1 like'")).await;

    // what is added in admin appears, and a title is text
    let title = "<script>document.title = 'broken'</script><b>bold</b>";
    let draft = json!({"title": title, "image": "/images/mountain.svg"});
    assert_eq!(test.admin("POST", "/api/products", Some(draft)).0, 201);
    browser.wait(&format!("{items}.length === 4")).await;
    browser.wait(&format!("{items}[3].querySelector('h2').textContent === {}", json!(title))).await;
    browser
        .wait("document.querySelectorAll('h2 *').length === 0 && document.title === 'Pictures'")
        .await;
    browser.wait("window.loaded === 'once'").await;

    // the page of admin: add, change, delete
    client.goto(&format!("http://127.0.0.1:{admin}/")).await.unwrap();
    browser.wait(&format!("{items}.length === 4")).await;
    browser.fill("title", "Harbour").await;
    browser.fill("image", "/images/sailboat.svg").await;
    browser.click("#save").await;
    browser.wait(&format!("{items}.length === 5")).await;
    browser.click("#products li:last-child button").await;
    browser.wait("document.querySelector('#save').textContent === 'Change'").await;
    browser.fill("title", "Old harbour").await;
    browser.click("#save").await;
    browser.wait(&format!("{items}[4].querySelector('h2').textContent === 'Old harbour'")).await;
    browser.fill("title", "x").await;
    browser.fill("image", "javascript:alert(1)").await;
    browser.click("#save").await;
    browser.wait("document.querySelector('#status').textContent.startsWith('image: ')").await;
    browser.click("#products li:nth-child(4) button:last-child").await;
    browser.wait(&format!("{items}.length === 4")).await;

    client.goto(&format!("http://127.0.0.1:{main}/")).await.unwrap();
    browser
        .wait(&format!(
            "{items}.length === 4 && {items}[3].querySelector('h2').textContent === 'Old harbour'"
        ))
        .await;
    // A browser opens six connections to a host: those that nobody looks at give theirs back.
    for _ in 0..8 {
        let tab = client.new_window(true).await.unwrap();
        client.switch_to_window(tab.handle).await.unwrap();
        client.goto(&format!("http://127.0.0.1:{main}/")).await.unwrap();
        browser.wait(&format!("{items}.length === 4")).await;
    }
    assert_eq!(test.admin("DELETE", "/api/products/1", None).0, 204);
    browser.wait(&format!("{items}.length === 3")).await;

    let shot = client.screenshot().await.unwrap();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("page.png");
    std::fs::write(file, shot).unwrap(); // for whoever wants to see it
    browser.client.clone().close().await.unwrap();
}
