//! A slow line between a program and a server, which shows what happens in between.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a proxy does with what the program sends. The other direction it hands on at once.
#[derive(Clone, Copy)]
pub enum Line {
    /// It arrives later by this time.
    Slow(Duration),
    /// Nothing arrives from this text on.
    CutAt(&'static [u8]),
}

/// Listens until this process ends.
pub struct Proxy {
    /// The address of the server, with the proxy in its place.
    pub url: String,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy in front of the server of this URL, `scheme://user:password@localhost:port/...`.
    pub fn start(url: &str, line: Line) -> Result<Self> {
        let (before, rest) = url.split_once("@localhost:").context("not at localhost")?;
        let (port, path) = rest.split_once('/').context("no path")?;
        let port: u16 = port.parse()?;
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let ours = listener.local_addr()?.port();
        let cut = Arc::new(AtomicBool::new(false));
        let cuts = Arc::clone(&cut);
        thread::spawn(move || {
            for program in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("localhost", port)) else { continue };
                let (Ok(from), Ok(to)) = (server.try_clone(), program.try_clone()) else {
                    continue;
                };
                let cuts = Arc::clone(&cuts);
                thread::spawn(move || hand_on(program, server, Some(line), &cuts));
                thread::spawn(move || hand_on(from, to, None, &AtomicBool::default()));
            }
        });
        Ok(Self { url: format!("{before}@localhost:{ours}/{path}"), cut })
    }

    /// Whether the text has come at which it cuts.
    pub fn has_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, line: Option<Line>, cut: &AtomicBool) {
    let mut buffer = [0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let said = &buffer[..length];
        match line {
            Some(Line::Slow(pause)) => thread::sleep(pause),
            Some(Line::CutAt(text)) if said.windows(text.len()).any(|part| part == text) => {
                cut.store(true, Ordering::Relaxed);
                continue; // it stays unsaid, and the program waits
            }
            _ => {}
        }
        if to.write_all(said).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
