//! Where the broker is, who we are, and what a program says when that is wrong.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::process::wait_until;
use lab::progress::Tasks;
use lab::servers::{Certificate, Service};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::Signal;

use crate::support::{
    AGAIN, Folder, INTERNAL, LIMIT, LOST, NONE, Servers, Terminal, WAITING, output, program,
    shared, vhost,
};

/// One line, within five seconds, exit code 1, and no password in it.
fn assert_refused(url: &str, expected: &[&str]) {
    program("send"); // compiled before the clock runs
    let start = Instant::now();
    let (lines, code) = output("send", &["hello"], url);
    assert!(start.elapsed() < Duration::from_secs(5), "{url}: {:?}", start.elapsed());
    assert_eq!((lines.len(), code), (1, Some(1)), "{url}: {lines:#?}");
    assert!(lines[0].starts_with("Error: "), "{lines:?}");
    assert!(!lines[0].contains("secret"), "{lines:?}");
    for part in expected {
        assert!(lines[0].contains(part), "{url}: {part} is not in {lines:?}");
    }
}

#[test]
fn malformed_urls() {
    let form = "AMQP_URL must be amqp://";
    for url in [
        "",
        "localhost",
        "localhost:5672",
        "guest:secret@localhost",
        "secret",
        "amqp://",
        "amqp://guest:secret@localhost:99999",
        "amqp://guest:secret@localhost:port",
        "amqp://guest:top/secret@localhost",
        "amqp://guest:12/secret@localhost",
        "amqp://guest:12#secret@localhost",
        "amqp://guest:secret@[::1]:5672",
        "amqp://guest:secret@localhost/%ff",
        "http://guest:secret@localhost",
        "mysql://guest:secret@localhost/test",
    ] {
        assert_refused(url, &[form]);
    }
}

#[test]
fn a_url_that_is_not_unicode() {
    use std::os::unix::ffi::OsStrExt;
    let mut send = Command::new(program("send"));
    send.env("AMQP_URL", std::ffi::OsStr::from_bytes(b"amqp://\xff\xfe"));
    let (lines, status) = Terminal::start(send).finish();
    assert_eq!((lines.len(), status.code()), (1, Some(1)), "{lines:?}");
}

#[test]
fn closed_port() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let masked = format!("cannot connect to amqp://guest:***@localhost:{port}/%2F: ");
    assert_refused(
        &format!("amqp://guest:secret@localhost:{port}/%2f"),
        &[&masked, "Connection refused", "`cargo lab up`", "AMQP_URL"],
    );
}

/// A container may start before its broker.
#[test]
fn a_broker_that_comes_later() {
    let servers = Servers::start(&[Service::Rabbitmq]);
    let url = servers.instance.amqp_url();
    let start = |name: &str, seconds: &str| {
        let mut command = Command::new(program(name));
        Terminal::start({
            command.env("AMQP_URL", &url).env("WAIT_FOR_BROKER", seconds);
            command
        })
    };
    servers.instance.stop(Service::Rabbitmq, true).unwrap();
    let says_why = |program: &Terminal, seconds: u32| {
        let line = program.line().unwrap();
        assert!(line.starts_with(" [!] cannot connect to amqp://guest:***@"), "{line}");
        assert!(line.ends_with(&format!(". Trying again for {seconds} s ...")), "{line}");
    };
    let [worker, task] = ["worker", "new-task"].map(|name| start(name, "120"));
    [&worker, &task].into_iter().for_each(|program| says_why(program, 120));
    let impatient = start("send", "1");
    says_why(&impatient, 1);
    let (said, status) = impatient.finish();
    assert_eq!(status.code(), Some(1));
    assert!(said[0].starts_with("Error: cannot connect to amqp://guest:***@"), "{said:?}");
    let stopped = start("receive", "120");
    says_why(&stopped, 120);
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.finish().1.code(), Some(0)); // and not: killed by the signal

    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    // RabbitMQ 3.10 that has just started may meet an internal error, or refuse a message.
    let waits = |worker: &Terminal| {
        while let Some(line) = worker.line().filter(|line| line != WAITING) {
            assert!([INTERNAL, LOST, AGAIN].contains(&line.as_str()), "{line}");
        }
    };
    let (sent, _) = task.finish();
    if sent != [" [x] Sent Hello World!"] {
        let reasons = ["INTERNAL_ERROR", "the broker did not take the task"];
        assert!(reasons.iter().any(|reason| sent[0].contains(reason)), "{sent:?}");
        wait_until(LIMIT, || output("new-task", &NONE, &url).1 == Some(0)).unwrap();
    }
    waits(&worker);
    let line = worker.line().unwrap(); // it may have lost its first connection
    assert!(line.starts_with(" [x] Received Hello World!"), "{line}");
    // Later, it waits for as long as it takes, and says so once.
    worker.expect(" [x] Done");
    servers.instance.stop(Service::Rabbitmq, false).unwrap();
    servers.instance.start(&[Service::Rabbitmq], &Tasks::quiet()).unwrap();
    worker.expect(LOST);
    waits(&worker);
    worker.stop();

    let (said, status) = start("send", "soon").finish();
    assert_eq!(status.code(), Some(1));
    assert_eq!(said, ["Error: WAIT_FOR_BROKER must be a number of seconds, such as 60"]);
}

