//! Sends one order to the queue `orders`.
//!
//!     cargo run -p orders-mysql --bin send-order
//!     cargo run -p orders-mysql --bin send-order -- alice

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use common::say;
use lapin::Confirmation;
use lapin::options::ConfirmSelectOptions;
use orders_mysql::{declare, new_order, publish, user_id};

/// Send one order to the queue `orders`.
#[derive(Parser)]
struct Args {
    /// Who orders: the order carries the MD5 of this
    #[arg(default_value = "Hello World!")]
    user: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    common::exit(send(Args::parse()).await)
}

/// Sends the order, and waits until the broker has it.
async fn send(args: Args) -> anyhow::Result<()> {
    let order = user_id(&args.user);
    let connection = common::connect(env!("CARGO_BIN_NAME")).await?;
    let channel = connection.create_channel().await?;
    declare(&channel).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let confirm = publish(&channel, "", order.as_bytes(), new_order()).await?;
    let confirmation =
        confirm.await.context("no confirm came: the broker may not have the order")?;
    common::close(connection).await;
    match confirmation {
        Confirmation::Ack(None) => say!(" [x] Sent {order}"),
        other => bail!("the broker did not take the order: {other:?}"),
    }
}
