//! The limit for a publisher: bytes that are ready before the clock runs, on a socket.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A frame: <https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>, 4.2.3.
fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    frame
}

fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(method.to_be_bytes());
    payload.extend(arguments);
    frame(1, channel, &payload)
}

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![text.len() as u8];
    bytes.extend(text.bytes());
    bytes
}

/// The kind and the payload of the next frame.
fn read(socket: &mut impl Read) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 7];
    socket.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; length as usize + 1];
    socket.read_exact(&mut payload)?;
    payload.pop();
    Ok((head[0], payload))
}

/// Reads frames until this method: its arguments.
fn expect(socket: &mut impl Read, class: u16, method: u16) -> Result<Vec<u8>> {
    loop {
        let (kind, payload) = read(socket)?;
        if kind == 1 {
            let id = [class.to_be_bytes(), method.to_be_bytes()].concat();
            ensure!(payload[..4] == id, "the broker sent {:?}", &payload[..4]);
            return Ok(payload[4..].to_vec());
        }
    }
}

/// Sends that many orders like those of `request-orders` to the queue `orders` of a broker on this
/// machine, and reads the confirms meanwhile: how long it takes from connecting to the last confirm.
pub fn publish(port: u16, count: u64) -> Result<Duration> {
    let mut orders = Vec::new();
    for number in 0..count {
        let mut publish = vec![0, 0];
        publish.extend(short(""));
        publish.extend(short("orders"));
        publish.push(1); // mandatory
        orders.extend(method(1, 60, 40, &publish));

        let body = format!("{number:032x}");
        let mut header = vec![0, 60, 0, 0];
        header.extend((body.len() as u64).to_be_bytes());
        header.extend([0x90, 0x80]); // content type, delivery mode, message id
        header.extend(short("text/plain"));
        header.push(2);
        header.extend(short(&uuid::Uuid::now_v7().to_string()));
        orders.extend(frame(2, 1, &header));
        orders.extend(frame(3, 1, body.as_bytes()));
    }

    let start = Instant::now();
    let mut socket = TcpStream::connect(("localhost", port))?;
    socket.set_nodelay(true)?;
    let mut answers = BufReader::new(socket.try_clone()?);
    socket.write_all(b"AMQP\0\0\x09\x01")?;
    expect(&mut answers, 10, 10)?;
    let mut start_ok = vec![0; 4]; // no properties
    start_ok.extend(short("PLAIN"));
    start_ok.extend(b"\0\0\0\x0c\0guest\0guest");
    start_ok.extend(short("en_US"));
    socket.write_all(&method(0, 10, 11, &start_ok))?;
    let tune = expect(&mut answers, 10, 30)?;
    socket.write_all(&method(0, 10, 31, &[&tune[..6], &[0, 0]].concat()))?; // no heartbeat
    socket.write_all(&method(0, 10, 40, &[&short("/")[..], &[0, 0]].concat()))?;
    expect(&mut answers, 10, 41)?;
    socket.write_all(&method(1, 20, 10, &[0]))?;
    expect(&mut answers, 20, 11)?;
    socket.write_all(&method(1, 85, 10, &[0]))?;
    expect(&mut answers, 85, 11)?;

    thread::scope(|scope| {
        let sending = scope.spawn(move || socket.write_all(&orders));
        let mut confirmed = 0;
        while confirmed < count {
            // basic.ack: the number of a message, and whether it stands for all before it too
            let ack = expect(&mut answers, 60, 80)?;
            let number = u64::from_be_bytes(ack[..8].try_into().context("a short confirm")?);
            ensure!(
                number == confirmed + 1 || ack[8] == 1,
                "the confirms are out of order"
            );
            confirmed = number;
        }
        match sending.join() {
            Ok(result) => Ok(result?),
            Err(_) => bail!("the sending thread has panicked"),
        }
    })?;
    Ok(start.elapsed())
}
