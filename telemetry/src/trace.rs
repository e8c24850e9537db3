//! Which messages belong together, across programs: the header `traceparent`, as the W3C has
//! defined it for HTTP, <https://www.w3.org/TR/trace-context/>. A message has it among its headers:
//! <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::{Instrument, Span, error_span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const HEADER: &str = "traceparent";

/// The trace that we are in: that of the message or the request that is being handled, or else a
/// new one. To be written down where it is to be read later, in an outbox for instance.
pub fn traceparent() -> String {
    let mut context = Span::current().context();
    if !context.span().span_context().is_valid() {
        let (ids, sampled) = (RandomIdGenerator::default(), TraceFlags::SAMPLED);
        let (trace, span) = (ids.new_trace_id(), ids.new_span_id());
        let new = SpanContext::new(trace, span, sampled, false, TraceState::default());
        context = Context::new().with_remote_span_context(new);
    }
    let mut header = Header(String::new());
    TraceContextPropagator::new().inject_context(&context, &mut header);
    header.0
}

/// The properties with the trace that we are in.
pub fn traced(properties: BasicProperties) -> BasicProperties {
    with_trace(properties, &traceparent())
}

/// The properties with a trace that was written down with [`traceparent`].
pub fn with_trace(properties: BasicProperties, traceparent: &str) -> BasicProperties {
    if traceparent.is_empty() {
        return properties;
    }
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(HEADER.into(), AMQPValue::LongString(traceparent.into()));
    properties.with_headers(headers)
}

/// The trace that these properties name, if they do.
pub(crate) fn of(properties: &BasicProperties) -> Context {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    parse(match headers.and_then(|headers| headers.get(HEADER)) {
        Some(AMQPValue::LongString(value)) => str::from_utf8(value.as_bytes()).unwrap_or_default(),
        _ => "",
    })
}

fn parse(traceparent: &str) -> Context {
    let header = Header(traceparent.to_owned());
    TraceContextPropagator::new().extract_with_context(&Context::new(), &header)
}

/// Puts the span into a trace, and the id of that into its field `trace`.
pub(crate) fn join(span: &Span, trace: Context) {
    // (That fails if no subscriber is set; then it does not matter.)
    let _ = span.set_parent(trace);
    span.record("trace", span.context().span().span_context().trace_id().to_string());
}

/// The id of the trace in these properties: 32 hexadecimal digits, the second part of
/// `traceparent`.
pub fn trace_id(properties: &BasicProperties) -> String {
    of(properties).span().span_context().trace_id().to_string()
}

/// For `axum::middleware::from_fn`: handles a request in a span, in the trace that it belongs to.
pub async fn request(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().as_str(), request.uri().path());
    let span = error_span!("request", method, path, trace = Empty);
    join(&span, parse(text(request.headers())));
    next.run(request).instrument(span).await
}

fn text(headers: &HeaderMap) -> &str {
    headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The one header that there is; `tracestate` is not carried.
struct Header(String);

impl Injector for Header {
    fn set(&mut self, key: &str, value: String) {
        if key == HEADER {
            self.0 = value;
        }
    }
}

impl Extractor for Header {
    fn get(&self, key: &str) -> Option<&str> {
        (key == HEADER).then_some(&self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![HEADER]
    }
}