/// Several addresses: whichever is tried first, the one that lets us in is found.
#[test]
fn a_list_of_addresses() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("amqp://guest:secret@localhost:{port}/%2f");
    let good = vhost("list");
    let wrong = good.replace(":guest@", ":secret@");
    for _ in 0..6 {
        for list in [format!("{closed},{wrong},{good}"), format!("{good}, {closed}")] {
            assert_eq!(output("send", &NONE, &list).1, Some(0));
        }
    }
    // a program with two connections, over both of which messages go
    let jobs = Terminal::run("run-jobs", &NONE, &format!("{closed},{good}"));
    jobs.expect(" [*] Waiting for jobs. To exit press CTRL+C");
    jobs.stop();

    assert_refused(
        &format!("{closed},amqp://guest:secret@localhost:1"),
        &[
            &format!("amqp://guest:***@localhost:{port}/%2F"),
            "localhost:1/",
            " or ",
            "`cargo lab up`",
        ],
    );
    let refused = ["; nor to ", "Connection refused", "ACCESS_REFUSED", "Check the user"];
    assert_refused(&format!("{closed},{wrong}"), &refused);
    assert_refused(&format!("{good},guest:secret@localhost"), &["AMQP_URL must be amqp://"]);
    assert_refused(&format!("{good},"), &["AMQP_URL must be amqp://"]);
}

#[test]
fn unknown_host() {
    assert_refused(
        "amqp://guest:secret@no-such-host.invalid",
        &["no-such-host.invalid", "AMQP_URL"],
    );
}

#[test]
fn a_port_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_refused(&format!("amqp://guest:secret@localhost:{port}"), &["timed out"]);
    assert_refused(&format!("amqps://guest:secret@localhost:{port}"), &["timed out"]);
}

#[test]
fn a_port_that_speaks_something_else() {
    let http = shared().ports.management;
    assert_refused(&format!("amqp://guest:secret@localhost:{http}"), &["AMQP_URL"]);
    let amqp = shared().ports.amqp;
    assert_refused(
        &format!("amqps://guest:secret@localhost:{amqp}"),
        &["does not speak TLS", "AMQP_URL"],
    );
}

#[test]
fn wrong_password() {
    let port = shared().ports.amqp;
    assert_refused(
        &format!("amqp://guest:secret@localhost:{port}"),
        &["guest:***@", "ACCESS_REFUSED", "Check the user and the password in AMQP_URL"],
    );
}

#[test]
fn missing_virtual_host() {
    let port = shared().ports.amqp;
    for name in ["nowhere", ""] {
        let url = format!("amqp://guest:guest@localhost:{port}/{name}");
        assert_refused(&url, &["NOT_ALLOWED", "Check the virtual host"]);
    }
}

#[test]
fn tls() {
    // An authority of our own, and a certificate for `localhost` from it.
    let folder = Folder::temporary();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&key, &authority).unwrap();
    let trusted = folder.path().join("authority.pem");
    fs::write(&trusted, authority.pem()).unwrap();
    let certificate = Certificate {
        authority: authority.pem(),
        certificate: server.pem(),
        key: key.serialize_pem(),
    };
    let servers = Servers::start_with(certificate);
    let port = servers.instance.ports.amqps;
    let url = format!("amqps://guest:guest@localhost:{port}/%2f");
    let run = |name: &str| {
        let mut command = Command::new(program(name));
        command.env("AMQP_URL", &url).env("SSL_CERT_FILE", &trusted);
        Terminal::start(command).finish()
    };
    assert_eq!(run("send").0, [" [x] Sent Hello World!"]);
    assert_eq!(run("receive-get").0[0], " [x] Received Hello World!");
    // This machine does not trust that authority.
    assert_refused(&url, &["certificate", "SSL_CERT_FILE"]);
}
