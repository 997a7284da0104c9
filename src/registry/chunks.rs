//! Pure: the chunks of an artifact, as a topic's records, become its bytes.

use crate::model::artifact::ARTIFACT_BYTES_MAX;
use crate::model::{Manifest, Pieces, Refusal};

use super::stored::StoredArtifact;

/// The most stored bytes of an artifact: what does not compress grows a little.
pub const STORED_BYTES_MAX: u64 = ARTIFACT_BYTES_MAX as u64 + (ARTIFACT_BYTES_MAX as u64 >> 7);

/// Puts the chunks of one artifact together, in order and within the size that the manifest promises.
#[derive(Debug)]
pub struct Assembler<'m> {
    manifest: &'m Manifest,
    pieces: Pieces<u8>,
    next_chunk: u32,
}

impl<'m> Assembler<'m> {
    /// An assembler of the artifact that `manifest` names. It takes no memory before the chunks come.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the manifest promises more than [`ARTIFACT_BYTES_MAX`], or [`STORED_BYTES_MAX`] stored ones.
    pub fn new(manifest: &'m Manifest) -> Result<Assembler<'m>, Refusal> {
        let sizes = [
            ("the artifact's size in bytes", manifest.artifact_bytes, ARTIFACT_BYTES_MAX as u64),
            ("the artifact's stored size in bytes", manifest.stored_bytes(), STORED_BYTES_MAX),
        ];
        for (what, actual, limit) in sizes {
            if actual > limit {
                return Err(Refusal::TooLarge { what, actual, limit });
            }
        }
        Ok(Assembler { manifest, pieces: Pieces::default(), next_chunk: 0 })
    }

    /// Whether every chunk came.
    pub fn is_complete(&self) -> bool {
        self.next_chunk == self.manifest.chunks.count
    }

    /// The bytes that came.
    pub fn bytes(&self) -> u64 {
        self.pieces.len() as u64
    }

    /// Takes in the next record of the artifacts topic; records of others are passed over.
    ///
    /// # Errors
    /// [`Refusal::Chunks`] when the offset of the last chunk is passed, or a chunk is empty or larger than what is left.
    pub fn take(&mut self, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Refusal> {
        if offset > self.manifest.chunks.last_offset {
            return Err(self.incomplete("the last one's offset is passed"));
        }
        let expected = self.manifest.chunk_key(self.next_chunk);
        // Other publishers' chunks may stand between ours.
        if key != Some(expected.as_bytes()) {
            return Ok(());
        }
        let value = value.unwrap_or_default();
        let room = self.manifest.stored_bytes() - self.bytes();
        if value.is_empty() || value.len() as u64 > room {
            let (chunk, bytes) = (self.next_chunk, value.len());
            return Err(Refusal::Chunks(format!("chunk {chunk} has {bytes} bytes where 1 to {room} are left")));
        }
        self.pieces.extend_from_slice(value);
        self.next_chunk += 1;
        Ok(())
    }

    /// The refusal of an artifact whose other chunks will not come.
    pub fn incomplete(&self, why: &str) -> Refusal {
        let (have, count) = (self.next_chunk, self.manifest.chunks.count);
        Refusal::Chunks(format!("{have} of {count} found before {why}"))
    }

    /// The artifact as it is stored, which has the manifest's digest.
    ///
    /// # Errors
    /// [`Refusal::Chunks`] when its bytes are fewer than the manifest says, [`Refusal::Digest`] when they are others.
    pub fn finish(self) -> Result<StoredArtifact, Refusal> {
        StoredArtifact::new(self.manifest, self.pieces)
    }
}
