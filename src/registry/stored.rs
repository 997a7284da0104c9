//! Pure: an artifact as the model log stores it, and how its bytes come out of that.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::model::manifest::Compression;
use crate::model::{Artifact, Digest, Manifest, Refusal};

/// How hard artifacts are compressed: zstd's own default. Higher levels take many times as long for some percent.
const LEVEL: i32 = 3;
/// The largest window that is decompressed, as a power of 2: 8 MiB, which is all the memory that a frame can ask for.
const WINDOW_LOG_MAX: u32 = 23;
/// What is read at once.
const BUFFER_BYTES: usize = 128 * 1024;
/// The size of the pieces that bytes are held in: to grow, nothing is copied.
const PIECE_BYTES: usize = 512 * 1024;

/// Bytes in pieces, so that a large artifact takes no second place in memory while it grows.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: Vec<Vec<u8>>,
    /// Of all of them.
    bytes: u64,
}

impl Pieces {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.pieces.last().is_none_or(|last| last.len() >= PIECE_BYTES) {
                self.pieces.push(Vec::new());
            }
            let Some(last) = self.pieces.last_mut() else { return };
            let (here, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES - last.len()));
            last.extend_from_slice(here);
            bytes = rest;
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    pub(super) fn reader(&self) -> impl BufRead + '_ {
        PiecesReader { pieces: &self.pieces, at: 0 }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct PiecesReader<'p> {
    pieces: &'p [Vec<u8>],
    /// In the first piece.
    at: usize,
}

impl Read for PiecesReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for PiecesReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while let [first, rest @ ..] = self.pieces
            && self.at == first.len()
        {
            (self.pieces, self.at) = (rest, 0);
        }
        Ok(self.pieces.first().map_or(&[], |first| &first[self.at..]))
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// An artifact's bytes as they are stored, which have the digest that the manifest says.
#[derive(Debug)]
pub struct StoredArtifact {
    pieces: Pieces,
    compression: Option<Compression>,
    artifact_bytes: u64,
    digest: Digest,
}

impl StoredArtifact {
    /// What the chunks of `manifest` hold.
    ///
    /// # Errors
    /// [`Refusal::Chunks`] when they are fewer bytes than the manifest says, [`Refusal::Digest`] when they are others.
    pub(super) fn new(manifest: &Manifest, pieces: Pieces) -> Result<StoredArtifact, Refusal> {
        if pieces.len() != manifest.stored_bytes() {
            let (have, expected) = (pieces.len(), manifest.stored_bytes());
            return Err(Refusal::Chunks(format!("they hold {have} bytes, the manifest says {expected}")));
        }
        let (_, actual) = measure(pieces.reader()).map_err(unreadable)?;
        expect(actual, manifest.stored_digest())?;
        let compression = manifest.stored.map(|stored| stored.compression);
        Ok(StoredArtifact { pieces, compression, artifact_bytes: manifest.artifact_bytes, digest: manifest.digest })
    }

    /// What `reader` holds, as the chunks of `manifest` would.
    ///
    /// # Errors
    /// When it cannot be read; a [`Refusal`] as for chunks when it holds other bytes than the manifest says.
    pub fn read(manifest: &Manifest, reader: impl BufRead) -> io::Result<Result<StoredArtifact, Refusal>> {
        let mut pieces = Pieces::default();
        // One byte too many is as wrong as all of them.
        io::copy(&mut reader.take(manifest.stored_bytes().saturating_add(1)), &mut pieces)?;
        Ok(StoredArtifact::new(manifest, pieces))
    }

    /// The artifact's bytes, decompressed on the way: never more than the manifest says and one.
    ///
    /// # Errors
    /// When there is no memory for the decompressor.
    pub fn open(&self) -> io::Result<Box<dyn BufRead + '_>> {
        match self.compression {
            None => Ok(Box::new(self.pieces.reader())),
            Some(Compression::Zstd) => {
                let mut decoder = zstd::Decoder::with_buffer(self.pieces.reader())?.single_frame();
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder.take(self.artifact_bytes + 1))))
            }
        }
    }

    /// Reads the artifact; what it says is not verified yet.
    ///
    /// # Errors
    /// A [`Refusal`] when the bytes are not those that the manifest promises, or no artifact.
    pub fn artifact(&self) -> Result<Artifact, Refusal> {
        self.verify()?;
        Artifact::read(|| self.open())
    }

    /// Writes the artifact's bytes.
    ///
    /// # Errors
    /// A [`Refusal`] when they are not those that the manifest promises: then nothing is written. What the writer reports.
    pub fn write_to(&self, writer: &mut impl Write) -> Result<io::Result<()>, Refusal> {
        self.verify()?;
        Ok(self.open().and_then(|mut reader| io::copy(&mut reader, writer)).map(drop))
    }

    /// The bytes as they are stored.
    pub fn stored(&self) -> impl BufRead + '_ {
        self.pieces.reader()
    }

    fn verify(&self) -> Result<(), Refusal> {
        if self.compression.is_none() {
            return Ok(());
        }
        let (bytes, actual) = self.open().and_then(measure).map_err(unreadable)?;
        if bytes != self.artifact_bytes {
            let what = if bytes > self.artifact_bytes { "more" } else { "fewer" };
            let expected = self.artifact_bytes;
            return Err(Refusal::Undecodable(format!("decompressed it has {what} than the {expected} bytes promised")));
        }
        expect(actual, self.digest)
    }
}

