//! A TCP proxy between daymend and the database that drops, delays, stalls and half-closes, and that can lead to another
//! server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// The current state of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything is forwarded.
    Fair,
    /// Everything is forwarded after this delay.
    Slow(Duration),
    /// Connections stay open but carry nothing: data in transit never arrives.
    Stalled,
    /// Connections are closed only in the direction of the client.
    HalfClosed,
    /// Connections are closed, and new ones are refused.
    Cut,
}

/// A proxy that forwards to a port of the loopback interface, as far as the [`Weather`] permits.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    /// Whether it looks for texts, which must not be encrypted.
    pub reads: bool,
    to_port: Arc<AtomicU16>,
    weather: watch::Sender<Weather>,
    refused: Arc<AtomicUsize>,
    struck: Arc<AtomicUsize>,
}

/// Closes the first connection that sends these texts to the server, one after the other.
#[derive(Debug, Clone)]
struct Fuse {
    texts: Vec<&'static str>,
    /// Whether the server still gets the last text; the client gets no answer to it.
    is_sent: bool,
    /// The error that the client gets instead of the server's answer; the connection then stays open.
    error: Option<u16>,
    is_blown: Arc<AtomicBool>,
}

impl Fuse {
    fn new(texts: Vec<&'static str>, is_sent: bool) -> Self {
        Self { texts, is_sent, error: None, is_blown: Arc::default() }
    }

    /// Whether this connection, which has sent the first `seen` texts, sends the last one, and is the first to do so.
    fn blows(&self, sent: &[u8], seen: &mut usize) -> bool {
        while let Some(text) = self.texts.get(*seen) {
            if !sent.windows(text.len()).any(|part| part == text.as_bytes()) {
                return false;
            }
            *seen += 1;
        }
        !self.is_blown.swap(true, Ordering::SeqCst)
    }
}

impl Proxy {
    /// Starts a proxy on a free port.
    pub async fn start(to_port: u16) -> Self {
        Self::start_with(to_port, None).await
    }

    /// Like [`Proxy::start`], but closes the first connection that sends `text`, at that moment, and no other.
    pub async fn cutting_at(to_port: u16, text: &'static str) -> Self {
        Self::start_with(to_port, Some(Fuse::new(vec![text], false))).await
    }

    /// Like [`Proxy::cutting_at`], for the second text that a connection sends after the first; with `is_sent`, the
    /// server still gets it, but the client gets no answer.
    pub async fn cutting_after(to_port: u16, first: &'static str, second: &'static str, is_sent: bool) -> Self {
        Self::start_with(to_port, Some(Fuse::new(vec![first, second], is_sent))).await
    }

    /// Like [`Proxy::cutting_after`], but the client gets an error instead of the answer.
    pub async fn failing_after(to_port: u16, first: &'static str, second: &'static str, error: u16) -> Self {
        Self::start_with(to_port, Some(Fuse { error: Some(error), ..Fuse::new(vec![first, second], true) })).await
    }

    /// Leads new connections to another port; those that are open stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.to_port.store(port, Ordering::SeqCst);
    }

    async fn start_with(to_port: u16, fuse: Option<Fuse>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let reads = fuse.is_some();
        let to_port = Arc::new(AtomicU16::new(to_port));
        let leads_to = Arc::clone(&to_port);
        let (weather, seen) = watch::channel(Weather::Fair);
        let (refused, struck) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, hits) = (Arc::clone(&refused), Arc::clone(&struck));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() == Weather::Cut {
                    count.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", leads_to.load(Ordering::SeqCst))).await else {
                    continue;
                };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let connection = Connection {
                    weather: seen.clone(),
                    is_cut: Arc::default(),
                    error: Arc::default(),
                    struck: Arc::clone(&hits),
                };
                tokio::spawn(forward(client_read, server_write, connection.clone(), false, fuse.clone()));
                tokio::spawn(forward(server_read, client_write, connection, true, None));
            }
        });
        Self { port, reads, to_port, weather, refused, struck }
    }

    /// Changes the weather. Data that a stall has swallowed is not delivered afterwards.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Returns the number of connections that were refused while the weather was [`Weather::Cut`].
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that the weather closed after they had carried an answer, plus the number of
    /// connection directions in which a stall has swallowed data.
    pub fn struck(&self) -> usize {
        self.struck.load(Ordering::SeqCst)
    }
}

/// What the two directions of a connection share.
#[derive(Debug, Clone)]
struct Connection {
    weather: watch::Receiver<Weather>,
    /// Whether the fuse has blown here.
    is_cut: Arc<AtomicBool>,
    /// The error that the client gets instead of the next answer, or 0.
    error: Arc<AtomicU16>,
    struck: Arc<AtomicUsize>,
}

/// The first answer to a command: an error.
fn error_packet(number: u16) -> Vec<u8> {
    const TEXT: &[u8] = b"#HY000made up by the proxy";
    let length = u8::try_from(3 + TEXT.len()).expect("a short text");
    [&[length, 0, 0, 1, 0xff], &number.to_le_bytes()[..], TEXT].concat()
}

/// Forwards one direction of a connection.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    connection: Connection,
    is_to_client: bool,
    fuse: Option<Fuse>,
) {
    let Connection { mut weather, is_cut, error, struck } = connection;
    let mut buffer = vec![0; 64 * 1024];
    let (mut has_carried, mut is_swallowing, mut has_swallowed, mut texts_seen) = (false, false, false, 0);
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = weather.changed() => {
                let now = *weather.borrow();
                match now {
                    _ if changed.is_err() => return,
                    Weather::Cut if !is_to_client => return,
                    Weather::Cut | Weather::HalfClosed if is_to_client => {
                        struck.fetch_add(usize::from(has_carried), Ordering::SeqCst);
                        return;
                    }
                    Weather::Stalled => is_swallowing = true,
                    _ => {}
                }
                continue;
            }
        };
        let Ok(mut count @ 1..) = read else { return };
        if let Some(fuse) = fuse.as_ref().filter(|fuse| fuse.blows(&buffer[..count], &mut texts_seen)) {
            if let Some(number) = fuse.error {
                error.store(number, Ordering::SeqCst);
            } else {
                is_cut.store(true, Ordering::SeqCst);
                if fuse.is_sent {
                    let _ = to.write_all(&buffer[..count]).await;
                }
                return;
            }
        }
        if is_to_client && let number @ 1.. = error.swap(0, Ordering::SeqCst) {
            let packet = error_packet(number);
            count = packet.len();
            buffer[..count].copy_from_slice(&packet);
        }
        if is_to_client && is_cut.load(Ordering::SeqCst) {
            return;
        }
        if is_swallowing {
            struck.fetch_add(usize::from(!has_swallowed), Ordering::SeqCst);
            has_swallowed = true;
            continue;
        }
        let now = *weather.borrow();
        if let Weather::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        has_carried = true;
    }
}
