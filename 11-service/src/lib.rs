//! What the programs here share: the queue, and what a mail is.

pub mod mail;

use anyhow::Context;
use clap::Args;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

/// Which queue the mails are in.
#[derive(Args)]
pub struct Queue {
    /// The queue of the mails
    #[arg(long = "queue", env = "MAIL_QUEUE", default_value = "mails")]
    pub name: String,

    /// Declare it as a classic queue, as older programs do, and not as a quorum queue
    #[arg(long)]
    classic: bool,
}

impl Queue {
    /// Declares the queue, and the one for mails that nobody can send: `mails.refused`.
    pub async fn declare(&self, channel: &Channel) -> anyhow::Result<()> {
        let refused = format!("{}.refused", self.name);
        let text = |value: &str| AMQPValue::LongString(value.into());
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), text("quorum"));
        declare(channel, &refused, quorum).await?;

        // What a consumer refuses is a dead letter. RabbitMQ moves it to the other queue.
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(&refused));
        if self.classic {
            arguments.insert("x-queue-type".into(), text("classic"));
        } else {
            arguments.insert("x-queue-type".into(), text("quorum"));
            // It keeps each of them until the other queue has it.
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
        }
        declare(channel, &self.name, arguments).await
    }
}

async fn declare(channel: &Channel, queue: &str, arguments: FieldTable) -> anyhow::Result<()> {
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .with_context(|| format!("cannot declare the queue `{queue}`"))?;
    Ok(())
}
