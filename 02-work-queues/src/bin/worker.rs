//! Works on the tasks of the queue `task_queue`, one after the other, until Ctrl-C.
//!
//!     cargo run -p work-queues --bin worker
//!     cargo run -p work-queues --bin worker -- --prefetch 0

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use futures_lite::StreamExt;
use futures_lite::future::poll_once;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use tokio::signal::ctrl_c;
use tokio::time::{Instant, sleep, timeout};
use work_queues::printable;

/// Work on the tasks of the queue `task_queue` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How many tasks the broker may give us before we have acknowledged one; 0: no limit
    #[arg(long, default_value_t = 1)]
    prefetch: u16,

    /// Automatic acknowledgement: the broker forgets a task as soon as it has sent it
    #[arg(long, conflicts_with = "prefetch")]
    auto_ack: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), common::Error> {
    let args = Args::parse();
    let connection = common::connect(env!("CARGO_BIN_NAME")).await?;
    let channel = connection.create_channel().await?;

    let durable = QueueDeclareOptions::durable();
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    channel
        .queue_declare("task_queue".into(), durable, arguments)
        .await
        .context("cannot declare the queue `task_queue`")?;

    // Without a limit the broker hands out every task at once, to each worker in turn, however busy
    // it is. With a limit of 1, the next task goes to whoever has finished the one before.
    channel
        .basic_qos(args.prefetch, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions {
        no_ack: args.auto_ack,
        ..Default::default()
    };
    let table = FieldTable::default();
    let mut consumer = channel
        .basic_consume("task_queue".into(), "".into(), options, table)
        .await?;

    let (mut done, mut begin, mut took) = (0, None, Duration::ZERO);
    let work = async {
        while let Some(delivery) = consumer.next().await {
            let task = match delivery {
                Ok(task) => task,
                Err(error) => {
                    channel.wait_for_recovery(error).await?;
                    continue;
                }
            };
            let again = if task.redelivered {
                " (redelivered)"
            } else {
                ""
            };
            println!(" [x] Received {}{again}", printable(&task.data));
            let start = *begin.get_or_insert_with(Instant::now);

            let dots = task.data.iter().filter(|&&byte| byte == b'.').count();
            sleep(Duration::from_secs(dots as u64)).await; // this is the work

            // Acknowledged after the work, never before: if we die in the middle of it, the broker
            // gives the task to another worker.
            if !args.auto_ack
                && let Err(error) = task.ack(BasicAckOptions::default()).await
            {
                channel.wait_for_recovery(error).await?;
            }
            println!(" [x] Done");
            done += 1;
            took = start.elapsed();
        }
        bail!("the broker ended the consumer: was the queue deleted, or did a task take too long?")
    };

    let mut interrupted = pin!(ctrl_c());
    poll_once(&mut interrupted).await;
    eprintln!(" [*] Waiting for messages. To exit press CTRL+C");
    tokio::select! {
        result = work => result?,
        signal = interrupted => signal?,
    }

    // Take no new task, and give back the one in our hands. The broker would put it back anyway when
    // the connection closes, but count that against the task, as if we had died of it.
    let give_back = async {
        channel
            .basic_cancel(consumer.tag(), BasicCancelOptions::default())
            .await?;
        let all = BasicNackOptions {
            multiple: true, // with the delivery tag 0: all that we have not acknowledged
            requeue: true,
        };
        channel.basic_nack(0, all).await
    };
    let _ = timeout(Duration::from_secs(3), give_back).await; // no broker, no task in our hands
    common::close(connection).await;
    eprintln!(" [*] Tasks done: {done} in {:.1} s", took.as_secs_f64());
    Ok(())
}
