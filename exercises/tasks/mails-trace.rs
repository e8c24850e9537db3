//! Lesson 11: one trace through two queues
//!
//! This program takes orders from the queue `orders`, publishes a mail for each to the queue
//! `mails`, and says `[x] Mail for ...`. Whoever searches for the trace of an order does not find
//! its mail.
//!
//! Wanted: an order that has the header `traceparent` has a mail with the same one. A mail for an
//! order without a trace has none.
//!
//! The check: three orders, the second without a trace. The headers of the three mails are compared
//! with those of the orders.
//!
//! Help: 11-service/README.md, "Follow a message through programs".

use anyhow::{Context, ensure};
use common::{CancellationToken, Ended, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection};

#[tokio::main]
async fn main() {
    common::exit(supervise(env!("CARGO_BIN_NAME"), write_mails).await)
}

async fn write_mails(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for queue in ["orders", "mails"] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await?;
    }
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume("orders".into(), "".into(), options, none).await?;
    say!(" [*] Waiting")?;

    loop {
        let order = tokio::select! {
            order = consumer.next() => order,
            () = stop.cancelled() => return Ok(()),
        };
        let order = order.context(Ended("orders"))??;
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let published =
            channel.basic_publish("".into(), "mails".into(), options, &order.data, properties);
        ensure!(matches!(published.await?.await?, Confirmation::Ack(None)), "the mail is refused");
        say!(" [x] Mail for {}", printable(&order.data))?;
        order.ack(BasicAckOptions::default()).await?;
    }
}
