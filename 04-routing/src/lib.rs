//! What the programs of this lesson share.

use clap::error::ErrorKind;
use lapin::types::{AMQPValue, FieldTable, ShortString};

/// A message body as it can be shown on a terminal. A body is bytes, whatever the sender made of
/// them: text is shown as it is but for control characters and those that turn the direction of
/// writing, which could play tricks on a terminal; of anything else the bytes are escaped.
pub fn printable(body: &[u8]) -> String {
    let Ok(text) = str::from_utf8(body) else {
        return body.escape_ascii().to_string();
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match character.is_control() || turns {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

/// A routing key from the command line. AMQP gives it 255 bytes at most.
pub fn routing_key(text: &str) -> Result<ShortString, &'static str> {
    ShortString::try_new(text).map_err(|_| "longer than 255 bytes")
}

/// A header from the command line, `key=value`. Both are text: a headers exchange takes the number 1
/// and the text `1` for different values.
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
