//! The model log as its users see it: two topics, one total order of decisions; and a third where its fleet reports.
//!
//! - [`state`]: pure: fold records into models and versions
//! - [`publish`]: artifact -> chunks -> manifest, in one transaction
//! - [`chunks`]: pure: an artifact's chunks become its bytes
//! - [`follow`]: replay to the end, then follow; fetch an artifact
//! - [`fleet`]: pure: the reports of the serving processes, and who lags and why
//! - [`reports`]: reads them

pub mod chunks;
pub mod fleet;
pub mod follow;
pub mod publish;
pub mod reports;
pub mod state;

pub use state::{Pick, Selector, State};

use std::time::Duration;

use crate::kafka;
use crate::model::Refusal;

/// The topics of a model log and of its fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Carries manifests: compacted, one partition.
    pub models: String,
    /// Carries the artifacts' chunks: compacted.
    pub artifacts: String,
    /// Carries the last report of each serving process: compacted, one partition.
    pub status: String,
}

/// The bytes of one chunk: half of what a broker accepts by default, so that headers and framing never matter.
pub const CHUNK_BYTES: usize = 512 * 1024;
/// How long reading the whole model log may take before a command gives up.
pub const REPLAY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long fetching an artifact may take without a new chunk before it is given up.
pub const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// What went wrong with the model log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka did.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The model log does not exist.
    #[error("the topic {0} of the model log does not exist; `modelstream topics init` creates it")]
    NoModelLog(String),
    /// No such model or version.
    #[error("{0}")]
    NotFound(String),
    /// The version exists with other bytes.
    #[error(
        "{model} has a version {version} already, with digest {existing}; versions never change: publish without --as-version, or as {next}"
    )]
    VersionTaken {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// The digest that it has.
        existing: String,
        /// The next free version.
        next: u64,
    },
    /// A name that cannot be a model's.
    #[error("{0:?} is no name for a model: 1 to 200 of the characters a-z A-Z 0-9 . _ -")]
    BadName(String),
    /// The version was refused.
    #[error("version {version} of {model} is refused ({reason}): {refusal}", reason = refusal.reason())]
    Refused {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// Why.
        refusal: Refusal,
    },
}
