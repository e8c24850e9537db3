//! The lessons, driven from outside as a reader does, against a real RabbitMQ and a real MySQL.

#[path = "../shared/mod.rs"]
mod shared;
mod support;

// These take long. The first in alphabetical order begin first.
mod all_faults;
mod all_readmes;
mod all_starters;

mod cluster;
mod commands;
mod connection;
mod exercises;
mod failures;
mod hello;
mod mails;
mod manifests;
mod network;
mod orders;
mod page;
mod peers;
mod programs;
mod publish_subscribe;
mod restarts;
mod retries;
mod routing;
mod rpc;
mod services;
mod streams;
mod work_queues;
