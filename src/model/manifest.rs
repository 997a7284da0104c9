//! The manifest: what the model log says about one version.

use super::artifact::{Digest, Evaluation};
use super::{Refusal, Signature};
use std::collections::BTreeMap;

/// What is said about one version of a model. Avro with `schemas/manifest.avsc`, framed as the artifact is.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The model's name.
    pub model: String,
    /// 1, 2, 3 …
    pub version: u64,
    /// Of the artifact's bytes.
    pub digest: Digest,
    /// The number of the artifact's bytes.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub fn encode(&self) -> Vec<u8> {
        unimplemented!("helper")
    }

    /// Reads a manifest and checks each of its fields.
    ///
    /// # Errors
    /// A [`Refusal`] when the bytes are no manifest, are of a newer format, or a field is out of its range.
    pub fn decode(_bytes: &[u8]) -> Result<Manifest, Refusal> {
        unimplemented!("helper")
    }
}
