//! The limit of the stream protocol: a socket whose bytes are ready before the clock runs, and
//! which counts what comes. The frames:
//! <https://github.com/rabbitmq/rabbitmq-server/blob/main/deps/rabbitmq_stream/docs/PROTOCOL.adoc>.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::amqp::long;

/// How many events are written together.
const WINDOW: u64 = 1000;

/// Our number among the publishers and the subscriptions of this connection.
const OURS: u8 = 1;

struct Socket {
    socket: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Socket {
    fn connect(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("localhost", port))?;
        socket.set_nodelay(true)?;
        let answers = BufReader::with_capacity(1 << 17, socket.try_clone()?);
        let mut socket = Self { socket, answers };
        socket.ask(0x11, &[0; 4])?; // no properties
        socket.ask(0x12, &[])?;
        socket.ask(0x13, &[string("PLAIN"), long(b"\0guest\0guest")].concat())?;
        let tune = socket.read(0x14)?;
        socket.send(0x14, &[&tune[..4], &[0; 4]].concat())?; // no heartbeat
        socket.ask(0x15, &string("/"))?;
        Ok(socket)
    }

    fn send(&mut self, command: u16, content: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(&frame(command, content))?)
    }

    /// Sends a request, and reads its answer.
    fn ask(&mut self, command: u16, content: &[u8]) -> Result<()> {
        self.send(command, &[&[0, 0, 0, 1], content].concat())?;
        let answer = self.read(command | 0x8000)?;
        let code = &answer[4..6];
        ensure!(code == [0, 1], "the broker answers {command:#x} with {code:?}");
        Ok(())
    }

    /// The content of the next frame, which must be this command.
    fn read(&mut self, command: u16) -> Result<Vec<u8>> {
        let mut head = [0; 8];
        self.answers.read_exact(&mut head)?;
        let [a, b, c, d, high, low, ..] = head;
        let mut content = vec![0; u32::from_be_bytes([a, b, c, d]) as usize - 4];
        self.answers.read_exact(&mut content)?;
        let came = u16::from_be_bytes([high, low]);
        ensure!(came == command, "{came:#x} came, and not {command:#x}");
        Ok(content)
    }
}

/// A frame of the first version.
fn frame(command: u16, content: &[u8]) -> Vec<u8> {
    long(&[&command.to_be_bytes(), &[0, 1][..], content].concat())
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// Events like those of `stream-append`: an AMQP 1.0 message whose only section is its data.
fn events(first: u64, last: u64) -> Vec<u8> {
    let mut content = vec![OURS];
    content.extend(((last + 1 - first) as u32).to_be_bytes());
    for id in first..=last {
        let body = format!("event {id}");
        content.extend(id.to_be_bytes());
        content.extend(long(&[&[0, 0x53, 0x75, 0xa0, body.len() as u8], body.as_bytes()].concat()));
    }
    frame(0x02, &content)
}

/// Appends so many events to a stream that is there, and reads the confirms meanwhile: how long it
/// takes from connecting to the last confirm.
pub fn append(port: u16, stream: &str, count: u64) -> Result<Duration> {
    let frames = (1..=count).step_by(WINDOW as usize);
    let frames: Vec<u8> =
        frames.flat_map(|first| events(first, count.min(first + WINDOW - 1))).collect();
    let start = Instant::now();
    let mut socket = Socket::connect(port)?;
    socket.ask(0x01, &[&[OURS, 0, 0][..], &string(stream)].concat())?;
    let mut sending = socket.socket.try_clone()?;
    thread::scope(|scope| {
        let sent = scope.spawn(move || sending.write_all(&frames));
        let mut confirmed = 0;
        while confirmed < count {
            let confirm = socket.read(0x03)?;
            confirmed += u64::from(u32::from_be_bytes(confirm[1..5].try_into()?));
        }
        match sent.join() {
            Ok(sent) => Ok(sent?),
            Err(_) => bail!("the sending thread has panicked"),
        }
    })?;
    Ok(start.elapsed())
}

/// Reads a stream from its start until so many events have come, chunk after chunk: how long that
/// takes, from connecting.
pub fn read(port: u16, stream: &str, count: u64) -> Result<Duration> {
    let start = Instant::now();
    let mut socket = Socket::connect(port)?;
    // from the first event, ten chunks ahead, no properties
    let subscribe = [&[OURS][..], &string(stream), &[0, 1, 0, 10], &[0; 4]].concat();
    socket.ask(0x07, &subscribe)?;
    let mut read = 0;
    while read < count {
        let chunk = socket.read(0x08)?;
        let records = chunk.get(5..9).context("a short chunk")?;
        read += u64::from(u32::from_be_bytes(records.try_into()?));
        socket.send(0x09, &[OURS, 0, 1])?;
    }
    Ok(start.elapsed())
}
