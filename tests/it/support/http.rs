//! A minimal HTTP client: the tests need only GET.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// How long a page may take.
const PAGE_MAX: Duration = Duration::from_secs(10);

/// A response.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub body: String,
}

/// Fetches a page with HTTP/1.0, so that the end of the connection is the end of the page.
pub fn get(address: &str, path: &str) -> std::io::Result<Page> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PAGE_MAX))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("not HTTP: {head}")))?;
    Ok(Page { status, body: body.to_owned() })
}

/// Percent-encodes a value for a query string.
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
