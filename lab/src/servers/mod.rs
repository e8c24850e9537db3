//! A RabbitMQ and a MySQL of our own: their own folder, ports and names, on this machine's loopback
//! interface only, away from whatever else runs here.

mod certificate;
pub mod cluster;
pub mod docker;
mod instance;
pub mod management;
mod mysql;
mod ports;
pub mod probe;
mod rabbitmq;
mod ready;
mod service;

pub use certificate::Certificate;
pub use cluster::{NODES, Server};
pub use instance::Instance;
pub use ports::Ports;
pub use service::{Backend, SERVERS, Service, server_program};