fn expect(actual: Digest, expected: Digest) -> Result<(), Refusal> {
    if actual != expected {
        return Err(Refusal::Digest { actual: actual.to_string(), expected: expected.to_string() });
    }
    Ok(())
}

fn unreadable(error: io::Error) -> Refusal {
    Refusal::Undecodable(format!("the artifact cannot be decompressed: {error}"))
}

/// Counts bytes and takes their digest.
///
/// # Errors
/// When they cannot be read.
pub(super) fn measure(mut reader: impl BufRead) -> io::Result<(u64, Digest)> {
    let (mut bytes, mut hasher) = (0, Digest::hasher());
    loop {
        let there = reader.fill_buf()?;
        if there.is_empty() {
            return Ok((bytes, hasher.finish()));
        }
        hasher.update(there);
        let count = there.len();
        bytes += count as u64;
        reader.consume(count);
    }
}

/// Compresses an artifact on the way.
///
/// # Errors
/// When there is no memory for the compressor.
pub(super) fn compressed<'r>(reader: impl BufRead + 'r, bytes: u64) -> io::Result<impl Read + 'r> {
    let mut encoder = zstd::stream::read::Encoder::with_buffer(reader, LEVEL)?;
    encoder.set_pledged_src_size(Some(bytes))?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::model::manifest::Stored;

    /// A manifest of `artifact`, stored as `stored`.
    fn manifest(artifact: &[u8], stored: &[u8]) -> Manifest {
        let stored = Stored { compression: Compression::Zstd, bytes: stored.len() as u64, digest: Digest::of(stored) };
        let (digest, artifact_bytes) = (Digest::of(artifact), artifact.len() as u64);
        Manifest { digest, artifact_bytes, stored: Some(stored), ..testing::manifest(1, 1) }
    }

    fn compress(bytes: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        let mut reader = compressed(bytes, bytes.len() as u64).expect("memory");
        reader.read_to_end(&mut stored).expect("readable");
        stored
    }

    fn pieces(bytes: &[u8]) -> Pieces {
        let mut pieces = Pieces::default();
        bytes.chunks(100_000).for_each(|chunk| pieces.push(chunk));
        pieces
    }

    #[test]
    fn what_is_compressed_comes_out_again() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let stored = compress(&bytes);
        assert!(stored.len() < bytes.len() / 2, "{}", stored.len());
        let artifact = StoredArtifact::new(&manifest(&bytes, &stored), pieces(&stored)).expect("the promised bytes");
        let mut out = Vec::new();
        artifact.write_to(&mut out).expect("the promised bytes").expect("memory");
        assert!(out == bytes);
    }

    #[test]
    fn other_bytes_than_the_promised_ones_are_refused_before_they_are_decompressed() {
        let bytes = vec![7; 1_000_000];
        let stored = compress(&bytes);
        let manifest = manifest(&bytes, &stored);
        for index in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[index] ^= 1;
            let refusal = StoredArtifact::new(&manifest, pieces(&flipped)).map(drop).expect_err("another digest");
            assert_eq!(refusal.reason(), "digest");
        }
    }

    /// A decompression bomb whose manifest lies: 100 MB out of some kilobytes, of which 1000 bytes are promised, or too many.
    #[test]
    fn a_frame_with_more_or_less_than_is_promised_is_refused() {
        let bomb = compress(&vec![0; 100_000_000]);
        for promised in [1_000_u64, 200_000_000] {
            let mut lying = manifest(b"", &bomb);
            lying.artifact_bytes = promised;
            let artifact = StoredArtifact::new(&lying, pieces(&bomb)).expect("the stored bytes are the promised ones");
            let refusal = artifact.artifact().map(drop).expect_err("other bytes");
            assert_eq!(refusal.reason(), "undecodable");
            let more_or_fewer = if promised == 1_000 { "more" } else { "fewer" };
            assert!(refusal.to_string().contains(more_or_fewer), "{refusal}");
        }
    }
}
