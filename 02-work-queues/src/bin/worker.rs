//! Works on the tasks of the queue `task_queue`, one after the other, until Ctrl-C.
//!
//!     cargo run -p work-queues --bin worker
//!     cargo run -p work-queues --bin worker -- --prefetch 0

use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::{CancellationToken, Ended, note, prefetch, printable, say, supervise};
use futures_lite::StreamExt;
use lapin::Connection;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Work on the tasks of the queue `task_queue` until Ctrl-C.
#[derive(Parser)]
struct Args {
    /// How many tasks the broker may give us before we have acknowledged one; 0: no limit
    #[arg(long, default_value_t = 1)]
    prefetch: u16,

    /// Automatic acknowledgement: the broker forgets a task as soon as it has sent it
    #[arg(long, conflicts_with = "prefetch")]
    auto_ack: bool,

    /// Work as a computation does: without giving the thread back
    #[arg(long)]
    blocking: bool,
}

// Not `flavor = "current_thread"`: lapin's heartbeats run on the threads of the runtime, and this
// one is for our work, however long that blocks it.
#[tokio::main]
async fn main() {
    common::exit(run(Args::parse()).await)
}

/// Works over one connection after the other, and says at the end how much was done.
async fn run(args: Args) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let work = async |connection: &_, stop: &_| do_tasks(connection, stop, &args, &mut tally).await;
    supervise(env!("CARGO_BIN_NAME"), work).await?;
    note!(" [*] Tasks done: {} in {:.1} s", tally.done, tally.took.as_secs_f64());
    Ok(())
}

/// What to say when we end.
#[derive(Default)]
struct Tally {
    done: u32,
    begin: Option<Instant>,
    took: Duration, // from the beginning of the first task to the end of the last
}

/// Works over this connection, until Ctrl-C, or until it is lost or something else is wrong.
async fn do_tasks(
    connection: &Connection,
    stop: &CancellationToken,
    args: &Args,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;

    let durable = QueueDeclareOptions::durable();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel
        .queue_declare("task_queue".into(), durable, arguments)
        .await
        .context("cannot declare the queue `task_queue`")?;

    // Without a limit the broker hands out every task at once, to each worker in turn, however busy
    // it is. With a limit of 1, the next task goes to whoever has finished the one before.
    channel.basic_qos(prefetch(args.prefetch), BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { no_ack: args.auto_ack, ..Default::default() };
    let table = FieldTable::default();
    let mut consumer =
        channel.basic_consume("task_queue".into(), "".into(), options, table).await?;
    note!(" [*] Waiting for messages. To exit press CTRL+C");

    loop {
        let task = tokio::select! {
            biased; // after Ctrl-C no further task, even if one has come already
            () = stop.cancelled() => break,
            task = consumer.next() => task,
        };
        let task = task.context(Ended("task_queue"))??;
        if !args.auto_ack && !task.acker.usable() {
            continue; // the connection it came over is lost: it comes again
        }
        let again = if task.redelivered { " (redelivered)" } else { "" };
        say!(" [x] Received {}{again}", printable(&task.data))?;
        let begin = *tally.begin.get_or_insert_with(Instant::now);

        let dots = async {
            for _ in task.data.iter().filter(|&&byte| byte == b'.') {
                match args.blocking {
                    true => thread::sleep(SECOND),
                    false => sleep(SECOND).await,
                }
            }
        };
        tokio::select! {
            () = dots => {} // this is the work
            () = stop.cancelled() => {
                let fate = if args.auto_ack { "Lost" } else { "Put back" };
                say!(" [ ] {fate}: {}", printable(&task.data))?;
                break;
            }
        }

        // Acknowledged after the work, never before: if we die in the middle of it, the broker
        // gives the task to another worker.
        if !args.auto_ack {
            task.ack(BasicAckOptions::default()).await?;
        }
        say!(" [x] Done")?;
        tally.done += 1;
        tally.took = begin.elapsed();
    }

    // Take no new task, and give back those in our hands. The broker would put them back anyway
    // when the connection closes, but count that against them, as if we had died of them. (Before
    // RabbitMQ 4.3, it counts a `nack` too.)
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    let all = BasicNackOptions {
        multiple: true, // with the delivery tag 0: all that we have not acknowledged
        requeue: true,
    };
    channel.basic_nack(0, all).await?;
    channel.close(200, "Goodbye".into()).await?;
    Ok(())
}
