//! A TCP proxy between daymend and the database that can cut every connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

/// Forwards to one address until it is cut.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    is_cut: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    cut: broadcast::Sender<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface.
    pub async fn start(to_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (cut, _) = broadcast::channel(1);
        let proxy = Self { port, is_cut: Arc::default(), refused: Arc::default(), cut };
        let (is_cut, refused, sender) = (Arc::clone(&proxy.is_cut), Arc::clone(&proxy.refused), proxy.cut.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if is_cut.load(Ordering::SeqCst) {
                    refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let mut cut = sender.subscribe();
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to_port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        proxy
    }

    /// Drops every connection, and every new one until [`Self::restore`].
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        let _ = self.cut.send(());
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }

    /// How many connections were refused while it was cut.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}
