//! The artifact: the bytes of one version, and what they say.
//!
//! Avro with `schemas/artifact.avsc`, framed as Avro's single-object encoding (`C3 01`, the schema's CRC-64-AVRO
//! fingerprint, the datum), large arrays as little-endian `bytes`. The file that `train --out` writes, the bytes that the
//! model log carries and the bytes that the digest is of are the same: `sha256sum iris.model` prints the digest.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead};
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::avro::{self, Format};
use super::verify::GOLDEN_ROWS_MIN;
use super::{Model, Predictor, Refusal, Signature};

/// The format number that this binary writes, and the newest that it reads.
pub const FORMAT: i32 = 1;
/// The largest artifact that is read: memory for it is taken before it is verified.
pub const ARTIFACT_BYTES_MAX: usize = 1 << 30;
/// The most golden rows that a loader scores: enough for every class, few enough for a quick start.
pub const GOLDEN_ROWS_MAX: usize = 4_096;

/// The Avro schema of an artifact.
pub const SCHEMA: &str = include_str!("../../schemas/artifact.avsc");
static AVRO: LazyLock<Format> = LazyLock::new(|| Format::new(SCHEMA, "artifact"));

/// One version of a model, whole: what it needs to score, and what is known about it.
///
/// Nothing in it depends on when, where or by whom it was made: the same data and seed give the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// [`FORMAT`].
    pub format: i32,
    /// The name of the algorithm as `train --algorithm` has it: `random-forest`.
    pub algorithm: String,
    /// The hyper-parameters by scikit-learn's names.
    pub hyper_parameters: BTreeMap<String, String>,
    /// What goes in and what comes out.
    pub signature: Signature,
    /// The fitted parameters.
    pub predictor: Predictor,
    /// How good it was on rows that it had not seen.
    pub evaluation: Evaluation,
    /// Inputs with the outputs that the trainer computed.
    pub golden_rows: Vec<GoldenRow>,
}

/// How good a model was on rows that it had not seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// The number of rows that the model was fitted on.
    #[serde(with = "avro::long")]
    pub train_rows: u64,
    /// The number of rows that it was evaluated on.
    #[serde(with = "avro::long")]
    pub test_rows: u64,
    /// Metrics by name: `accuracy`, `f1` (macro average), `precision`, `recall`; or `mae`, `rmse`, `r2`.
    pub metrics: BTreeMap<String, f64>,
    /// Classification: rows by true class (outer) and predicted class (inner); else empty.
    #[serde(with = "avro::long_matrix")]
    pub confusion_matrix: Vec<Vec<u64>>,
}

/// An input with the output that the trainer computed; a loader must reproduce it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenRow {
    /// A value for each feature, in the signature's order.
    pub inputs: Vec<GoldenValue>,
    /// The probabilities in class order, or the one value of a regression.
    pub outputs: Vec<f64>,
}

/// A feature's value in a golden row, before the signature's rule was applied to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum GoldenValue {
    /// Absent or `null`.
    Missing,
    /// A number.
    Number(f64),
    /// A word.
    Category(String),
}

/// The SHA-256 of an artifact's bytes; its text is 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// What takes the digest of bytes that come one after another.
    pub fn hasher() -> DigestHasher {
        DigestHasher(sha2::Digest::new())
    }

    /// Reads the 64 hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 64 || digits.iter().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Digest(bytes))
    }
}

/// Takes the digest of bytes that come one after another.
#[derive(Clone, Default)]
pub struct DigestHasher(sha2::Sha256);

impl DigestHasher {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        Digest(sha2::Digest::finalize(self.0).into())
    }
}

/// Takes the digest of what is read through it.
pub struct Digested<R> {
    source: R,
    bytes: u64,
    hasher: DigestHasher,
}

impl<R: BufRead> Digested<R> {
    /// Nothing was read yet.
    pub fn new(source: R) -> Digested<R> {
        Digested { source, bytes: 0, hasher: Digest::hasher() }
    }

    /// The number of bytes that were read, and their digest.
    pub fn finish(self) -> (u64, Digest) {
        (self.bytes, self.hasher.finish())
    }
}

impl<R: BufRead> io::Read for Digested<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Digested<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // The source still has what it showed.
        if let Ok(there) = self.source.fill_buf() {
            self.hasher.update(&there[..count]);
        }
        self.bytes += count as u64;
        self.source.consume(count);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).ok_or_else(|| de::Error::custom("a digest has 64 lower-case hexadecimal digits"))
    }
}

impl Artifact {
    /// The artifact's bytes.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] beyond [`ARTIFACT_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let bytes = AVRO.encode(self)?;
        within("the artifact's size in bytes", bytes.len(), ARTIFACT_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Reads an artifact; what it says is not verified yet.
    ///
    /// # Errors
    /// A [`Refusal`] when the bytes are too many, are no artifact, are of a newer format, or hold lists beyond the limits.
    pub fn decode(bytes: &[u8]) -> Result<Artifact, Refusal> {
        within("the artifact's size in bytes", bytes.len(), ARTIFACT_BYTES_MAX)?;
        Artifact::read(bytes)
    }

    /// As [`Artifact::decode`], from a source that holds at most [`ARTIFACT_BYTES_MAX`] bytes, so that a large
    /// artifact's bytes need not be in memory beside what they say.
    ///
    /// # Errors
    /// As [`Artifact::decode`]; also when the source cannot be read.
    pub fn read(source: impl BufRead) -> Result<Artifact, Refusal> {
        let artifact: Artifact = AVRO.read(source)?;
        if artifact.format != FORMAT {
            return Err(Refusal::newer("artifact", format!("number {}", artifact.format)));
        }
        within("the number of golden rows", artifact.golden_rows.len(), GOLDEN_ROWS_MAX)?;
        Ok(artifact)
    }

    /// Verifies the structure, compiles the model and proves it; what comes back may score records.
    ///
    /// # Errors
    /// The [`Refusal`] of the first check that fails.
    pub fn into_model(self) -> Result<Model, Refusal> {
        self.compile()?.prove()
    }

    /// Verifies the structure and compiles the model.
    ///
    /// # Errors
    /// The [`Refusal`] of the first check that fails.
    pub fn compile(self) -> Result<Unproven, Refusal> {
        if self.golden_rows.len() < GOLDEN_ROWS_MIN {
            return Err(Refusal::FewGoldenRows { actual: self.golden_rows.len() });
        }
        Ok(Unproven { model: Model::new(self.signature, self.predictor)?, golden_rows: self.golden_rows })
    }
}

/// A model that has yet to reproduce its golden rows.
#[derive(Debug)]
pub struct Unproven {
    model: Model,
    golden_rows: Vec<GoldenRow>,
}

impl Unproven {
    /// The number of golden rows.
    pub fn golden_rows(&self) -> usize {
        self.golden_rows.len()
    }

    /// Reproduces the golden rows; what comes back may score records.
    ///
    /// # Errors
    /// [`Refusal::Golden`] for the first row that comes out otherwise.
    pub fn prove(self) -> Result<Model, Refusal> {
        super::verify::golden_rows(&self.model, &self.golden_rows)?;
        Ok(self.model)
    }
}

/// # Errors
/// [`Refusal::TooLarge`] when `actual` is above `limit`.
pub(super) fn within(what: &'static str, actual: usize, limit: usize) -> Result<(), Refusal> {
    if actual > limit {
        return Err(Refusal::TooLarge { what, actual: actual as u64, limit: limit as u64 });
    }
    Ok(())
}
