//! Is there a server at an address, which version, and does it let us in?
//!
//! The lab is compiled before a reader sees anything, so it has no AMQP client. To open a
//! connection and close it again takes seven frames.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::Command;
use std::time::Duration;

use crate::amqp::{self, long, method, short};
use crate::servers::server_program;
use crate::url::Url;

/// What was found at an address.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// Nothing accepts connections there.
    Nothing,
    /// The server lets us in. Its name and version.
    Server(String),
    /// It is a server of the right kind, but it does not let us in.
    Refused(String),
    /// Something else listens there.
    Other(String),
}

fn connect(url: &Url) -> Option<TcpStream> {
    let limit = Duration::from_secs(3);
    let stream = (url.host.as_str(), url.port)
        .to_socket_addrs()
        .ok()?
        .find_map(|address| TcpStream::connect_timeout(&address, limit).ok())?;
    stream.set_read_timeout(Some(limit)).ok()?;
    Some(stream)
}

/// Looks for RabbitMQ.
pub fn rabbitmq(url: &Url) -> Answer {
    match connect(url) {
        None => Answer::Nothing,
        // To speak TLS the lab would need a TLS library; the lessons have one.
        Some(_) if url.scheme == "amqps" => Answer::Server("RabbitMQ over TLS".to_owned()),
        Some(stream) => open_amqp(stream, url).unwrap_or_else(|error| {
            Answer::Other(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    "it does not answer".to_owned()
                }
                _ => error.to_string(),
            })
        }),
    }
}

fn open_amqp(mut stream: TcpStream, url: &Url) -> io::Result<Answer> {
    stream.write_all(amqp::HEADER)?;
    let start = amqp::expect(&mut stream, (10, 10))?;
    let version = server_property(&start, "version").unwrap_or_default();
    let product = server_property(&start, "product").unwrap_or_else(|| "AMQP server".to_owned());

    // With this capability, RabbitMQ says why it refuses us instead of hanging up.
    let capability = [&short("authentication_failure_close")[..], b"t\x01"].concat();
    let capabilities = [&short("capabilities")[..], b"F", &long(&capability)].concat();
    let response = format!("\0{}\0{}", url.user, url.password);
    let start_ok = [long(&capabilities), short("PLAIN"), long(response.as_bytes()), short("en_US")];
    stream.write_all(&method(0, (10, 11), &start_ok.concat()))?;

    let tune = match amqp::read_method(&mut stream)? {
        (CLOSE, close) => return Ok(Answer::Refused(close_reason(&close))),
        (_, tune) => tune,
    };
    let no_heartbeat = [tune.get(..6).unwrap_or_default(), &[0; 2]].concat();
    stream.write_all(&method(0, (10, 31), &no_heartbeat))?;
    let open = [short(&url.path), short(""), vec![0]].concat();
    stream.write_all(&method(0, (10, 40), &open))?;
    if let (CLOSE, close) = amqp::read_method(&mut stream)? {
        return Ok(Answer::Refused(close_reason(&close)));
    }
    let goodbye = [&200u16.to_be_bytes()[..], &short("Goodbye"), &[0; 4]].concat();
    stream.write_all(&method(0, CLOSE, &goodbye))?;
    let _ = amqp::read_method(&mut stream);
    Ok(Answer::Server(format!("{product} {version}")))
}

const CLOSE: amqp::Id = (10, 50);

/// A text among the server's properties: its name, the type `S`, the length, the text.
fn server_property(start: &[u8], name: &str) -> Option<String> {
    let key = [&short(name)[..], b"S"].concat();
    let at = start.windows(key.len()).position(|window| window == key)? + key.len();
    let length = u32::from_be_bytes(start.get(at..at + 4)?.try_into().ok()?) as usize;
    Some(String::from_utf8_lossy(start.get(at + 4..at + 4 + length)?).into_owned())
}

fn close_reason(close: &[u8]) -> String {
    let length = close.get(2).copied().unwrap_or_default() as usize;
    let text = close.get(3..3 + length).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end_matches('.').to_owned()
}

/// Looks for MySQL or MariaDB. The server greets first, with its version; to log in, MySQL's own
/// `client` is asked, if there is one.
pub fn mysql(url: &Url, client: Option<Command>) -> Answer {
    let Some(mut stream) = connect(url) else {
        return Answer::Nothing;
    };
    // Three bytes of length, a number, then the protocol's version (10) or an error (255):
    // https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html
    let mut packet = [0; 128];
    let size = stream.read(&mut packet).unwrap_or_default();
    let version = match packet[..size].get(4) {
        Some(10) => packet[5..size].split(|&byte| byte == 0).next().unwrap_or_default(),
        Some(255) => {
            return Answer::Refused(String::from_utf8_lossy(&packet[7..size]).into_owned());
        }
        _ => return Answer::Other("it does not greet as MySQL does".to_owned()),
    };
    let version = String::from_utf8_lossy(version).replace("5.5.5-", "");
    let name = match version.split_once("-MariaDB") {
        Some((number, _)) => format!("MariaDB {number}"),
        None => format!("MySQL {version}"),
    };
    let Some(mut client) = client else {
        return Answer::Server(format!(
            "{name} (user and password not checked: no `mysql` client here)"
        ));
    };
    let login = client.args(["--connect-timeout=3", "-e", "SELECT 1"]).output();
    match login {
        Ok(output) if output.status.success() => Answer::Server(name),
        Ok(output) => {
            Answer::Refused(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))
        }
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// MySQL's own command line tool for this database, if there is one on this machine.
pub fn mysql_client(url: &Url) -> Option<Command> {
    let program = server_program(&[], &["mariadb", "mysql"])?;
    let mut client = Command::new(&program);
    client.arg("--no-defaults");
    if program.ends_with("mariadb") {
        // Without a password on the command line it does not verify anyway, and says so since 11.4.
        client.arg("--skip-ssl-verify-server-cert");
    }
    client
        .args(["--protocol=tcp", "--batch"])
        .args(["-h", &url.host, "-P", &url.port.to_string()])
        .args(["-u", &url.user, "-D", &url.path])
        .env("MYSQL_PWD", &url.password); // not in the list of processes
    Some(client)
}
