//! The two URLs of the course, read as far as the lab needs them.

use std::env;

use anyhow::{Context, Result};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The parts of `amqp://user:password@host:port/vhost` or
/// `mysql://user:password@host:port/database`.
#[derive(Clone, Debug, PartialEq)]
pub struct Url {
    pub scheme: String,
    pub user: String,
    pub password: String,
    pub host: String,
    pub port: u16,
    /// The virtual host or the database.
    pub path: String,
}

impl Url {
    /// The URLs in the variable, with commas between them, if it is set. The error does not repeat
    /// them: they hold a password.
    pub fn from_env(variable: &str, schemes: &[&str]) -> Result<Option<Vec<Self>>> {
        let Some(value) = env::var_os(variable) else {
            return Ok(None);
        };
        let wanted = schemes.join(":// or ");
        let parse = |text: &str| {
            Self::parse(text.trim()).filter(|url| schemes.contains(&url.scheme.as_str()))
        };
        let urls: Option<Vec<_>> = value.to_string_lossy().split(',').map(parse).collect();
        urls.map(Some)
            .with_context(|| format!("{variable} is not a URL that begins with {wanted}://"))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let rest = rest.split(['?', '#']).next()?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(decode(path)?)),
            None => (rest, None),
        };
        let (credentials, address) =
            authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
            _ => (address, None),
        };
        let (default_port, default_path) = match scheme {
            "amqp" => (5672, "/"),
            "amqps" => (5671, "/"),
            _ => (3306, ""),
        };
        Some(Self {
            scheme: scheme.to_owned(),
            user: decode(user)?,
            password: decode(password)?,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.unwrap_or(default_port),
            path: path.unwrap_or_else(|| default_path.to_owned()),
        })
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn decode(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

/// As a part of a URL's path.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn urls() {
        let url = Url::parse("amqp://us%40er:p%3Aw@host:1234/%2f?heartbeat=5").unwrap();
        assert_eq!((url.user.as_str(), url.password.as_str()), ("us@er", "p:w"));
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("host", 1234, "/"));
        let url = Url::parse("amqps://broker").unwrap();
        assert_eq!((url.user.as_str(), url.port, url.path.as_str()), ("guest", 5671, "/"));
        let url = Url::parse("mysql://root@[::1]:3307/shop").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 3307, "shop"));
        assert_eq!(Url::parse("amqp://host:99999"), None);
    }
}
