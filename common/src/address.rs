//! Where the servers are, and who we are there: `AMQP_URL` and `MYSQL_URL`.

use std::env;

use anyhow::{Context, anyhow, ensure};
use lapin::uri::AMQPUri;

/// The address of RabbitMQ: the environment variable `AMQP_URL`, or else the user `guest` at the
/// default port of this machine. `%2f` is `/`, the name of the default virtual host. For the nodes
/// of a cluster it is several addresses, with commas between them.
///
/// How such a URL is written: <https://www.rabbitmq.com/docs/uri-spec>.
pub fn amqp_url() -> String {
    variable("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")
}

/// The address of MySQL: the environment variable `MYSQL_URL`, or else the user `guest` and the
/// database `test` at the default port of this machine.
///
/// # Errors
///
/// [`MYSQL_FORM`], if a part of the password would be taken for the database.
pub fn mysql_url() -> anyhow::Result<String> {
    let url = variable("MYSQL_URL", "mysql://guest:guest@localhost:3306/test");
    ensure!(host(&url).is_some(), MYSQL_FORM);
    Ok(url)
}

/// What to say of a `MYSQL_URL` that cannot be read. Its text is not repeated: nobody knows where
/// in it the password is.
pub const MYSQL_FORM: &str = "MYSQL_URL must be mysql://user:password@host:port/database, with \
                              characters other than letters and digits percent-encoded";

/// What to do when the certificate of a server is refused.
pub const CERTIFICATE: &str = ". If the server's certificate is from an authority of your own, name \
                               its file in SSL_CERT_FILE";

fn variable(name: &str, default: &str) -> String {
    env::var_os(name).map_or(default.to_owned(), |value| value.to_string_lossy().into_owned())
}

/// Reads each of the URLs in a list as lapin does.
///
/// # Errors
///
/// How each of them must be written.
pub fn parse_all(urls: &str) -> anyhow::Result<Vec<AMQPUri>> {
    urls.split(',').map(|url| parse(url.trim())).collect()
}

/// Reads the URL as lapin does.
///
/// # Errors
///
/// How the URL must be written. Its text is not repeated: nobody knows where in it the password is.
pub fn parse(url: &str) -> anyhow::Result<AMQPUri> {
    const FORM: &str = "AMQP_URL must be amqp://user:password@host:port/vhost (or amqps://), with \
                        characters other than letters and digits percent-encoded";
    let host = host(url).context(FORM)?;
    // lapin 4.12 would connect to `localhost` instead.
    ensure!(!host.contains('['), "{FORM}, and a name instead of an IPv6 address");
    url.parse().map_err(|_| anyhow!(FORM)) // the cause may repeat the text
}

/// The user, the password, the host and the port. They end where the rules of URLs say so: an `@`
/// behind that belongs to a password, and there is none then.
fn host(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (!host.is_empty() && !scheme.contains(':') && !rest.contains('@')).then_some(host)
}

/// The URL as it may be shown: without the password.
pub fn masked(uri: &AMQPUri) -> String {
    let mut uri = uri.clone();
    uri.authority.userinfo.password = "password".to_owned();
    uri.to_string().replacen(":password@", ":***@", 1)
}

#[cfg(test)]
mod tests {
    use super::{masked, parse_all};

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("amqp://guest:secret@localhost:5672/%2f", "amqp://guest:***@localhost:5672/%2F"),
            ("amqps://us%40er:se%2Fcret@broker/shop", "amqps://us%40er:***@broker:5671/shop"),
        ] {
            assert_eq!(parse_all(url).unwrap().iter().map(masked).collect::<Vec<_>>(), [shown]);
        }
        let list = "amqp://a:secret@one/%2f, amqp://a:secret@two:5673/%2f";
        let shown: Vec<_> = parse_all(list).unwrap().iter().map(masked).collect();
        assert_eq!(shown, ["amqp://a:***@one:5672/%2F", "amqp://a:***@two:5673/%2F"]);
    }

    #[test]
    fn an_error_does_not_repeat_the_url() {
        for url in [
            "",
            "secret",
            "amqp://",
            "amqp://guest:top/secret@localhost",
            "http://secret",
            "url:amqp://guest:secret@localhost",
            "amqp://guest:secret@localhost,",
            "amqp://guest:sec,secret@localhost",
            "amqp://guest:guest@localhost,amqp://guest:top/secret@localhost",
        ] {
            let error = parse_all(url).unwrap_err().to_string();
            assert!(error.contains("AMQP_URL must be amqp://"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
