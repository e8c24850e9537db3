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

macro_rules! variables {
    ($more:literal) => {
        concat!(
            "Environment:\n  \
             AMQP_URL         RabbitMQ [default: amqp://guest:guest@localhost:5672/%2f]\n",
            $more,
            "  WAIT_FOR_BROKER  How many seconds to wait for RabbitMQ at the start [default: 0]\n  \
             RUST_LOG         Which events to log, such as info,lapin=debug [default: info as JSON, nothing as text]"
        )
    };
}

/// For `--help`: the variables that programs read besides their options. Addresses are not options,
/// because everybody on a machine can read the options of a program, and there is a password in an
/// address.
pub const VARIABLES: &str = variables!("");

/// The same, with that of MySQL.
pub const VARIABLES_WITH_MYSQL: &str = variables!(
    "  MYSQL_URL        MySQL or MariaDB [default: mysql://guest:guest@localhost:3306/test]\n"
);

pub use health::{Options, ready};
pub use logs::Logs;
pub use message::{failed, message, messages, returned};
pub use trace::{trace_id, traced, traceparent, with_trace};
