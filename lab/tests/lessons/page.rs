//! The pages of lesson 06, in a real browser.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab::progress::Tasks;
use lab::servers::Service;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Request;

use crate::services::Test;
use crate::support::{Folder, LIMIT, Terminal};

const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";
const ESCAPE: &str = "\u{E00C}";

/// Chromium, told what to do as <https://www.w3.org/TR/webdriver2/> says.
struct Browser {
    agent: Agent,
    /// The address of the session.
    session: String,
    _driver: Terminal,
    _profile: Folder,
}

impl Browser {
    fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let driver = Terminal::start(command);
        let address = loop {
            let line = driver.line().expect("chromedriver has ended");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break format!("http://127.0.0.1:{}/session", port.trim_end_matches('.'));
            }
        };
        let profile = Folder::temporary();
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
        let agent = Agent::config_builder().http_status_as_error(false).proxy(None).build();
        let mut browser =
            Self { agent: agent.into(), session: address, _driver: driver, _profile: profile };
        let options = json!({"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}});
        let session = browser.post("", json!({"capabilities": options}));
        browser.session += &format!("/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    /// Gives a command: its result.
    fn command(&self, method: &str, path: &str, body: &str) -> Value {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.session));
        let mut answer = self.agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let text = answer.body_mut().with_config().limit(u64::MAX).read_to_string().unwrap();
        assert!(answer.status().is_success(), "{method} {path} {body}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()["value"].take()
    }

    fn post(&self, path: &str, body: Value) -> Value {
        self.command("POST", path, &body.to_string())
    }

    /// Runs JavaScript: what it returns.
    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []}))
    }

    /// Waits until this JavaScript is true.
    fn wait(&self, condition: &str) {
        let start = Instant::now();
        while self.run(&format!("return {condition}")) != true {
            let html = || self.run("return document.documentElement.outerHTML");
            assert!(start.elapsed() < LIMIT, "{condition}: {}", html());
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this element says so.
    fn reads(&self, selector: &str, text: &str) {
        let selector = json!(selector);
        let text = json!(text);
        self.wait(&format!("document.querySelector({selector})?.textContent === {text}"));
    }

    fn open(&self, port: u16) {
        self.post("/url", json!({"url": format!("http://127.0.0.1:{port}/")}));
    }

    /// Waits until this many products are shown.
    fn products(&self, number: usize) {
        self.wait(&format!("document.querySelectorAll('#products > li').length === {number}"));
    }

    /// Presses keys, wherever the focus is.
    fn press(&self, keys: &str) {
        let focus = self.run("return document.activeElement");
        self.post(&(element(&focus) + "/value"), json!({"text": keys}));
    }

    /// Presses Tab until the focus is on this element.
    fn tab_to(&self, selector: &str) {
        let there = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..50 {
            self.press(TAB);
            if self.run(&there) == true {
                return;
            }
        }
        panic!("Tab does not come to {selector}");
    }

    /// A command of Chromium's own: <https://chromedevtools.github.io/devtools-protocol/>.
    fn chromium(&self, cmd: &str, params: Value) {
        self.post("/goog/cdp/execute", json!({"cmd": cmd, "params": params}));
    }

    fn window(&self, width: u32, height: u32, theme: &str) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.chromium("Emulation.setDeviceMetricsOverride", size);
        let theme = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.chromium("Emulation.setEmulatedMedia", theme);
    }

    /// The tab that the commands go to.
    fn tab(&self) -> Value {
        self.command("GET", "/window", "")
    }

    /// Opens a tab, and turns to it.
    fn open_tab(&self) -> Value {
        let tab = self.post("/window/new", json!({"type": "tab"}))["handle"].take();
        self.turn_to(&tab);
        tab
    }

    fn turn_to(&self, tab: &Value) {
        self.post("/window", json!({"handle": tab}));
    }

    /// For whoever wants to see it.
    fn picture(&self, name: &str) {
        let shot = self.command("GET", "/screenshot", "");
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
        std::fs::write(file, STANDARD.decode(shot.as_str().unwrap()).unwrap()).unwrap();
    }

    fn click(&self, selector: &str) {
        self.post(&(self.find(selector) + "/click"), json!({}));
    }

    fn fill(&self, name: &str, text: &str) {
        let input = self.find(&format!("input[name={name}]"));
        self.post(&format!("{input}/clear"), json!({}));
        self.post(&format!("{input}/value"), json!({"text": text}));
    }

    fn find(&self, selector: &str) -> String {
        element(&self.post("/element", json!({"using": "css selector", "value": selector})))
    }

    fn close(self) {
        self.command("DELETE", "", "");
    }
}

/// The path of an element.
fn element(reference: &Value) -> String {
    // the standard's own name for it
    let id = &reference["element-6066-11e4-a52e-4f735466cecf"];
    format!("/element/{}", id.as_str().unwrap())
}

