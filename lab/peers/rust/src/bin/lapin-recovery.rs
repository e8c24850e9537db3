//! As lapin's example `reconnect_semi_automatic` does, with lapin's own recovery.

use anyhow::{Result, bail, ensure};
use futures_util::stream::{self, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use peers::{FLOW, QUEUE, What, number, say, url, what};

#[tokio::main]
async fn main() -> Result<()> {
    let properties = ConnectionProperties::default().enable_auto_recover();
    let connection = Connection::connect(&url()?, properties).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
    match what()? {
        What::Send => send(&channel).await,
        What::Receive => receive(&channel).await,
        _ => bail!("as fast as lapin in the lessons"),
    }
}

async fn send(channel: &Channel) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let confirm = |number: u64| async move {
        while let Err(error) = publish(channel, number).await {
            channel.wait_for_recovery(error).await?;
        }
        anyhow::Ok(number)
    };
    let mut confirmed =
        std::pin::pin!(stream::iter(0..).map(confirm).buffer_unordered(FLOW.into()));
    while let Some(number) = confirmed.next().await {
        say(&number?.to_string())?;
    }
    bail!("never")
}

async fn publish(channel: &Channel, number: u64) -> lapin::Result<()> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let body = number.to_string();
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties)
        .await?
        .await?;
    Ok(())
}

async fn receive(channel: &Channel) -> Result<()> {
    channel.basic_qos(FLOW, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume(QUEUE.into(), "consumer".into(), options, FieldTable::default())
        .await?;
    while let Some(delivery) = consumer.next().await {
        let result = match delivery {
            Ok(delivery) => {
                say(&number(&delivery.data)?)?;
                delivery.ack(BasicAckOptions::default()).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            ensure!(error.is_amqp_soft_error() || error.can_be_recovered(), "{error}");
            channel.wait_for_recovery(error).await?;
        }
    }
    bail!("the consumer has ended")
}
