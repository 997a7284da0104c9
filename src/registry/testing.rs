//! What the tests of this room share.

use std::collections::BTreeMap;

use crate::model::artifact::Evaluation;
use crate::model::manifest::{Chunks, FORMAT};
use crate::model::signature::{Signature, Target};
use crate::model::{Digest, Manifest};

/// A manifest of `iris` whose artifact is the version's number.
pub(super) fn manifest(version: u64, sequence: u64) -> Manifest {
    Manifest {
        format: FORMAT,
        model: "iris".into(),
        version,
        digest: Digest::of(&version.to_le_bytes()),
        artifact_bytes: 8,
        chunks: Chunks { partition: 0, first_offset: 0, last_offset: 0, count: 1 },
        algorithm: "ridge".into(),
        hyper_parameters: BTreeMap::new(),
        signature: Signature { features: Vec::new(), target: Target { name: "y".into(), classes: Vec::new() } },
        evaluation: Evaluation::default(),
        published_at_ms: 0,
        published_by: "test@host".into(),
        note: String::new(),
        sequence,
        stored: None,
    }
}