const ITEMS: &str = "document.querySelectorAll('#products > li')";

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_drawn_liked_and_changed_without_a_reload() {
    let test = Test::shared("page", 1).await;
    let [admin, main] = test.ports;
    let browser = Browser::start();

    browser.open(main);
    browser.products(3);
    browser
        .wait("[...document.images].length === 3 && [...document.images].every(image => image.complete && image.naturalWidth > 0)");
    browser.run("window.loaded = 'once'");

    let first = "#products li:first-child";
    browser.reads(&format!("{first} .row span"), "0 likes");
    browser.click(&format!("{first} button"));
    browser.reads(&format!("{first} .row span"), "1 like");
    browser.click(&format!("{first} button"));
    browser.reads(&format!("{first} .message"), "this user likes it already");
    browser.reads(&format!("{first} .row span"), "1 like");

    // what is added in admin appears, and a title is text
    let title = "<script>document.title = 'broken'</script><b>bold</b>";
    let draft = json!({"title": title, "image": "/images/mountain.svg"});
    assert_eq!(test.admin("POST", "/api/products", Some(draft)).0, 201);
    browser.products(4);
    browser.reads("#products li:nth-child(4) h2", title);
    browser.wait(
        "document.querySelectorAll('#products h2 *').length === 0 && document.title === 'Pictures'",
    );
    browser.wait("window.loaded === 'once'");

    // the page of admin: add, change, delete
    browser.open(admin);
    browser.products(4);
    browser.fill("title", "Harbour");
    browser.click("input[value='/images/sailboat.svg']");
    browser.click("#save");
    browser.products(5);
    let last = "#products li:last-child";
    browser.wait(&format!("{ITEMS}[4].querySelector('img').src.endsWith('/sailboat.svg')"));
    browser.click(&format!("{last} button"));
    browser.reads("#heading", "Change Harbour");
    browser.wait("document.querySelector('#form').image.value === '/images/sailboat.svg'");
    browser.fill("title", "Old harbour");
    browser.click("#save");
    browser.reads(&format!("{last} h2"), "Old harbour");
    browser.reads("#heading", "A new picture");

    // an address of one's own: refused, then missing
    browser.fill("title", "Elsewhere");
    browser.wait("document.querySelector('input[name=address]').hidden");
    browser.click("input[value='']");
    browser.fill("address", "javascript:alert(1)");
    browser.click("#save");
    browser.wait("document.querySelector('#message').textContent.startsWith('image: ')");
    browser.fill("address", "/images/nowhere.svg");
    browser.click("#save");
    browser.products(6);
    let sign = format!("{last} .picture p:not([hidden])");
    browser.reads(&sign, "There is no image at this address.");
    browser.picture("missing");
    browser.click(&format!("{last} button"));
    browser.wait("document.querySelector('input[name=address]').value === '/images/nowhere.svg'");
    browser.click("input[value='/images/mountain.svg']");
    browser.click("#save");
    browser.wait(&format!("document.querySelector({}) === null", json!(sign)));

    // delete asks
    browser.click(&format!("{last} button:last-child"));
    browser.reads("#question", "Delete Elsewhere?");
    browser.click("#ask button[value='']");
    browser.wait("!document.querySelector('#ask').open");
    browser.products(6);
    browser.click(&format!("{last} button:last-child"));
    browser.click("#ask button[value=delete]");
    browser.products(5);

    // the product in the form is deleted by somebody else
    browser.click(&format!("{last} button"));
    assert_eq!(test.admin("DELETE", "/api/products/5", None).0, 204);
    browser.products(4);
    browser.click("#save");
    browser.reads("#message", "there is no such product");

    // A browser opens six connections to a host: those that nobody looks at give theirs back.
    for _ in 0..8 {
        browser.open_tab();
        browser.open(main);
        browser.products(4);
    }
    assert_eq!(test.admin("DELETE", "/api/products/1", None).0, 204);
    browser.products(3);
    browser.close();
}

