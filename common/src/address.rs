//! Where the servers are, and who we are there: `AMQP_URL` and `MYSQL_URL`.

use std::env;

use anyhow::{anyhow, ensure};
use lapin::uri::AMQPUri;

/// The address of RabbitMQ: the environment variable `AMQP_URL`, or else the user `guest` at the
/// default port of this machine. `%2f` is `/`, the name of the default virtual host.
///
/// How such a URL is written: <https://www.rabbitmq.com/docs/uri-spec>.
pub fn amqp_url() -> String {
    variable("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")
}

/// The address of MySQL: the environment variable `MYSQL_URL`, or else the user `guest` and the
/// database `test` at the default port of this machine.
pub fn mysql_url() -> String {
    variable("MYSQL_URL", "mysql://guest:guest@localhost:3306/test")
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

/// Reads the URL as lapin does.
///
/// # Errors
///
/// How the URL must be written. Its text is not repeated: nobody knows where in it the password is.
pub fn parse(url: &str) -> anyhow::Result<AMQPUri> {
    const FORM: &str = "AMQP_URL must be amqp://user:password@host:port/vhost (or amqps://), with \
                        characters other than letters and digits percent-encoded";
    // Where the host ends, by the rules of URLs. An `@` behind it belongs to a password.
    let host = url.split_once("://").map_or("", |(_, rest)| rest);
    let (host, rest) = host.split_at(host.find(['/', '?', '#']).unwrap_or(host.len()));
    ensure!(!host.is_empty() && !rest.contains('@'), "{FORM}");
    // lapin 4.12 would connect to `localhost` instead.
    ensure!(!host.contains('['), "{FORM}, and a name instead of an IPv6 address");
    url.parse().map_err(|cause| anyhow!("AMQP_URL: {cause}. {FORM}"))
}

/// The URL as it may be shown: without the password.
pub fn masked(uri: &AMQPUri) -> String {
    let mut uri = uri.clone();
    uri.authority.userinfo.password = "password".to_owned();
    uri.to_string().replacen(":password@", ":***@", 1)
}

#[cfg(test)]
mod tests {
    use super::{masked, parse};

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("amqp://guest:secret@localhost:5672/%2f", "amqp://guest:***@localhost:5672/%2F"),
            ("amqps://us%40er:se%2Fcret@broker/shop", "amqps://us%40er:***@broker:5671/shop"),
        ] {
            assert_eq!(masked(&parse(url).unwrap()), shown);
        }
    }

    #[test]
    fn an_error_does_not_repeat_the_url() {
        for url in ["", "secret", "amqp://", "amqp://guest:top/secret@localhost", "http://secret"] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains("AMQP_URL must be amqp://"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
