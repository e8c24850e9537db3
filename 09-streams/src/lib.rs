//! What the programs here share: the stream, and where in it a reader begins.

pub mod link;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use common::lost::Again;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use rabbitmq_stream_client::types::OffsetSpecification;

/// Which stream, and how much it keeps. Name and size are those of RabbitMQ's own example in Rust.
#[derive(Args)]
pub struct Stream {
    /// The name of the stream
    #[arg(id = "stream", long, value_name = "NAME", default_value = "hello-rust-stream")]
    pub name: String,

    /// How many bytes the stream keeps: it deletes the oldest events
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000)]
    max_length_bytes: u64,

    /// How long the stream keeps events, for example 30s, 12h or 7D
    #[arg(long, value_name = "AGE")]
    max_age: Option<String>,

    /// How many bytes a file of the stream has: it deletes whole files only
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u32>,
}

impl Stream {
    /// Declares the stream over AMQP, where it is a queue of a type of its own. Nothing happens if
    /// it is there already; it is an error if it is there with other arguments.
    pub async fn declare(&self, channel: &Channel) -> anyhow::Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        for (name, value) in self.arguments() {
            let value = match value.parse() {
                Ok(number) => AMQPValue::LongLongInt(number),
                Err(_) => AMQPValue::LongString(value.into()),
            };
            arguments.insert(format!("x-{name}").into(), value);
        }
        let durable = QueueDeclareOptions::durable();
        let declared = channel.queue_declare(self.name.as_str().into(), durable, arguments).await;
        ready(declared)?.with_context(|| format!("cannot declare the stream `{}`", self.name))?;
        Ok(())
    }

    /// As the stream protocol names them; AMQP has `x-` before each.
    pub fn arguments(&self) -> HashMap<String, String> {
        // In a cluster: the leader is on the node that has the fewest. The official client asks for
        // this, too, and a stream must always be declared with the same arguments.
        let locator = ("queue-leader-locator", Some("least-leaders".to_owned()));
        let size = ("max-length-bytes", Some(self.max_length_bytes.to_string()));
        let segment = self.segment_bytes.map(|bytes| bytes.to_string());
        let others =
            [("max-age", self.max_age.clone()), ("stream-max-segment-size-bytes", segment)];
        let arguments = [locator, size].into_iter().chain(others);
        arguments.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// An answer of RabbitMQ about a stream; a new connection can mend that it is not ready. RabbitMQ
/// that has just started knows the stream, but not where it is (3.10), or its replica does not run
/// yet (4.3): that is a 404 when we declare, and a 406 when we consume.
pub fn ready<T>(answer: lapin::Result<T>) -> anyhow::Result<lapin::Result<T>> {
    const NOT_YET: [&str; 2] = ["inaccessible", "replica on the local node"];
    match answer {
        Err(error) if NOT_YET.iter().any(|text| error.to_string().contains(text)) => {
            Err(error).context(Again("The stream is not there yet"))
        }
        answer => Ok(answer),
    }
}

/// Where in the stream a reader begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Begin {
    /// With the oldest event that is there.
    First,
    /// With the last chunk: what was written together last.
    Last,
    /// With the next event that is appended.
    Next,
    /// With the event at this offset. If it is deleted, with the oldest one that is there.
    Offset(u64),
    /// With the events since this time, in milliseconds since 1970. Some older ones may come, too.
    Time(u64),
}

impl Begin {
    /// Reads `first`, `last`, `next`, an offset, or how long ago: `90s`, `15m`, `12h`, `7D`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        match text {
            "first" => return Ok(Self::First),
            "last" => return Ok(Self::Last),
            "next" => return Ok(Self::Next),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        let unit = text.char_indices().next_back().context("nothing")?;
        let seconds = match unit.1 {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'D' => 86_400,
            _ => bail!("not first, last, next, an offset, or a time such as 90s, 15m, 12h or 7D"),
        };
        let number: u32 =
            text[..unit.0].parse().context("not a number of seconds, minutes, ...")?;
        Ok(Self::ago(Duration::from_secs(u64::from(number) * seconds)))
    }

    fn ago(time: Duration) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::Time(since.saturating_sub(time).as_millis() as u64)
    }

    /// Where to begin after the connection was lost, if not one event has come yet: what is
    /// appended in the meantime is new, too.
    pub fn again(self) -> Self {
        match self {
            Self::Next => Self::ago(Duration::ZERO),
            other => other,
        }
    }

    /// The argument `x-stream-offset` of an AMQP consumer. It knows whole seconds only.
    pub fn argument(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Last => AMQPValue::LongString("last".into()),
            Self::Next => AMQPValue::LongString("next".into()),
            Self::Offset(offset) => AMQPValue::LongLongInt(offset as i64),
            Self::Time(time) => AMQPValue::Timestamp(time / 1000),
        }
    }

    /// The same for a subscription over the stream protocol.
    pub fn specification(self) -> OffsetSpecification {
        match self {
            Self::First => OffsetSpecification::First,
            Self::Last => OffsetSpecification::Last,
            Self::Next => OffsetSpecification::Next,
            Self::Offset(offset) => OffsetSpecification::Offset(offset),
            Self::Time(time) => OffsetSpecification::Timestamp(time as i64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Begin;

    #[test]
    fn where_to_begin() {
        let parse = |text| Begin::parse(text).ok();
        assert_eq!(parse("first"), Some(Begin::First));
        assert_eq!(parse("0"), Some(Begin::Offset(0)));
        assert!(matches!(parse("2m"), Some(Begin::Time(_))));
        for wrong in ["", "m", "-1", "1y", "2 m", "é", "18446744073709551616"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
