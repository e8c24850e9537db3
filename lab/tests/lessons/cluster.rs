//! Lesson 10: a broker of three nodes, which outlives each of them.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::{Instance, NODES, Service};
use rustix::process::Signal;
use serde_json::Value;

use crate::all_readmes::the_pages_with_nodes_are_true;
use crate::support::{
    AGAIN, LIMIT, LOST, NONE, Servers, Terminal, WAITING, lab, lines, output, wait_for_orders,
};

/// The cluster of these tests. Each step breaks it, and leaves it whole.
struct Cluster(MutexGuard<'static, Servers>);

impl Cluster {
    fn lock() -> Self {
        static CLUSTER: LazyLock<Mutex<Servers>> = LazyLock::new(|| {
            let start = Instant::now();
            let servers = Servers::start_cluster();
            println!("three nodes are up after {:?}", start.elapsed());
            Mutex::new(servers)
        });
        let servers = CLUSTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // whatever the test before has left
        servers.instance.resume(Service::Rabbitmq).unwrap();
        let cluster = Self(servers);
        if (1..=NODES).any(|asked| cluster.seen(asked) < NODES) {
            let servers = &cluster.0.instance;
            servers.stop(Service::Rabbitmq, true).unwrap();
            servers.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
        }
        cluster
    }

    /// How many nodes run, as this one has it.
    fn seen(&self, asked: usize) -> usize {
        let nodes = self.node(asked).management().get("nodes").unwrap_or_default();
        let nodes = nodes.as_array().map_or(&[][..], Vec::as_slice);
        nodes.iter().filter(|node| node["running"] == true).count()
    }

    fn node(&self, number: usize) -> Instance {
        self.0.instance.node(number).unwrap()
    }

    fn stop(&self, number: usize, kill: bool) {
        self.node(number).stop(Service::Rabbitmq, kill).unwrap();
    }

    fn start(&self, number: usize) {
        self.node(number).start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    }

    /// The address of one node, in a virtual host whose list of addresses this is.
    fn url(&self, urls: &str, number: usize) -> String {
        urls.split(',').nth(number - 1).unwrap().to_owned()
    }

    fn vhost(&self, name: &str) -> String {
        self.0.instance.create_vhost(name).unwrap()
    }

    /// What the management page of a node says of a queue in a virtual host of these addresses.
    fn queue(&self, urls: &str, name: &str, asked: usize) -> Value {
        let vhost = urls.rsplit('/').next().unwrap();
        let path = format!("queues/{vhost}/{name}");
        self.node(asked).management().get(&path).unwrap_or_default()
    }

    /// The number of the node where the leader of `steady` is, as another node has it.
    fn leader(&self, urls: &str, asked: usize) -> Option<usize> {
        let queue = self.queue(urls, "steady", asked);
        queue["leader"].as_str()?.strip_prefix("rabbit")?.split('@').next()?.parse().ok()
    }

    fn wait_for_replicas(&self, urls: &str, count: usize, asked: usize) {
        let online =
            || self.queue(urls, "steady", asked)["online"].as_array().map_or(0, Vec::len) == count;
        wait_until(LIMIT, online).unwrap();
    }

    /// `cargo lab` with these servers.
    fn lab(&self, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
        let mut command = Command::new(lab());
        command.args(arguments).env("AMQP_URL", self.0.instance.amqp_url());
        command.env("MYSQL_URL", "mysql://guest:guest@localhost:1/test");
        command.env(lab::play::INSTANCE, &self.0.instance.folder);
        let (lines, status) = Terminal::start(command).finish();
        (lines, status.code())
    }
}

/// `publish-steadily` and `count-steadily`.
struct Load {
    publisher: Terminal,
    counter: Terminal,
    /// How many messages were in the queue before.
    before: u64,
}

/// What they say at the end.
#[derive(Debug)]
struct Ended {
    again: u64,
    twice: u64,
    /// The longest gap, in seconds.
    gap: f64,
}

impl Load {
    /// Over any of these nodes.
    fn start(urls: &str, more: &[&str], before: u64) -> Self {
        let counter = Terminal::run("count-steadily", more, urls);
        while counter.line().unwrap() != WAITING {} // 3.10 may be too busy for a new queue
        let publisher = Terminal::run("publish-steadily", more, urls);
        let load = Self { publisher, counter, before };
        load.goes_on();
        load
    }

    /// Waits until messages are confirmed, and received.
    fn goes_on(&self) {
        for (program, what) in [(&self.publisher, "Confirmed"), (&self.counter, "Received")] {
            let start = Instant::now();
            while program.line_within(Duration::ZERO).is_some() {} // what was said before
            while number(&program.line().unwrap(), what).is_none_or(|number| number == 0) {
                assert!(start.elapsed() < LIMIT, "nothing is {what}");
            }
        }
    }

    /// What the publisher says in its next line of a second.
    fn confirmed(&self) -> u64 {
        loop {
            let line = self.publisher.line().unwrap();
            if let Some(number) = number(&line, "Confirmed") {
                return number;
            }
        }
    }

    /// Waits until a second passes in which nothing is confirmed.
    fn stands_still(&self) {
        let start = Instant::now();
        while self.confirmed() > 0 {
            assert!(start.elapsed() < LIMIT, "messages are still confirmed");
        }
    }

    /// Ctrl-C, when all that was confirmed has been received.
    fn stop(self) -> Ended {
        self.publisher.signal(Signal::INT);
        let (said, status) = self.publisher.finish();
        assert_eq!(status.code(), Some(0), "{said:#?}");
        let last = said.last().unwrap();
        assert!(last.starts_with(" [*] Confirmed: "), "{last}");
        let (confirmed, again) = (number(last, "Confirmed"), number(last, "published again"));
        let confirmed = confirmed.unwrap() + self.before;
        let mut line = String::new();
        let start = Instant::now();
        loop {
            let next = self.counter.line().unwrap();
            if let (Some(all), Some(twice)) =
                (number(&next, "Received: [..] ("), number(&next, "twice"))
                && number(&next, "missing") == Some(0)
                && all - twice >= confirmed
            {
                break;
            }
            assert!(start.elapsed() < LIMIT, "{confirmed} confirmed, {line}");
            line = next;
        }
        self.counter.signal(Signal::INT);
        let (said, status) = self.counter.finish();
        assert_eq!(status.code(), Some(0), "{said:#?}");
        let last = said.last().unwrap();
        let (received, twice) =
            (number(last, " [*] Received").unwrap(), number(last, "twice").unwrap());
        assert_eq!((received - twice, number(last, "missing")), (confirmed, Some(0)), "{last}");
        let gap = last.split("longest gap: ").nth(1).unwrap();
        let gap = gap.trim_end_matches(" s").parse().unwrap();
        Ended { again: again.unwrap(), twice, gap }
    }
}

/// The number behind a word in a line.
fn number(line: &str, what: &str) -> Option<u64> {
    let rest = match what.split_once("[..] ") {
        Some((start, then)) => line.split_once(start)?.1.split_once(then)?.1,
        None => line.split_once(what)?.1.strip_prefix(": ")?,
    };
    let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// One test, and not one for each: they would wait for each other, and keep other tests waiting.
/// Three nodes beside the other tests are too much for two cores: elections take too long then.
#[test]
#[ignore = "takes a machine of its own: cargo lab test cluster:: -- --ignored"]
fn a_cluster_outlives_its_nodes() {
    for (name, step) in [
        ("the_pages_with_nodes_are_true", the_pages_with_nodes_are_true as fn()),
        ("a_leader_dies_and_nothing_is_lost", a_leader_dies_and_nothing_is_lost as fn()),
        ("a_follower_dies_and_nobody_notices", a_follower_dies_and_nobody_notices as fn()),
        (
            "two_of_three_die_and_nothing_false_is_said",
            two_of_three_die_and_nothing_false_is_said as fn(),
        ),
        ("a_leader_that_stands_still", a_leader_that_stands_still as fn()),
        ("a_rolling_restart", a_rolling_restart as fn()),
        ("leaders_are_balanced", leaders_are_balanced as fn()),
        ("the_lab_knows_nodes", the_lab_knows_nodes as fn()),
    ] {
        println!("{name} ...");
        let start = Instant::now();
        step();
        println!("{name}: {:?}", start.elapsed());
    }
}

/// The leader of the queue dies under load. The classic queue on that node is gone until the node
/// is back, and so is the queue of who receives log lines over it.
fn a_leader_dies_and_nothing_is_lost() {
    let cluster = Cluster::lock();
    let urls = cluster.vhost("leader");
    // The first leader is on the node over which the queue is declared, and so is a classic queue.
    let first = cluster.url(&urls, 1);
    lines("publish-steadily", &["--count", "1"], &first);
    lines("publish-steadily", &["--count", "1", "--classic"], &first);
    lines("request-orders", &["1"], &first);
    assert_eq!(cluster.leader(&urls, 2), Some(1));
    let others = urls.split_once(',').unwrap().1;
    // Most probably connected to the node that dies: they connect again during the election. To
    // what RabbitMQ 3.10 is told over a new channel then, it may say no for ever.
    let near_leader = format!("{},{others}", vec![first.as_str(); 30].join(","));
    let logs = Terminal::run("receive-logs", &NONE, &first);
    let exclusive = logs.expect_queue();
    let near = Terminal::run("receive-logs", &NONE, others);
    near.expect_queue();
    let load = Load::start(&near_leader, &[], 1);
    let classic = Load::start(others, &["--classic"], 1);
    cluster.wait_for_replicas(&urls, NODES, 2);
    let orders = Terminal::run("request-orders", &["100000"], &near_leader);
    wait_for_orders(&first, 1000);

    cluster.stop(1, true);
    load.goes_on();
    let (said, status) = orders.finish();
    assert_eq!(status.code(), Some(0), "{said:#?}");
    assert!(said.last().unwrap().starts_with(" [x] Sent 100000 of 100000 orders"), "{said:#?}");
    let leader = cluster.leader(&urls, 2);
    assert!(leader.is_some_and(|leader| leader != 1), "{leader:?}");
    classic.stands_still();
    assert_eq!(classic.confirmed(), 0);
    // RabbitMQ 3.10 deletes the queue of the receiver that was connected to it. RabbitMQ 4.3 keeps
    // it, and refuses what goes there.
    logs.expect(LOST);
    let refused =
        "Error: the broker did not take the log line: a queue is full, or down. Try again"
            .to_owned();
    let expected = match cluster.node(2).management().version().unwrap() < (4, 0) {
        true => (vec![" [x] Sent lost".to_owned()], Some(0)),
        false => (vec![refused], Some(1)),
    };
    wait_until(LIMIT, || output("emit-log", &["lost"], others) == expected).unwrap();
    near.expect(" [x] Received lost"); // in either case

    cluster.start(1);
    logs.expect(AGAIN);
    assert_ne!(logs.expect_queue(), exclusive);
    lines("emit-log", &["next"], others);
    logs.expect(" [x] Received next");
    cluster.wait_for_replicas(&urls, NODES, 2); // it catches up
    classic.goes_on();
    let ended = classic.stop();
    assert!(ended.gap > 2.0, "{ended:?}");
    let ended = load.stop();
    assert!(ended.gap < 15.0, "{ended:?}");
    logs.interrupt();
}

/// Nobody notices, but those that were connected to it.
fn a_follower_dies_and_nobody_notices() {
    let cluster = Cluster::lock();
    let urls = cluster.vhost("follower");
    lines("publish-steadily", &["--count", "1"], &cluster.url(&urls, 1));
    let others = format!("{},{}", cluster.url(&urls, 1), cluster.url(&urls, 2));
    let load = Load::start(&others, &[], 1);
    cluster.wait_for_replicas(&urls, NODES, 1);
    cluster.stop(3, true);
    cluster.wait_for_replicas(&urls, NODES - 1, 1);
    load.goes_on();
    assert_eq!(cluster.leader(&urls, 1), Some(1));
    cluster.start(3);
    cluster.wait_for_replicas(&urls, NODES, 1);
    let Ended { again, twice, gap, .. } = load.stop();
    assert_eq!((again, twice), (0, 0));
    assert!(gap < 5.0, "{gap}"); // the machine is busy: a node starts
}

/// Without a majority nothing is confirmed. When one of the two is back, all goes on.
fn two_of_three_die_and_nothing_false_is_said() {
    let cluster = Cluster::lock();
    let urls = cluster.vhost("majority");
    let load = Load::start(&urls, &[], 0);
    cluster.wait_for_replicas(&urls, NODES, 1);
    cluster.stop(1, true);
    cluster.stop(2, true);
    load.stands_still();
    // longer than a program waits for a confirm
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(25) {
        assert_eq!(load.confirmed(), 0);
    }
    cluster.start(1);
    load.goes_on();
    cluster.start(2);
    cluster.wait_for_replicas(&urls, NODES, 1);
    let ended = load.stop();
    assert!(ended.gap > 25.0, "{ended:?}");
}

/// A node that stands still for longer than the others wait for it, as if its network were cut.
fn a_leader_that_stands_still() {
    let cluster = Cluster::lock();
    let urls = cluster.vhost("still");
    let version = cluster.node(2).management().version().unwrap();
    lines("publish-steadily", &["--count", "1"], &cluster.url(&urls, 1));
    let load = Load::start(&urls, &[], 1);
    cluster.wait_for_replicas(&urls, NODES, 2);
    cluster.node(1).pause(Service::Rabbitmq).unwrap();
    load.goes_on();
    wait_until(LIMIT, || cluster.seen(2) == NODES - 1).unwrap();
    cluster.node(1).resume(Service::Rabbitmq).unwrap();
    load.goes_on();
    if version < (4, 0) {
        cluster.stop(1, false); // it does not know that it was away, and is not let in again
        cluster.start(1);
    }
    cluster.wait_for_replicas(&urls, NODES, 2);
    let ended = load.stop();
    assert!(ended.gap > 1.0, "{ended:?}");
}

/// All nodes are restarted, one after the other, as RabbitMQ's documentation says.
fn a_rolling_restart() {
    let cluster = Cluster::lock();
    let urls = cluster.vhost("rolling");
    let load = Load::start(&urls, &[], 0);
    for number in 1..=NODES {
        let node = format!("rabbit{number}");
        let (said, code) = cluster.lab(&["rabbitmq-upgrade", "await_online_quorum_plus_one"]);
        assert_eq!(code, Some(0), "{said:#?}");
        let (said, code) = cluster.lab(&["rabbitmq-upgrade", "-n", &node, "drain"]);
        assert_eq!(code, Some(0), "{said:#?}");
        let asked = number % NODES + 1;
        wait_until(LIMIT, || cluster.leader(&urls, asked).is_some_and(|leader| leader != number))
            .unwrap();
        load.goes_on();
        let (said, code) = cluster.lab(&["restart", &node]);
        assert_eq!((said, code), (vec![format!("Stopped {node} and started it again")], Some(0)));
        cluster.wait_for_replicas(&urls, NODES, asked);
    }
    let ended = load.stop();
    assert!(ended.gap < 15.0, "{ended:?}");
}

/// Leaders that are all on one node, and then on one each.
fn leaders_are_balanced() {
    let cluster = Cluster::lock();
    let urls = cluster.vhost("balance");
    let names = ["one", "two", "three"];
    for name in names {
        let body = r#"{"durable": true, "arguments": {"x-queue-type": "quorum"}}"#;
        let port = cluster.node(1).ports.management;
        let put = Command::new("curl")
            .args(["-sf", "-u", "guest:guest", "-X", "PUT", "-d", body])
            .arg(format!("http://localhost:{port}/api/queues/balance/{name}"))
            .status();
        assert!(put.unwrap().success());
    }
    let leaders = || {
        let leader = |name: &&str| cluster.queue(&urls, name, 1)["leader"].to_string();
        names.iter().map(leader).collect::<BTreeSet<_>>()
    };
    wait_until(LIMIT, || leaders().len() == 1).unwrap();
    let arguments = ["rabbitmq-queues", "rebalance", "quorum", "--vhost-pattern", "balance"];
    let (said, code) = cluster.lab(&arguments);
    assert_eq!(code, Some(0), "{said:#?}");
    wait_until(LIMIT, || leaders().len() == NODES).unwrap();
}

/// What `cargo lab` says of nodes.
fn the_lab_knows_nodes() {
    let cluster = Cluster::lock();
    let down = |number| format!("rabbit{number}: stopped, at localhost:");
    let (said, _) = cluster.lab(&["status"]);
    for number in 1..=NODES {
        assert!(said[number - 1].starts_with(&format!("rabbit{number}: RabbitMQ ")), "{said:#?}");
    }
    assert_eq!(cluster.lab(&["stop", "rabbit2"]), (vec!["Stopped rabbit2".to_owned()], Some(0)));
    let (said, code) = cluster.lab(&["stop", "rabbit2"]);
    assert_eq!(code, Some(1));
    assert!(
        said[0].starts_with("Error: no rabbit2 that the lab has started runs here"),
        "{said:?}"
    );
    let (said, _) = cluster.lab(&["status"]);
    assert!(said[1].starts_with(&down(2)), "{said:#?}");
    // the first node that answers is asked, or the one that is named
    for (arguments, expected) in [
        (&["rabbitmqctl", "-q", "eval", "node()."][..], "rabbit1@localhost"),
        (&["rabbitmqctl", "-q", "-n", "rabbit3", "eval", "node()."], "rabbit3@localhost"),
    ] {
        let name = if cluster.node(1).backend == lab::servers::Backend::Docker {
            expected.replace("localhost", expected.split('@').next().unwrap())
        } else {
            expected.to_owned()
        };
        assert_eq!(cluster.lab(arguments), (vec![name], Some(0)));
    }
    assert_eq!(cluster.lab(&["start", "rabbit2"]), (vec!["Started rabbit2".to_owned()], Some(0)));
    let paused = cluster.lab(&["pause", "rabbit1"]);
    assert_eq!(paused, (vec!["Paused rabbit1".to_owned()], Some(0)));
    let (said, _) = cluster.lab(&["status"]);
    assert!(said[0].starts_with("rabbit1: does not answer, at localhost:"), "{said:#?}");
    let resumed = cluster.lab(&["resume", "rabbit1"]);
    assert_eq!(resumed, (vec!["Resumed rabbit1".to_owned()], Some(0)));
    let (said, code) = cluster.lab(&["restart", "--kill", "rabbit1"]);
    assert_eq!((said, code), (vec!["Killed rabbit1 and started it again".to_owned()], Some(0)));
    let (said, code) = cluster.lab(&["stop", "rabbit4"]);
    assert_eq!(code, Some(2), "{said:?}");
    let (said, code) = cluster.lab(&["up", "--nodes", "2"]);
    assert_eq!(code, Some(2), "{said:?}");
    let (said, code) = cluster.lab(&["up", "--nodes", "1"]);
    assert_eq!(code, Some(1), "{said:?}");
    assert!(said[0].starts_with("Error: RabbitMQ runs already, with another number"), "{said:?}");
}

#[test]
fn wrong_usage() {
    let url = crate::support::vhost("steady_usage");
    for (program, arguments) in [
        ("publish-steadily", &["--rate", "0"][..]),
        ("publish-steadily", &["--rate", "2000"]),
        ("publish-steadily", &["more"]),
        ("count-steadily", &["more"]),
    ] {
        let (lines, code) = output(program, arguments, &url);
        assert_eq!(code, Some(2), "{program} {arguments:?}: {lines:?}");
    }
}
