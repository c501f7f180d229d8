//! Packing and unpacking the SQLite file.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// How hard to compress. Level 3 takes nearly twice as long and makes files at most 4% smaller.
const LEVEL: i32 = 1;

/// How many threads compress, besides the one that hashes, and how far back they look: half as far as the level's
/// default, because each thread holds several times as much.
const THREADS: u32 = 2;
const WINDOW_LOG: u32 = 20;

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;

/// Hashes and counts the bytes that pass through.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.pass(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.pass(&bytes[..read]);
        Ok(read)
    }
}

/// A packed file: its size and its hash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

/// Options to open a file that, if newly created, nobody else may read: it may hold data that is protected in the
/// database.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a file that nobody else may read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    private().write(true).create_new(true).open(path)
}

/// Compresses a file into another one, which is synced to disk when this returns.
pub(crate) fn pack(from: &Path, to: &Path) -> io::Result<Packed> {
    let source = File::open(from)?;
    let mut encoder = zstd::Encoder::new(Hashing::new(create(to)?), LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.multithread(THREADS)?;
    encoder.include_checksum(true)?;
    // This tells whoever unpacks it how much room it needs.
    encoder.set_pledged_src_size(Some(source.metadata()?.len()))?;
    io::copy(&mut BufReader::with_capacity(CHUNK, source), &mut encoder)?;
    let hashing = encoder.finish()?;
    hashing.inner.sync_all()?;
    Ok(Packed { size: hashing.size, sha256: hex::encode(hashing.hasher.finalize()) })
}

/// Unpacks a file into another one; returns the size and hash of the packed file. Fails if zstd finds it damaged, or
/// if it unpacks to more than `max` bytes.
pub(crate) fn unpack(from: &Path, to: &Path, max: u64) -> io::Result<Packed> {
    let mut source = BufReader::with_capacity(CHUNK, Hashing::new(File::open(from)?));
    let mut target = create(to)?;
    let mut decoder = zstd::Decoder::with_buffer(&mut source)?;
    if io::copy(&mut Read::by_ref(&mut decoder).take(max + 1), &mut target)? > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than were packed"));
    }
    drop(decoder);
    // Bytes after the end of the compressed data belong to the file, and its hash, as well.
    io::copy(&mut source, &mut io::sink())?;
    let hashing = source.into_inner();
    Ok(Packed { size: hashing.size, sha256: hex::encode(hashing.hasher.finalize()) })
}
