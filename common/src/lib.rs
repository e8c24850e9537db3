//! What all programs share: where the servers are and who we are, a connection, the next connection
//! when one is lost, and what a program prints. Most AMQP calls are in the programs themselves.
//!
//! - [`address`]: `AMQP_URL` and `MYSQL_URL`;
//! - [`connect`]: one connection, its address, its name, its clean end;
//! - [`unconnected`]: why there is no connection, and what to do about it;
//! - [`answer`]: how long to wait for an answer of the broker;
//! - [`supervise`]: one connection after the other;
//! - [`lost`]: when a connection is lost;
//! - [`beside`]: a second connection, to publish;
//! - [`stop`]: how a program ends: Ctrl-C and SIGTERM, and its exit code;
//! - [`careful`]: a message that lapin cannot read;
//! - [`backoff`]: pauses between attempts that grow;
//! - [`mysql`]: what an error of MySQL says of the statement;
//! - [`report`]: what a program prints.

pub mod address;
pub mod answer;
pub mod backoff;
pub mod beside;
pub mod careful;
pub mod connect;
pub mod lost;
pub mod mysql;
pub mod report;
pub mod stop;
pub mod supervise;
pub mod unconnected;

pub use answer::{confirmed, once};
pub use beside::beside;
pub use careful::prefetch;
pub use connect::{close, connect};
pub use lost::{Ended, is_down};
pub use report::printable;
pub use stop::exit;
pub use supervise::supervise;
/// Tells a program to stop:
/// <https://docs.rs/tokio-util/latest/tokio_util/sync/struct.CancellationToken.html>.
pub use tokio_util::sync::CancellationToken;
