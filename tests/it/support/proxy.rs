//! A TCP proxy between daymend and the database that drops, delays, stalls and half-closes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    weather: watch::Sender<Weather>,
    refused: Arc<AtomicUsize>,
    struck: Arc<AtomicUsize>,
}

/// Closes the first connection that sends a text to the server.
#[derive(Debug, Clone)]
struct Fuse {
    text: &'static str,
    is_blown: Arc<AtomicBool>,
}

impl Fuse {
    fn blows(&self, sent: &[u8]) -> bool {
        sent.windows(self.text.len()).any(|part| part == self.text.as_bytes())
            && !self.is_blown.swap(true, Ordering::SeqCst)
    }
}

impl Proxy {
    /// Starts a proxy on a free port.
    pub async fn start(to_port: u16) -> Self {
        Self::start_with(to_port, None).await
    }

    /// Like [`Proxy::start`], but closes the first connection that sends `text`, at that moment, and no other.
    pub async fn cutting_at(to_port: u16, text: &'static str) -> Self {
        Self::start_with(to_port, Some(Fuse { text, is_blown: Arc::default() })).await
    }

    async fn start_with(to_port: u16, fuse: Option<Fuse>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (weather, seen) = watch::channel(Weather::Fair);
        let (refused, struck) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (count, hits) = (Arc::clone(&refused), Arc::clone(&struck));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() == Weather::Cut {
                    count.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", to_port)).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(forward(client_read, server_write, seen.clone(), false, fuse.clone(), Arc::clone(&hits)));
                tokio::spawn(forward(server_read, client_write, seen.clone(), true, None, Arc::clone(&hits)));
            }
        });
        Self { port, weather, refused, struck }
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

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    is_to_client: bool,
    fuse: Option<Fuse>,
    struck: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let (mut has_carried, mut is_swallowing, mut has_swallowed) = (false, false, false);
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
        let Ok(count @ 1..) = read else { return };
        if fuse.as_ref().is_some_and(|fuse| fuse.blows(&buffer[..count])) {
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
