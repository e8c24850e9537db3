//! What becomes of a message, and how long that takes.

use std::cell::Cell;
use std::slice;
use std::time::Instant;

use lapin::message::Delivery;
use tokio::task_local;
use tracing::{Instrument, Span, error_span, field::Empty, info};

use crate::metrics::{Labels, METRICS, Outcome};
use crate::trace;

task_local! {
    /// How many of them have failed; `None`: all have gone back.
    static FAILED: Cell<Option<u64>>;
}

/// A message that is about to be handled, or several of them.
pub struct Message {
    span: Span,
    count: u64,
    redelivered: u64,
}

/// Begins a span for this message, in the trace that the message belongs to. (Its level is that of
/// errors: whatever is logged, it is known of which message.)
pub fn message(delivery: &Delivery) -> Message {
    let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str());
    let span = error_span!("message", id, trace = Empty);
    trace::join(&span, trace::of(&delivery.properties));
    Message { span, ..all(slice::from_ref(delivery)) }
}

/// Begins a span for messages that are handled at once. Each may belong to another trace: the span
/// belongs to none of them.
pub fn messages(deliveries: &[Delivery]) -> Message {
    Message { span: error_span!("messages", count = deliveries.len()), ..all(deliveries) }
}

fn all(deliveries: &[Delivery]) -> Message {
    let redelivered = deliveries.iter().filter(|delivery| delivery.redelivered).count() as u64;
    Message { span: Span::none(), count: deliveries.len() as u64, redelivered }
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
        let mut count = Count { message: self, begin: Instant::now(), failed: None };
        let span = count.message.span.clone();
        let work = async {
            let result = work.await;
            (result, FAILED.with(Cell::get))
        };
        let (result, failed) = FAILED.scope(Cell::new(Some(0)), work).instrument(span).await;
        if result.is_ok() {
            count.failed = failed;
        }
        result
    }
}

/// To be called in the midst of the work: a message has failed, and does not go back to its queue.
pub fn failed() {
    let _ = FAILED.try_with(|failed| failed.set(failed.get().map(|failed| failed + 1)));
}

/// To be called in the midst of the work: the messages go back to their queue.
pub fn returned() {
    let _ = FAILED.try_with(|failed| failed.set(None));
}

/// Counts when it is dropped, so that nothing is forgotten.
struct Count {
    message: Message,
    begin: Instant,
    failed: Option<u64>,
}

impl Drop for Count {
    fn drop(&mut self) {
        let Message { span, count, redelivered } = &self.message;
        let seconds = self.begin.elapsed().as_secs_f64();
        let failed = self.failed.unwrap_or_default().min(*count);
        let (done, returned) = match self.failed {
            Some(_) => (count - failed, 0),
            None => (0, *count),
        };
        for (outcome, number) in
            [(Outcome::done, done), (Outcome::failed, failed), (Outcome::returned, returned)]
        {
            METRICS.messages.get_or_create(&Labels { outcome }).inc_by(number);
        }
        (0..*count).for_each(|_| METRICS.seconds.observe(seconds));
        METRICS.redelivered.inc_by(*redelivered);
        span.in_scope(|| info!(done, failed, returned, redelivered, seconds, "handled"));
    }
}
