//! What the programs here share.

use clap::error::ErrorKind;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// A routing key from the command line. AMQP gives it 255 bytes at most.
pub fn routing_key(text: &str) -> Result<ShortString, &'static str> {
    ShortString::try_new(text).map_err(|_| "longer than 255 bytes")
}

/// A header from the command line, `key=value`. Both are text: a headers exchange takes the number
/// 1 and the text `1` for different values.
pub fn header(text: &str) -> Result<(ShortString, AMQPValue), &'static str> {
    let (key, value) = text.split_once('=').ok_or("not of the form key=value")?;
    match key {
        "" => return Err("the key is empty"),
        // https://www.rabbitmq.com/docs/exchanges#headers
        _ if key.starts_with("x-") => return Err("a key that begins with `x-` is not compared"),
        _ => {}
    }
    let key = ShortString::try_new(key).map_err(|_| "the key is longer than 255 bytes")?;
    Ok((key, AMQPValue::LongString(value.into())))
}

/// The headers as AMQP carries them: each key once.
pub fn table(headers: Vec<(ShortString, AMQPValue)>) -> Result<FieldTable, clap::Error> {
    let mut table = FieldTable::default();
    for (key, value) in headers {
        if table.contains_key(key.as_str()) {
            let message = format!("the header `{key}` is given twice\n");
            return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
        }
        table.insert(key, value);
    }
    Ok(table)
}
