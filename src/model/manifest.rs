//! The manifest: what the model log says about one version.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::artifact::{Digest, Evaluation, FORMAT, within};
use super::avro::{self, Format};
use super::{Refusal, Signature};

/// The largest manifest: with its key it stays below what a broker takes by default.
pub const MANIFEST_BYTES_MAX: usize = 900_000;
/// The last millisecond of the year 9999, beyond which no calendar time has a text.
const PUBLISHED_AT_MS_MAX: i64 = 253_402_300_799_999;
/// The Avro schema of a manifest.
pub const SCHEMA: &str = include_str!("../../schemas/manifest.avsc");
static AVRO: LazyLock<Format> = LazyLock::new(|| Format::new(SCHEMA, "manifest"));

/// What is said about one version of a model. Avro with `schemas/manifest.avsc`, framed as the artifact is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: i32,
    /// The model's name.
    pub model: String,
    /// 1, 2, 3 …
    #[serde(with = "avro::long")]
    pub version: u64,
    /// Of the artifact's bytes.
    pub digest: Digest,
    /// The number of the artifact's bytes.
    #[serde(with = "avro::long")]
    pub artifact_bytes: u64,
    /// Where the artifact's chunks are.
    pub chunks: Chunks,
    /// As in the artifact.
    pub algorithm: String,
    /// As in the artifact.
    pub hyper_parameters: BTreeMap<String, String>,
    /// As in the artifact.
    pub signature: Signature,
    /// As in the artifact.
    pub evaluation: Evaluation,
    /// When it was published, in milliseconds since the Unix epoch.
    pub published_at_ms: i64,
    /// Who published it: `user@host`.
    pub published_by: String,
    /// What the publisher said about it; may be empty.
    pub note: String,
}

/// Where the chunks of an artifact are in the artifacts topic: one partition, `count` chunks in their order, the first at
/// `first_offset`, the last at `last_offset`; records of others may stand between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// The partition.
    pub partition: i32,
    /// The offset of chunk 0.
    pub first_offset: i64,
    /// The offset of the last chunk.
    pub last_offset: i64,
    /// The number of chunks.
    pub count: u32,
}

impl Manifest {
    /// The manifest's bytes.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] beyond [`MANIFEST_BYTES_MAX`]: the signature has too many or too long names.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let bytes = AVRO.encode(self)?;
        within("the manifest's size in bytes", bytes.len(), MANIFEST_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Reads a manifest and checks that its numbers can be.
    ///
    /// # Errors
    /// A [`Refusal`] when the bytes are too many or no manifest, are of a newer format, or a number is out of its range.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, Refusal> {
        within("the manifest's size in bytes", bytes.len(), MANIFEST_BYTES_MAX)?;
        let manifest: Manifest = AVRO.decode(bytes)?;
        if manifest.format != FORMAT {
            let number = format!("number {}", manifest.format);
            return Err(Refusal::NewerFormat { what: "manifest", fingerprint: number });
        }
        let chunks = manifest.chunks;
        // Each chunk is a record of its own, so the offsets leave room for all of them.
        let room = chunks.last_offset.checked_sub(chunks.first_offset).and_then(|room| room.checked_add(1));
        let possible = chunks.partition >= 0
            && chunks.first_offset >= 0
            && (1..=manifest.artifact_bytes).contains(&u64::from(chunks.count))
            && room.is_some_and(|room| i64::from(chunks.count) <= room);
        if !possible || manifest.version == 0 {
            return Err(Refusal::Undecodable(format!("a number of the manifest cannot be: {chunks:?}")));
        }
        let published_at = manifest.published_at_ms;
        if !(0..=PUBLISHED_AT_MS_MAX).contains(&published_at) {
            let message = format!("the manifest's time cannot be: {published_at} ms since 1970");
            return Err(Refusal::Undecodable(message));
        }
        Ok(manifest)
    }
}
