//! Pure: an artifact as the model log stores it, and how its bytes come out of that.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::model::artifact::Digested;
use crate::model::manifest::Compression;
use crate::model::{Artifact, Digest, Manifest, Pieces, Refusal};

/// How hard artifacts are compressed: zstd's own default. Higher levels take many times as long for some percent.
const LEVEL: i32 = 3;
/// The largest window that is decompressed, as a power of 2: 8 MiB, which is all the memory that a frame can ask for.
const WINDOW_LOG_MAX: u32 = 23;
/// What is read at once.
const BUFFER_BYTES: usize = 128 * 1024;
impl Write for Pieces<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads pieces, and lets go of each that is read to its end.
struct PiecesReader<I: Iterator> {
    piece: Option<I::Item>,
    /// In the piece.
    at: usize,
    rest: I,
}

impl<I: Iterator<Item: AsRef<[u8]>>> PiecesReader<I> {
    fn new(mut pieces: I) -> PiecesReader<I> {
        PiecesReader { piece: pieces.next(), at: 0, rest: pieces }
    }
}

impl<I: Iterator<Item: AsRef<[u8]>>> Read for PiecesReader<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<I: Iterator<Item: AsRef<[u8]>>> BufRead for PiecesReader<I> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.as_ref().is_some_and(|piece| piece.as_ref().len() == self.at) {
            (self.piece, self.at) = (self.rest.next(), 0);
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece.as_ref()[self.at..]))
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

/// An artifact's bytes as they are stored, which have the digest that the manifest says.
#[derive(Debug)]
pub struct StoredArtifact {
    pieces: Pieces<u8>,
    compression: Option<Compression>,
    artifact_bytes: u64,
    digest: Digest,
}

impl StoredArtifact {
    /// What the chunks of `manifest` hold.
    ///
    /// # Errors
    /// [`Refusal::Chunks`] when they are fewer bytes than the manifest says, [`Refusal::Digest`] when they are others.
    pub(super) fn new(manifest: &Manifest, pieces: Pieces<u8>) -> Result<StoredArtifact, Refusal> {
        let (have, expected) = (pieces.len() as u64, manifest.stored_bytes());
        if have != expected {
            return Err(Refusal::Chunks(format!("they hold {have} bytes, the manifest says {expected}")));
        }
        let (_, actual) = measure(PiecesReader::new(pieces.pieces())).map_err(unreadable)?;
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
        decompressed(PiecesReader::new(self.pieces.pieces()), self.compression, self.artifact_bytes)
    }

    /// Reads the artifact; what it says is not verified yet.
    ///
    /// # Errors
    /// A [`Refusal`] when the bytes are not those that the manifest promises, or no artifact.
    pub fn artifact(&self) -> Result<Artifact, Refusal> {
        self.verify()?;
        self.open().map_err(unreadable).and_then(Artifact::read)
    }

    /// As [`StoredArtifact::artifact`]; the stored bytes are freed as they are read, so that they are not in memory
    /// beside the whole artifact.
    ///
    /// # Errors
    /// As [`StoredArtifact::artifact`].
    pub fn into_artifact(self) -> Result<Artifact, Refusal> {
        self.verify()?;
        let pieces = PiecesReader::new(self.pieces.into_pieces());
        decompressed(pieces, self.compression, self.artifact_bytes).map_err(unreadable).and_then(Artifact::read)
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
        PiecesReader::new(self.pieces.pieces())
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

fn decompressed<'s>(
    stored: impl BufRead + 's,
    compression: Option<Compression>,
    artifact_bytes: u64,
) -> io::Result<Box<dyn BufRead + 's>> {
    match compression {
        None => Ok(Box::new(stored)),
        Some(Compression::Zstd) => {
            let mut decoder = zstd::Decoder::with_buffer(stored)?.single_frame();
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder.take(artifact_bytes + 1))))
        }
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
fn measure(reader: impl BufRead) -> io::Result<(u64, Digest)> {
    let mut digested = Digested::new(reader);
    loop {
        let count = digested.fill_buf()?.len();
        if count == 0 {
            return Ok(digested.finish());
        }
        digested.consume(count);
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

    fn pieces(bytes: &[u8]) -> Pieces<u8> {
        let mut pieces = Pieces::default();
        bytes.chunks(100_000).for_each(|chunk| pieces.extend_from_slice(chunk));
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
