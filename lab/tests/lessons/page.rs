//! The pages of lesson 06, in a real browser.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use lab::progress::Tasks;
use lab::servers::Service;
use serde_json::{Value, json};

use crate::services::Test;
use crate::support::{LIMIT, Terminal};

const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

struct Browser {
    client: Client,
    driver: String,
    _terminal: Terminal,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let terminal = Terminal::start(command);
        let driver = loop {
            let line = terminal.line().expect("chromedriver has ended");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
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
            .connect(&driver)
            .await
            .unwrap();
        Self { client, driver, _terminal: terminal, _profile: profile }
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

    /// Waits until this element says so.
    async fn reads(&self, selector: &str, text: &str) {
        let selector = json!(selector);
        let text = json!(text);
        self.wait(&format!("document.querySelector({selector})?.textContent === {text}")).await;
    }

    async fn open(&self, port: u16) {
        self.client.goto(&format!("http://127.0.0.1:{port}/")).await.unwrap();
    }

    /// Waits until this many products are shown.
    async fn products(&self, number: usize) {
        self.wait(&format!("document.querySelectorAll('#products > li').length === {number}"))
            .await;
    }

    /// Presses keys, wherever the focus is.
    async fn press(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Presses Tab until the focus is on this element.
    async fn tab_to(&self, selector: &str) {
        let there = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..50 {
            self.press(TAB).await;
            if self.client.execute(&there, Vec::new()).await.unwrap() == true {
                return;
            }
        }
        panic!("Tab does not come to {selector}");
    }

    /// A command of Chromium's own: <https://chromedevtools.github.io/devtools-protocol/>.
    async fn chromium(&self, cmd: &str, params: Value) {
        let session = self.client.session_id().await.unwrap().unwrap();
        ureq::post(format!("{}/session/{session}/goog/cdp/execute", self.driver))
            .send(json!({"cmd": cmd, "params": params}).to_string())
            .unwrap();
    }

    async fn window(&self, width: u32, height: u32, theme: &str) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.chromium("Emulation.setDeviceMetricsOverride", size).await;
        let theme = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.chromium("Emulation.setEmulatedMedia", theme).await;
    }

    /// For whoever wants to see it.
    async fn picture(&self, name: &str) {
        let shot = self.client.screenshot().await.unwrap();
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
        std::fs::write(file, shot).unwrap();
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

const ITEMS: &str = "document.querySelectorAll('#products > li')";

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_drawn_liked_and_changed_without_a_reload() {
    let test = Test::shared("page", 1).await;
    let [admin, main] = test.ports;
    let browser = Browser::start().await;
    let client = &browser.client;

    browser.open(main).await;
    browser.products(3).await;
    browser
        .wait("[...document.images].length === 3 && [...document.images].every(image => image.complete && image.naturalWidth > 0)")
        .await;
    client.execute("window.loaded = 'once'", Vec::new()).await.unwrap();

    let first = "#products li:first-child";
    browser.reads(&format!("{first} .row span"), "0 likes").await;
    browser.click(&format!("{first} button")).await;
    browser.reads(&format!("{first} .row span"), "1 like").await;
    browser.click(&format!("{first} button")).await;
    browser.reads(&format!("{first} .message"), "this user likes it already").await;
    browser.reads(&format!("{first} .row span"), "1 like").await;

    // what is added in admin appears, and a title is text
    let title = "<script>document.title = 'broken'</script><b>bold</b>";
    let draft = json!({"title": title, "image": "/images/mountain.svg"});
    assert_eq!(test.admin("POST", "/api/products", Some(draft)).0, 201);
    browser.products(4).await;
    browser.reads("#products li:nth-child(4) h2", title).await;
    browser
        .wait("document.querySelectorAll('#products h2 *').length === 0 && document.title === 'Pictures'")
        .await;
    browser.wait("window.loaded === 'once'").await;

    // the page of admin: add, change, delete
    browser.open(admin).await;
    browser.products(4).await;
    browser.fill("title", "Harbour").await;
    browser.click("input[value='/images/sailboat.svg']").await;
    browser.click("#save").await;
    browser.products(5).await;
    let last = "#products li:last-child";
    browser.wait(&format!("{ITEMS}[4].querySelector('img').src.endsWith('/sailboat.svg')")).await;
    browser.click(&format!("{last} button")).await;
    browser.reads("#heading", "Change Harbour").await;
    browser.wait("document.querySelector('#form').image.value === '/images/sailboat.svg'").await;
    browser.fill("title", "Old harbour").await;
    browser.click("#save").await;
    browser.reads(&format!("{last} h2"), "Old harbour").await;
    browser.reads("#heading", "A new picture").await;

    // an address of one's own: refused, then missing
    browser.fill("title", "Elsewhere").await;
    browser.wait("document.querySelector('input[name=address]').hidden").await;
    browser.click("input[value='']").await;
    browser.fill("address", "javascript:alert(1)").await;
    browser.click("#save").await;
    browser.wait("document.querySelector('#message').textContent.startsWith('image: ')").await;
    browser.fill("address", "/images/nowhere.svg").await;
    browser.click("#save").await;
    browser.products(6).await;
    let sign = format!("{last} .picture p:not([hidden])");
    browser.reads(&sign, "There is no image at this address.").await;
    browser.picture("missing").await;
    browser.click(&format!("{last} button")).await;
    browser
        .wait("document.querySelector('input[name=address]').value === '/images/nowhere.svg'")
        .await;
    browser.click("input[value='/images/mountain.svg']").await;
    browser.click("#save").await;
    browser.wait(&format!("document.querySelector({}) === null", json!(sign))).await;

    // delete asks
    browser.click(&format!("{last} button:last-child")).await;
    browser.reads("#question", "Delete Elsewhere?").await;
    browser.click("#ask button[value='']").await;
    browser.wait("!document.querySelector('#ask').open").await;
    browser.products(6).await;
    browser.click(&format!("{last} button:last-child")).await;
    browser.click("#ask button[value=delete]").await;
    browser.products(5).await;

    // the product in the form is deleted by somebody else
    browser.click(&format!("{last} button")).await;
    assert_eq!(test.admin("DELETE", "/api/products/5", None).0, 204);
    browser.products(4).await;
    browser.click("#save").await;
    browser.reads("#message", "there is no such product").await;

    // A browser opens six connections to a host: those that nobody looks at give theirs back.
    for _ in 0..8 {
        let tab = client.new_window(true).await.unwrap();
        client.switch_to_window(tab.handle).await.unwrap();
        browser.open(main).await;
        browser.products(4).await;
    }
    assert_eq!(test.admin("DELETE", "/api/products/1", None).0, 204);
    browser.products(3).await;
    browser.client.clone().close().await.unwrap();
}

/// Everything can be done with the keyboard, on a small screen, too; and it can be read.
#[tokio::test(flavor = "multi_thread")]
async fn keyboard_and_screens() {
    let test = Test::shared("keyboard", 1).await;
    let [admin, main] = test.ports;
    let browser = Browser::start().await;

    browser.open(main).await;
    browser.products(3).await;
    browser.tab_to("#products li:nth-child(2) button").await;
    browser.press(ENTER).await;
    browser.reads("#products li:nth-child(2) .row span", "1 like").await;

    browser.open(admin).await;
    browser.products(3).await;
    browser.tab_to("input[name=title]").await;
    browser.press("Hills").await;
    browser.press(TAB).await;
    browser.press("\u{E014}").await; // the arrow to the right
    browser.press(ENTER).await;
    browser.products(4).await;
    browser.wait(&format!("{ITEMS}[3].querySelector('img').src.endsWith('/mountain.svg')")).await;
    // change, and think again: the focus is where it was
    browser.tab_to("#product-4 button:first-of-type").await;
    browser.press(ENTER).await;
    browser.reads("#heading", "Change Hills").await;
    browser.press("x").await;
    browser.press(ESCAPE).await;
    browser.reads("#heading", "A new picture").await;
    browser.wait("document.activeElement.matches('#product-4 button:first-of-type')").await;
    // delete, and think again
    browser.press(TAB).await;
    browser.press(ENTER).await;
    browser.wait("document.querySelector('#ask').open").await;
    browser.press(ENTER).await; // Keep
    browser.wait("!document.querySelector('#ask').open").await;
    browser.press(ENTER).await;
    browser.press(ESCAPE).await;
    browser.wait("!document.querySelector('#ask').open").await;
    browser.products(4).await;
    browser.press(ENTER).await;
    browser.tab_to("#ask button[value=delete]").await;
    browser.press(ENTER).await;
    browser.products(3).await;
    browser.wait("document.activeElement.matches('#product-3 button:first-of-type')").await;

    for (name, port) in [("main", main), ("admin", admin)] {
        browser.open(port).await;
        browser.products(3).await;
        for (screen, width, height) in [("desktop", 1280, 800), ("phone", 390, 844)] {
            for theme in ["light", "dark"] {
                browser.window(width, height, theme).await;
                browser
                    .wait(&format!("matchMedia('(prefers-color-scheme: {theme})').matches"))
                    .await;
                browser.wait("document.documentElement.scrollWidth <= innerWidth").await;
                browser.picture(&format!("{name}-{screen}-{theme}")).await;
            }
        }
        // the events stand beside the pictures, or above them
        let place = "document.querySelector('aside').getBoundingClientRect()";
        let products = "document.querySelector('main').getBoundingClientRect()";
        browser.wait(&format!("{place}.bottom <= {products}.top")).await;
        browser.window(1280, 800, "light").await;
        browser.wait(&format!("{place}.left >= {products}.right")).await;
    }
    browser.client.clone().close().await.unwrap();
}

/// The pages show what messaging does: the event in the outbox, on its way, applied, put aside; and
/// how far the other service is behind.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown() {
    let mut test = Test::own(1_000_000);
    let [admin, main] = test.ports;
    let browser = Browser::start().await;
    let client = &browser.client;
    browser.window(1280, 800, "light").await;
    let event = |place: u32, text: &str| {
        format!(
            "[...document.querySelectorAll('#events li:nth-child({place}) > *')].map(part => part.textContent).join(' ') === {}",
            json!(text)
        )
    };

    // three that were there before the page
    browser.open(main).await;
    browser.reads("#behind", "admin is up to date.").await;
    browser.wait("document.querySelectorAll('#events li').length === 3").await;
    browser.click("#products li:nth-child(2) button").await;
    browser.wait(&event(1, "→ product_liked {\"id\":2} published")).await;
    let pages = [client.window().await.unwrap(), client.new_window(true).await.unwrap().handle];
    client.switch_to_window(pages[1].clone()).await.unwrap();
    browser.open(admin).await;
    browser.wait(&event(1, "← product_liked {\"id\":2} applied")).await;
    browser.reads("#behind", "main is up to date.").await;

    // an event that cannot be applied
    test.publish("product_liked", "like", Some("no JSON")).await;
    browser.wait("document.querySelector('#events li.aside span')?.textContent.startsWith('put aside: ') === true").await;

    // RabbitMQ is away: what is done waits in the outbox
    test.instance.stop(Service::Rabbitmq, true).unwrap();
    let ship = json!({"title": "Ship", "image": "/images/sailboat.svg"});
    assert_eq!(test.admin("PUT", "/api/products/3", Some(ship)).0, 202);
    browser.reads("#behind", "RabbitMQ is away. 1 event in the outbox.").await;
    let updated =
        "→ product_updated {\"id\":3,\"title\":\"Ship\",\"image\":\"/images/sailboat.svg\"}";
    browser.wait(&event(1, &format!("{updated} in the outbox"))).await;
    browser.picture("outbox").await;
    test.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    browser.wait(&event(1, &format!("{updated} published"))).await;
    browser.reads("#behind", "main is up to date.").await;

    // the other service is down
    test.kill("main");
    browser.reads("#behind", "main is not running.").await;
    for title in ["a", "b", "c"] {
        let draft = json!({"title": title, "image": "/images/mountain.svg"});
        assert_eq!(test.admin("POST", "/api/products", Some(draft)).0, 201);
    }
    let behind = "main is not running, and 3 events behind: 0 in the outbox, 3 in the queue main.";
    browser.reads("#behind", behind).await;
    browser.picture("behind").await;
    client.switch_to_window(pages[0].clone()).await.unwrap();
    browser.reads("#connection", "Connection lost, trying again ...").await;
    browser.click("#products li:nth-child(1) button").await;
    browser.reads("#products li:nth-child(1) .message", "this service does not answer").await;
    browser.picture("lost").await;
    test.restart("main", &[]);
    browser.reads("#connection", "").await;
    browser.products(6).await;
    browser.wait(&event(1, "← product_created {\"id\":6,\"title\":\"c\",\"image\":\"/images/mountain.svg\"} applied")).await;
    client.switch_to_window(pages[1].clone()).await.unwrap();
    browser.reads("#behind", "main is up to date.").await;

    // MySQL is away: the page says so, too
    test.instance.stop(Service::Mysql, true).unwrap();
    browser.reads("#behind", "MySQL is away.").await;
    test.instance.start(&[Service::Mysql], &Tasks::quiet()).unwrap();
    browser.reads("#behind", "main is up to date.").await;
    browser.client.clone().close().await.unwrap();
}
