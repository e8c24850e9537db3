//! Sends one order to the queue `orders`.
//!
//!     cargo run -p orders-mysql --bin send-order
//!     cargo run -p orders-mysql --bin send-order -- alice

use anyhow::{Context, bail};
use clap::Parser;
use common::{once, say};
use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use orders_mysql::{declare, new_order, publish, user_id};

/// Send one order to the queue `orders`.
#[derive(Parser)]
struct Args {
    /// Who orders: the order carries the MD5 of this
    #[arg(default_value = "Hello World!")]
    user: String,

    /// Send it without a message id, so that it cannot be stored
    #[arg(long)]
    without_id: bool,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let work = async |channel: &_| send(channel, args).await;
    common::exit(once(env!("CARGO_BIN_NAME"), work).await)
}

/// Sends the order, and waits until the broker has it.
async fn send(channel: &Channel, args: Args) -> anyhow::Result<()> {
    let order = user_id(&args.user);
    declare(channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let properties = match args.without_id {
        true => BasicProperties::default().with_delivery_mode(2),
        false => new_order(),
    };
    let confirm = publish(channel, order.as_bytes(), properties).await?;
    match confirm.await.context("no confirm came: the broker may not have the order")? {
        Confirmation::Ack(None) => say!(" [x] Sent {order}"),
        Confirmation::Ack(Some(returned)) => {
            bail!("{}: the queue `orders` is gone; the order came back", returned.reply_text)
        }
        _ => bail!("the broker did not take the order: a queue is full, or down. Try again"),
    }
}
