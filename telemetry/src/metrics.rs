//! Numbers for Prometheus: <https://prometheus.io/docs/concepts/metric_types/>.

use std::fmt;
use std::sync::LazyLock;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text::encode};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use prometheus_client::registry::Registry;

/// What has become of a message.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
#[allow(non_camel_case_types)] // as Prometheus shows them
pub enum Outcome {
    /// The work is done.
    done,
    /// The work has failed; the program has put the message aside, or somewhere to wait.
    failed,
    /// It goes back to its queue: it is not done, or RabbitMQ could not be told that it is.
    returned,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Labels {
    pub outcome: Outcome,
}

pub(crate) struct Metrics {
    registry: Registry,
    pub messages: Family<Labels, Counter>,
    pub redelivered: Counter,
    pub seconds: Histogram,
    pub connected: Gauge,
    pub ready: Gauge,
}

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let mut metrics = Metrics {
        registry: Registry::with_prefix("service"),
        messages: Family::default(),
        redelivered: Counter::default(),
        // from 1 ms to a minute
        seconds: Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0]),
        connected: Gauge::default(),
        ready: Gauge::default(),
    };
    for outcome in [Outcome::done, Outcome::failed, Outcome::returned] {
        let _ = metrics.messages.get_or_create(&Labels { outcome }); // 0 until there is one
    }
    let registry = &mut metrics.registry;
    registry.register("messages", "Messages, by what has become of them", metrics.messages.clone());
    let help = "Messages that had been delivered before";
    registry.register("messages_redelivered", help, metrics.redelivered.clone());
    let help = "Seconds of work on a message";
    registry.register("message_duration_seconds", help, metrics.seconds.clone());
    let help = "1 while the program works over a connection to RabbitMQ, else 0";
    registry.register("rabbitmq_connected", help, metrics.connected.clone());
    let help = "1 while the program can do its work, else 0";
    registry.register("ready", help, metrics.ready.clone());
    metrics
});

/// The content type of [`text`].
pub(crate) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All numbers, as Prometheus reads them.
pub(crate) fn text() -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, &METRICS.registry)?;
    Ok(text)
}
