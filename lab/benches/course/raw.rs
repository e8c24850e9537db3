//! The limit: what the broker takes from, and gives to, a socket whose bytes are ready before the
//! clock runs and are hardly looked at.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::amqp::{HEADER, expect, frame, method, read, short};

/// A connection with one channel to a broker on this machine.
fn connect(port: u16) -> Result<(TcpStream, BufReader<TcpStream>)> {
    let mut socket = TcpStream::connect(("localhost", port))?;
    socket.set_nodelay(true)?;
    let mut answers = BufReader::with_capacity(1 << 17, socket.try_clone()?);
    socket.write_all(HEADER)?;
    expect(&mut answers, (10, 10))?;
    let mut start_ok = vec![0; 4]; // no properties
    start_ok.extend(short("PLAIN"));
    start_ok.extend(b"\0\0\0\x0c\0guest\0guest");
    start_ok.extend(short("en_US"));
    socket.write_all(&method(0, (10, 11), &start_ok))?;
    let tune = expect(&mut answers, (10, 30))?;
    socket.write_all(&method(0, (10, 31), &[&tune[..6], &[0, 0]].concat()))?; // no heartbeat
    socket.write_all(&method(0, (10, 40), &[&short("/")[..], &[0, 0]].concat()))?;
    expect(&mut answers, (10, 41))?;
    socket.write_all(&method(1, (20, 10), &[0]))?;
    expect(&mut answers, (20, 11))?;
    Ok((socket, answers))
}

/// The frames of a message like an order of `request-orders`.
fn message(exchange: &str, routing_key: &str, number: u64) -> Vec<u8> {
    let mut publish = vec![0, 0];
    publish.extend(short(exchange));
    publish.extend(short(routing_key));
    publish.push(1); // mandatory

    let body = format!("{number:032x}");
    let mut header = vec![0, 60, 0, 0];
    header.extend((body.len() as u64).to_be_bytes());
    header.extend([0x90, 0x80]); // content type, delivery mode, message id
    header.extend(short("text/plain"));
    header.push(2);
    header.extend(short(&uuid::Uuid::now_v7().to_string()));
    let frames =
        [method(1, (60, 40), &publish), frame(2, 1, &header), frame(3, 1, body.as_bytes())];
    frames.concat()
}

/// Publishes that many messages to an exchange with a routing key, and reads the confirms
/// meanwhile; or waits for the confirm of each before it sends the next. How long it takes from
/// connecting to the last confirm.
pub fn publish(
    port: u16,
    (exchange, routing_key): (&str, &str),
    count: u64,
    one_by_one: bool,
) -> Result<Duration> {
    let mut messages: Vec<Vec<u8>> =
        (0..count).map(|number| message(exchange, routing_key, number)).collect();
    if !one_by_one {
        messages = vec![messages.concat()];
    }
    let start = Instant::now();
    let (mut socket, mut answers) = connect(port)?;
    socket.write_all(&method(1, (85, 10), &[0]))?;
    expect(&mut answers, (85, 11))?;
    let mut confirmed = 0;
    let mut confirm = || -> Result<u64> {
        // basic.ack: the number of a message, and whether it stands for all before it too
        let ack = expect(&mut answers, (60, 80))?;
        let number = u64::from_be_bytes(ack[..8].try_into().context("a short confirm")?);
        ensure!(number == confirmed + 1 || ack[8] == 1, "the confirms are out of order");
        confirmed = number;
        Ok(number)
    };
    let messages = &messages;
    thread::scope(|scope| {
        let sending = match one_by_one {
            true => None,
            false => {
                let mut socket = socket.try_clone()?;
                Some(scope.spawn(move || socket.write_all(&messages[0])))
            }
        };
        if one_by_one {
            for message in messages {
                socket.write_all(message)?;
                confirm()?;
            }
        } else {
            while confirm()? < count {}
        }
        match sending.map(|thread| thread.join()) {
            Some(Err(_)) => bail!("the sending thread has panicked"),
            Some(Ok(sent)) => Ok(sent?),
            None => Ok(()),
        }
    })?;
    Ok(start.elapsed())
}

/// Consumes that many messages of the queue `orders` and acknowledges `batch` at a time: how long
/// it takes from connecting to the last acknowledgement.
pub fn consume(port: u16, count: u64, batch: u64, prefetch: u16) -> Result<Duration> {
    let start = Instant::now();
    let (mut socket, mut answers) = connect(port)?;
    let prefetch = [&[0; 4][..], &prefetch.to_be_bytes(), &[0]].concat();
    socket.write_all(&method(1, (60, 10), &prefetch))?;
    expect(&mut answers, (60, 11))?;
    let consume = [&[0, 0][..], &short("orders"), &short(""), &[0; 5]].concat();
    socket.write_all(&method(1, (60, 20), &consume))?;
    expect(&mut answers, (60, 21))?;
    let mut acks = Vec::new();
    for number in 1..=count {
        expect(&mut answers, (60, 60))?; // the delivery tags of a channel are 1, 2, 3 ...
        read(&mut answers)?; // the header
        read(&mut answers)?; // the body
        if number % batch == 0 || number == count {
            let ack = [&number.to_be_bytes()[..], &[u8::from(batch > 1)]].concat();
            acks.extend(method(1, (60, 80), &ack));
        }
        if answers.buffer().is_empty() || number == count {
            socket.write_all(&acks)?;
            acks.clear();
        }
    }
    // The broker answers this one after it has read the acknowledgements.
    let close = [&200u16.to_be_bytes()[..], &short(""), &[0; 4]].concat();
    socket.write_all(&method(1, (20, 40), &close))?;
    expect(&mut answers, (20, 41))?;
    Ok(start.elapsed())
}
