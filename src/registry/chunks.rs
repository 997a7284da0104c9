//! Pure: the chunks of an artifact, as a topic's records, become its bytes.

use crate::model::artifact::ARTIFACT_BYTES_MAX;
use crate::model::{Digest, Manifest, Refusal};

/// Puts the chunks of one artifact together, in order and within the size that the manifest promises.
#[derive(Debug)]
pub struct Assembler<'m> {
    manifest: &'m Manifest,
    bytes: Vec<u8>,
    next_chunk: u32,
}

impl<'m> Assembler<'m> {
    /// An assembler of the artifact that `manifest` names. It takes no memory before the chunks come.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the manifest promises more than [`ARTIFACT_BYTES_MAX`].
    pub fn new(manifest: &'m Manifest) -> Result<Assembler<'m>, Refusal> {
        if manifest.artifact_bytes > ARTIFACT_BYTES_MAX as u64 {
            let (actual, limit) = (manifest.artifact_bytes, ARTIFACT_BYTES_MAX as u64);
            return Err(Refusal::TooLarge { what: "the artifact's size in bytes", actual, limit });
        }
        Ok(Assembler { manifest, bytes: Vec::new(), next_chunk: 0 })
    }

    /// Whether every chunk came.
    pub fn is_complete(&self) -> bool {
        self.next_chunk == self.manifest.chunks.count
    }

    /// Takes in the next record of the artifacts topic; records of others are passed over.
    ///
    /// # Errors
    /// [`Refusal::Chunks`] when the offset of the last chunk is passed, or a chunk is empty or larger than what is left.
    pub fn take(&mut self, offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Refusal> {
        if offset > self.manifest.chunks.last_offset {
            return Err(self.incomplete("the last one's offset is passed"));
        }
        let expected = chunk_key(&self.manifest.digest, self.next_chunk);
        // Other publishers' chunks may stand between ours.
        if key != Some(expected.as_bytes()) {
            return Ok(());
        }
        let value = value.unwrap_or_default();
        let room = self.manifest.artifact_bytes - self.bytes.len() as u64;
        if value.is_empty() || value.len() as u64 > room {
            let (chunk, bytes) = (self.next_chunk, value.len());
            return Err(Refusal::Chunks(format!("chunk {chunk} has {bytes} bytes where 1 to {room} are left")));
        }
        self.bytes.extend_from_slice(value);
        self.next_chunk += 1;
        Ok(())
    }

    /// The refusal of an artifact whose other chunks will not come.
    pub fn incomplete(&self, why: &str) -> Refusal {
        let (have, count) = (self.next_chunk, self.manifest.chunks.count);
        Refusal::Chunks(format!("{have} of {count} found before {why}"))
    }

    /// The artifact's bytes, which have the manifest's digest.
    ///
    /// # Errors
    /// [`Refusal::Chunks`] when they are fewer than the manifest says, [`Refusal::Digest`] when they are others.
    pub fn finish(self) -> Result<Vec<u8>, Refusal> {
        if self.bytes.len() as u64 != self.manifest.artifact_bytes {
            let (have, expected) = (self.bytes.len(), self.manifest.artifact_bytes);
            return Err(Refusal::Chunks(format!("they hold {have} bytes, the manifest says {expected}")));
        }
        let actual = Digest::of(&self.bytes);
        if actual != self.manifest.digest {
            let expected = self.manifest.digest.to_string();
            return Err(Refusal::Digest { actual: actual.to_string(), expected });
        }
        Ok(self.bytes)
    }
}

/// The key of chunk `index` of the artifact with this digest.
pub(super) fn chunk_key(digest: &Digest, index: u32) -> String {
    format!("{digest}/{index}")
}
