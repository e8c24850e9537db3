//! As a good user of CloudAMQP's amqp-client does: at high speed with its low-level API, and, while
//! things break, with its high-level one, which recovers.

use std::time::{Duration, Instant};

use amqp_client::{
    BasicProperties, Client, Confirmation, Connection, ConsumeOpts, Error, FieldValue, QueueOpts,
    RecoveryConfig, ShortStr, SubscribeOpts, Table,
};
use anyhow::{Context, Result, bail, ensure};
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use peers::{FLOW, PREFETCH, QUEUE, What, number, order, say, took, url, what};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<()> {
    match what()? {
        What::Publish(count, window) => publish(count, window).await,
        What::Consume(count, batch) => consume(count, batch).await,
        What::Send => send().await,
        What::Receive => receive().await,
    }
}

async fn publish(count: u64, window: usize) -> Result<()> {
    let start = Instant::now();
    let connection = Connection::connect(&url()?).await?;
    let channel = connection.open_channel().await?;
    channel.confirm_select().await?;
    let mut confirms = FuturesUnordered::new();
    for index in 0..count {
        let (body, id) = order(index);
        let properties =
            BasicProperties::builder().content_type("text/plain").persistent().message_id(&id);
        let confirm =
            channel.basic_publish_confirmed("", "orders", body, properties.build()?, true).await?;
        confirms.push(confirm);
        if confirms.len() == window {
            let confirm: Option<Result<_, Error>> = confirms.next().await;
            ensure!(matches!(confirm, Some(Ok(Confirmation::Acked))), "not confirmed");
        }
    }
    while let Some(confirm) = confirms.next().await {
        ensure!(matches!(confirm?, Confirmation::Acked), "not confirmed");
    }
    connection.close().await?;
    took(start)
}

async fn consume(count: u64, batch: u64) -> Result<()> {
    let start = Instant::now();
    let connection = Connection::connect(&url()?).await?;
    let channel = connection.open_channel().await?;
    channel.basic_qos(PREFETCH, false).await?;
    let mut consumer = channel.basic_consume("orders", "", ConsumeOpts::default()).await?;
    for received in 1..=count {
        let message = consumer.next().await.context("the consumer has ended")?;
        match batch {
            1 => message.ack()?,
            _ if received % batch == 0 || received == count => {
                channel.basic_ack(message.delivery_tag, true)?;
            }
            _ => {}
        }
    }
    channel.close().await?;
    connection.close().await?;
    took(start)
}

/// A client that recovers, and the queue.
async fn recovering() -> Result<(Client, amqp_client::Queue<amqp_client::ByteCodec>)> {
    let client = Client::builder(&url()?)?.recovery(RecoveryConfig::default()).build().await?;
    let mut arguments = Table::new();
    let key = ShortStr::try_from("x-queue-type")?;
    arguments.insert(key, FieldValue::LongStr("quorum".into()));
    let queue = client.queue(QUEUE, QueueOpts::default().arguments(arguments)).await?;
    Ok((client, queue))
}

async fn send() -> Result<()> {
    let (client, _) = recovering().await?;
    let confirm = |number: u64| {
        let client = &client;
        async move {
            let body = number.to_string();
            let properties = BasicProperties::builder().persistent().build();
            let properties = properties.expect("no property is too long");
            // "Callers must handle ConfirmUncertain, e.g. by republishing"
            while client
                .publish_confirmed_with_props("", QUEUE, &body, properties.clone())
                .await
                .is_err()
            {
                sleep(Duration::from_millis(100)).await;
            }
            body
        }
    };
    let mut confirmed =
        std::pin::pin!(stream::iter(0..).map(confirm).buffer_unordered(FLOW.into()));
    while let Some(number) = confirmed.next().await {
        say(&number)?;
    }
    bail!("never")
}

async fn receive() -> Result<()> {
    let (_client, queue) = recovering().await?;
    let options = SubscribeOpts { prefetch: FLOW, ..Default::default() };
    let mut consumer = queue.subscribe::<Vec<u8>>(options).await?;
    while let Some(delivery) = consumer.next().await {
        let Ok(delivery) = delivery else { bail!("not bytes") };
        say(&number(&delivery.body)?)?;
        let _ = delivery.ack(); // "Fails if the channel or connection is gone; the broker redelivers"
    }
    bail!("the consumer has ended")
}
