//! The frames of AMQP 0-9-1, for who has no client or wants none:
//! <https://www.rabbitmq.com/amqp-0-9-1-reference>.

use std::io::{self, Read};

/// Begins what a client sends.
pub const HEADER: &[u8] = b"AMQP\0\0\x09\x01";

/// A frame that holds a method.
pub const METHOD: u8 = 1;

/// The largest frame that RabbitMQ sends, in bytes, if it is not told otherwise.
const LARGEST: usize = 0x2_0000;

/// The class and the number of a method: `connection.start` is `(10, 10)`.
pub type Id = (u16, u16);

pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xce]].concat()
}

pub fn method(channel: u16, (class, method): Id, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat())
}

/// A text of at most 255 bytes.
pub fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// The kind and the payload of the next frame.
///
/// # Errors
///
/// The stream ends, does not answer in its time, or what comes is no frame.
pub fn read(socket: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 7];
    socket.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if !(1..=8).contains(&head[0]) || length > LARGEST {
        return Err(wrong());
    }
    let mut payload = vec![0; length + 1];
    socket.read_exact(&mut payload)?;
    match payload.pop() {
        Some(0xce) => Ok((head[0], payload)),
        _ => Err(wrong()),
    }
}

/// The next method, and its arguments.
///
/// # Errors
///
/// Those of [`read`].
pub fn read_method(socket: &mut impl Read) -> io::Result<(Id, Vec<u8>)> {
    loop {
        let (kind, mut payload) = read(socket)?;
        if kind == METHOD {
            let [a, b, c, d] = *payload.first_chunk().ok_or_else(wrong)?;
            let id = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            return Ok((id, payload.split_off(4)));
        }
    }
}

/// The arguments of the next method, which must be this one.
///
/// # Errors
///
/// Those of [`read`], or it is another one.
pub fn expect(socket: &mut impl Read, expected: Id) -> io::Result<Vec<u8>> {
    match read_method(socket)? {
        (id, arguments) if id == expected => Ok(arguments),
        _ => Err(wrong()),
    }
}

fn wrong() -> io::Error {
    io::Error::other("it does not speak AMQP 0-9-1")
}
