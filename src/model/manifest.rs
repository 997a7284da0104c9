//! The manifest: what the model log says about one version.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::artifact::{Digest, Evaluation, within};
use super::avro::{self, Format};
use super::{Refusal, Signature};

/// The format number that this binary writes, and the newest that it reads. Of format 1 are the manifests that have no place in
/// the order of decisions, and whose artifacts are stored as they are.
pub const FORMAT: i32 = 2;
/// The largest manifest: with its key it stays below what a broker takes by default.
pub const MANIFEST_BYTES_MAX: usize = 900_000;
/// The last millisecond of the year 9999, beyond which no calendar time has a text.
const TIME_MS_MAX: i64 = 253_402_300_799_999;
/// The Avro schema of a manifest.
pub const SCHEMA: &str = include_str!("../../schemas/manifest.avsc");
/// Those that it replaced, the newest first.
pub const FORMER_SCHEMAS: [&str; 1] = [include_str!("../../schemas/history/manifest-1.avsc")];
static AVRO: LazyLock<Format> = LazyLock::new(|| Format::with_former(SCHEMA, &FORMER_SCHEMAS, "manifest"));

/// What is said about one version of a model. Avro with `schemas/manifest.avsc`, framed as the artifact is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`], or an older one.
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
    /// Its place in the order of everything that was decided about the model: versions and control records count up together
    /// from 1. 0 in format 1.
    #[serde(with = "avro::long", default)]
    pub sequence: u64,
    /// How the artifact's bytes are stored in the chunks; `None` is as they are.
    #[serde(default)]
    pub stored: Option<Stored>,
}

/// How an artifact is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// What was done to its bytes.
    pub compression: Compression,
    /// The number of bytes in all chunks.
    #[serde(with = "avro::long")]
    pub bytes: u64,
    /// Of the bytes in all chunks.
    pub digest: Digest,
}

/// How an artifact's bytes are made fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// One Zstandard frame (RFC 8878).
    Zstd,
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
        let manifest: Manifest = AVRO.read(bytes)?;
        if !(1..=FORMAT).contains(&manifest.format) {
            return Err(Refusal::newer("manifest", format!("number {}", manifest.format)));
        }
        let chunks = manifest.chunks;
        // Each chunk is a record of its own, so the offsets leave room for all of them.
        let room = chunks.last_offset.checked_sub(chunks.first_offset).and_then(|room| room.checked_add(1));
        let possible = chunks.partition >= 0
            && chunks.first_offset >= 0
            && (1..=manifest.stored_bytes()).contains(&u64::from(chunks.count))
            && room.is_some_and(|room| i64::from(chunks.count) <= room);
        if !possible || manifest.version == 0 {
            return Err(Refusal::Undecodable(format!("a number of the manifest cannot be: {chunks:?}")));
        }
        check_time("manifest", manifest.published_at_ms)?;
        Ok(manifest)
    }

    /// The number of bytes in all chunks.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.map_or(self.artifact_bytes, |stored| stored.bytes)
    }

    /// The digest of the bytes in all chunks.
    pub fn stored_digest(&self) -> Digest {
        self.stored.map_or(self.digest, |stored| stored.digest)
    }

    /// The key of chunk `index` in the artifacts topic.
    pub fn chunk_key(&self, index: u32) -> String {
        chunk_key(self.format, &self.model, &self.digest, index)
    }
}

/// The key of chunk `index` of the artifact with this digest, as manifests of this format have it. The model is part of it, so
/// that no other model's publish, and no other's removal, touches a version's chunks.
pub fn chunk_key(format: i32, model: &str, digest: &Digest, index: u32) -> String {
    if format == 1 { format!("{digest}/{index}") } else { format!("{model}/{digest}/{index}") }
}

/// # Errors
/// [`Refusal::Undecodable`] for a time that has no text.
pub(super) fn check_time(what: &str, millis: i64) -> Result<(), Refusal> {
    if !(0..=TIME_MS_MAX).contains(&millis) {
        return Err(Refusal::Undecodable(format!("the {what}'s time cannot be: {millis} ms since 1970")));
    }
    Ok(())
}
