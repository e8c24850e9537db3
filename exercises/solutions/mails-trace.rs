//! Hint: The headers of the order are in `order.properties.headers()`. `with_headers(...)` gives
//! the mail its own.
//!
//! Why: a trace is what programs hand on. The header of the order is the place where the mail's
//! program finds it, and the header of the mail is where the next program does. Do not copy the
//! other headers: some, such as `x-death`, are RabbitMQ's, about the order.

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
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        let headers = order.properties.headers().as_ref();
        if let Some(trace) = headers.and_then(|headers| headers.inner().get("traceparent")) {
            let mut headers = FieldTable::default();
            headers.insert("traceparent".into(), trace.clone());
            properties = properties.with_headers(headers);
        }
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let published =
            channel.basic_publish("".into(), "mails".into(), options, &order.data, properties);
        ensure!(matches!(published.await?.await?, Confirmation::Ack(None)), "the mail is refused");
        say!(" [x] Mail for {}", printable(&order.data))?;
        order.ack(BasicAckOptions::default()).await?;
    }
}
