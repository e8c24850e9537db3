//! The lessons, driven from outside as a reader does, against a real RabbitMQ and a real MySQL.

mod support;

mod commands;
mod connection;
mod copy;
mod hello;
mod orders;
mod page;
mod peers;
mod programs;
mod publish_subscribe;
mod readmes;
mod restarts;
mod routing;
mod services;
mod work_queues;
