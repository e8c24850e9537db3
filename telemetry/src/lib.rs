//! What a service says of itself, for those who run it: logs, traces, metrics, health.
//!
//! - [`logs`]: lines for people, or JSON;
//! - [`trace`]: which messages belong together, across programs;
//! - [`message`]: what becomes of a message, and how long that takes;
//! - [`metrics`]: numbers for Prometheus;
//! - [`health`]: whether the program lives, and whether it is ready.

pub mod health;
pub mod logs;
pub mod message;
pub mod metrics;
pub mod trace;

pub use health::{Options, ready};
pub use logs::Logs;
pub use message::{failed, message, messages, returned};
pub use trace::{trace_id, traced, traceparent, with_trace};
