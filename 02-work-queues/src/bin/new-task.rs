//! Sends a task to the queue `task_queue`. Each dot in it stands for a second of work.
//!
//!     cargo run -p work-queues --bin new-task
//!     cargo run -p work-queues --bin new-task -- Resize the photos ...
//!     cargo run -p work-queues --bin new-task -- --each one.. two three...

use anyhow::{Context, bail};
use clap::Parser;
use common::answer::answered;
use common::{once, say};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

/// Send a task to the queue `task_queue`.
#[derive(Parser)]
struct Args {
    /// Each word is a task
    #[arg(long)]
    each: bool,

    /// The task; several words are joined with spaces, and each dot is a second of work
    #[arg(default_values = ["Hello", "World!"])]
    words: Vec<String>,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| send(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// Sends the tasks, one after the other.
async fn send(channel: &Channel, args: Args) -> anyhow::Result<()> {
    let tasks = match args.each {
        true => args.words,
        false => vec![args.words.join(" ")],
    };
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    // The queue outlives a restart of the broker.
    let durable = QueueDeclareOptions::durable();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("task_queue".into(), durable, arguments)
        .await
        .context("cannot declare the queue `task_queue`")?;

    for task in tasks {
        publish(channel, &task).await?;
        answered(); // many tasks may take longer than one answer should
        say!(" [x] Sent {task}")?;
    }
    Ok(())
}

/// Publishes a task, and waits until the broker has it.
async fn publish(channel: &Channel, task: &str) -> anyhow::Result<()> {
    let confirm = channel
        .basic_publish(
            "".into(),
            "task_queue".into(),
            BasicPublishOptions {
                mandatory: true, // if the queue has just been deleted: do not drop the task
                ..Default::default()
            },
            task.as_bytes(),
            // Persistent: the task outlives a restart, too. A quorum queue stores every message on
            // disk; a classic queue loses those that are not persistent.
            BasicProperties::default().with_delivery_mode(2),
        )
        .await?;

    // The task is safe when the broker says so, and not before.
    match confirm.await.context("no confirm came: the broker may not have the task")? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => {
            bail!("{}: the queue `task_queue` is gone; the task came back", returned.reply_text)
        }
        _ => bail!("the broker did not take the task: a queue is full, or down. Try again"),
    }
}
