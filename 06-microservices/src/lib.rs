//! What the two services share. Each idea has a file of its own:
//!
//! - [`events`]: what the services tell each other, and the exchange and queues for it;
//! - [`outbox`]: a change and its event cannot come apart;
//! - [`inbox`]: each event counts once;
//! - [`database`]: a database of one's own, and what to do when it is away;
//! - [`service`]: what a service knows of its products, and whom it tells when one changes;
//! - [`feed`]: what the pages are told, live;
//! - [`web`]: HTTP: answers, errors, the page and its news.

pub mod database;
pub mod events;
pub mod feed;
pub mod inbox;
pub mod outbox;
pub mod service;
pub mod web;
