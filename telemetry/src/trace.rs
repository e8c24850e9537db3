//! Which messages belong together, across programs: the header `traceparent`, as the W3C has
//! defined it for HTTP, <https://www.w3.org/TR/trace-context/>. A message has it among its headers:
//! <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/>.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The properties with the trace that we are in: that of the message that is being handled, or else
/// a new one.
pub fn traced(properties: BasicProperties) -> BasicProperties {
    let mut headers = Headers(properties.headers().clone().unwrap_or_default());
    let inside = Span::current();
    let new = info_span!("publish");
    let span = if inside.is_none() { new } else { inside };
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    properties.with_headers(headers.0)
}

/// The trace that these properties name, if they do.
pub(crate) fn of(properties: &BasicProperties) -> Context {
    let headers = Headers(properties.headers().clone().unwrap_or_default());
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

/// The id of the trace that this span belongs to: 32 hexadecimal digits, the second part of
/// `traceparent`.
pub(crate) fn id(span: &Span) -> String {
    span.context().span().span_context().trace_id().to_string()
}

/// The id of the trace in these properties.
pub fn trace_id(properties: &BasicProperties) -> String {
    of(properties).span().span_context().trace_id().to_string()
}

struct Headers(FieldTable);

impl Injector for Headers {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(key.into(), AMQPValue::LongString(value.into()));
        }
    }
}

impl Extractor for Headers {
    fn get(&self, key: &str) -> Option<&str> {
        match self.0.inner().get(key)? {
            AMQPValue::LongString(value) => str::from_utf8(value.as_bytes()).ok(),
            AMQPValue::ShortString(value) => Some(value.as_str()),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.inner().keys().map(|key| key.as_str()).collect()
    }
}
