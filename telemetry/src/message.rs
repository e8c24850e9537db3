//! What becomes of a message, and how long that takes.

use std::cell::Cell;
use std::time::Instant;

use lapin::message::Delivery;
use tokio::task_local;
use tracing::{Instrument, Span, field::Empty, info, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::metrics::{Labels, METRICS, Outcome};
use crate::trace;

task_local! {
    static OUTCOME: Cell<Outcome>;
}

/// A message that is about to be handled.
pub struct Message {
    span: Span,
    redelivered: bool,
}

/// Begins a span for this message, in the trace that the message belongs to.
pub fn message(delivery: &Delivery) -> Message {
    let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str());
    let span = info_span!("message", id, trace = Empty);
    // (That fails if nobody writes down spans, and then nobody misses it.)
    let _ = span.set_parent(trace::of(&delivery.properties));
    span.record("trace", trace::id(&span));
    Message { span, redelivered: delivery.redelivered }
}

impl Message {
    /// Handles it: does the `work`, with what is said meanwhile in the span of the message, and
    /// counts what has become of it: done, or [`failed`], if the work has said so. It has gone back
    /// to its queue if the work has said [`returned`], ends with an error, or does not end.
    ///
    /// # Errors
    ///
    /// What the work returns.
    pub async fn handle<T>(
        self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let mut count = Count { message: self, begin: Instant::now(), outcome: Outcome::returned };
        let span = count.message.span.clone();
        let work = async {
            let result = work.await;
            (result, OUTCOME.with(Cell::get))
        };
        let (result, outcome) =
            OUTCOME.scope(Cell::new(Outcome::done), work).instrument(span).await;
        if result.is_ok() {
            count.outcome = outcome;
        }
        result
    }
}

/// To be called in the midst of the work: it has failed, and the message is not to go back to its
/// queue.
pub fn failed() {
    let _ = OUTCOME.try_with(|outcome| outcome.set(Outcome::failed));
}

/// To be called in the midst of the work: the message goes back to its queue.
pub fn returned() {
    let _ = OUTCOME.try_with(|outcome| outcome.set(Outcome::returned));
}

/// Counts when it is dropped, so that nothing is forgotten.
struct Count {
    message: Message,
    begin: Instant,
    outcome: Outcome,
}

impl Drop for Count {
    fn drop(&mut self) {
        let (outcome, seconds) = (self.outcome, self.begin.elapsed().as_secs_f64());
        METRICS.messages.get_or_create(&Labels { outcome }).inc();
        METRICS.seconds.observe(seconds);
        if self.message.redelivered {
            METRICS.redelivered.inc();
        }
        let redelivered = self.message.redelivered;
        self.message.span.in_scope(|| info!(?outcome, redelivered, seconds, "handled"));
    }
}