/// Everything can be done with the keyboard, on a small screen, too; and it can be read.
#[tokio::test(flavor = "multi_thread")]
async fn keyboard_and_screens() {
    let test = Test::shared("keyboard", 1).await;
    let [admin, main] = test.ports;
    let browser = Browser::start();

    browser.open(main);
    browser.products(3);
    browser.tab_to("#products li:nth-child(2) button");
    browser.press(ENTER);
    browser.reads("#products li:nth-child(2) .row span", "1 like");

    browser.open(admin);
    browser.products(3);
    browser.tab_to("input[name=title]");
    browser.press("Hills");
    browser.press(TAB);
    browser.press("\u{E014}"); // the arrow to the right
    browser.press(ENTER);
    browser.products(4);
    browser.wait(&format!("{ITEMS}[3].querySelector('img').src.endsWith('/mountain.svg')"));
    // change, and think again: the focus is where it was
    browser.tab_to("#product-4 button:first-of-type");
    browser.press(ENTER);
    browser.reads("#heading", "Change Hills");
    browser.press("x");
    browser.press(ESCAPE);
    browser.reads("#heading", "A new picture");
    browser.wait("document.activeElement.matches('#product-4 button:first-of-type')");
    // delete, and think again
    browser.press(TAB);
    browser.press(ENTER);
    browser.wait("document.querySelector('#ask').open");
    browser.press(ENTER); // Keep
    browser.wait("!document.querySelector('#ask').open");
    browser.press(ENTER);
    browser.press(ESCAPE);
    browser.wait("!document.querySelector('#ask').open");
    browser.products(4);
    browser.press(ENTER);
    browser.tab_to("#ask button[value=delete]");
    browser.press(ENTER);
    browser.products(3);
    browser.wait("document.activeElement.matches('#product-3 button:first-of-type')");

    for (name, port) in [("main", main), ("admin", admin)] {
        browser.open(port);
        browser.products(3);
        for (screen, width, height) in [("desktop", 1280, 800), ("phone", 390, 844)] {
            for theme in ["light", "dark"] {
                browser.window(width, height, theme);
                browser.wait(&format!("matchMedia('(prefers-color-scheme: {theme})').matches"));
                browser.wait("document.documentElement.scrollWidth <= innerWidth");
                browser.picture(&format!("{name}-{screen}-{theme}"));
            }
        }
        // the events stand beside the pictures, or above them
        let place = "document.querySelector('aside').getBoundingClientRect()";
        let products = "document.querySelector('main').getBoundingClientRect()";
        browser.wait(&format!("{place}.bottom <= {products}.top"));
        browser.window(1280, 800, "light");
        browser.wait(&format!("{place}.left >= {products}.right"));
    }
    browser.close();
}

/// The pages show what messaging does: the event in the outbox, on its way, applied, put aside; and
/// how far the other service is behind.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown() {
    let mut test = Test::own(1_000_000);
    let [admin, main] = test.ports;
    let browser = Browser::start();
    browser.window(1280, 800, "light");
    let event = |place: u32, text: &str| {
        format!(
            "[...document.querySelectorAll('#events li:nth-child({place}) > *')].map(part => part.textContent).join(' ') === {}",
            json!(text)
        )
    };

    // three that were there before the page
    browser.open(main);
    browser.reads("#behind", "admin is up to date.");
    browser.wait("document.querySelectorAll('#events li').length === 3");
    browser.click("#products li:nth-child(2) button");
    browser.wait(&event(1, "→ product_liked {\"id\":2} published"));
    let tabs = [browser.tab(), browser.open_tab()];
    browser.open(admin);
    browser.wait(&event(1, "← product_liked {\"id\":2} applied"));
    browser.reads("#behind", "main is up to date.");

    // an event that cannot be applied
    test.publish("product_liked", "like", Some("no JSON")).await;
    browser.wait("document.querySelector('#events li.aside span')?.textContent.startsWith('put aside: ') === true");

    // RabbitMQ is away: what is done waits in the outbox
    test.instance.stop(Service::Rabbitmq, true).unwrap();
    let ship = json!({"title": "Ship", "image": "/images/sailboat.svg"});
    assert_eq!(test.admin("PUT", "/api/products/3", Some(ship)).0, 202);
    browser.reads("#behind", "RabbitMQ is away. 1 event in the outbox.");
    let updated =
        "→ product_updated {\"id\":3,\"title\":\"Ship\",\"image\":\"/images/sailboat.svg\"}";
    browser.wait(&event(1, &format!("{updated} in the outbox")));
    browser.picture("outbox");
    test.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    browser.wait(&event(1, &format!("{updated} published")));
    browser.reads("#behind", "main is up to date.");

    // the other service is down
    test.kill("main");
    browser.reads("#behind", "main is not running.");
    for title in ["a", "b", "c"] {
        let draft = json!({"title": title, "image": "/images/mountain.svg"});
        assert_eq!(test.admin("POST", "/api/products", Some(draft)).0, 201);
    }
    let behind = "main is not running, and 3 events behind: 0 in the outbox, 3 in the queue main.";
    browser.reads("#behind", behind);
    browser.picture("behind");
    browser.turn_to(&tabs[0]);
    browser.reads("#connection", "Connection lost, trying again ...");
    browser.click("#products li:nth-child(1) button");
    browser.reads("#products li:nth-child(1) .message", "this service does not answer");
    browser.picture("lost");
    test.restart("main", &[]);
    browser.reads("#connection", "");
    browser.products(6);
    browser.wait(&event(
        1,
        "← product_created {\"id\":6,\"title\":\"c\",\"image\":\"/images/mountain.svg\"} applied",
    ));
    browser.turn_to(&tabs[1]);
    browser.reads("#behind", "main is up to date.");

    // MySQL is away: the page says so, too
    test.instance.stop(Service::Mysql, true).unwrap();
    browser.reads("#behind", "MySQL is away.");
    test.instance.start(&[Service::Mysql], &Tasks::quiet()).unwrap();
    browser.reads("#behind", "main is up to date.");
    browser.close();
}
