//! The model log as its users see it: two topics, one total order of decisions; and a third where its fleet reports.
//!
//! - [`selector`]: pure: which version of which model
//! - [`record`]: pure: a record of the models topic, and what its key says
//! - [`trust`]: pure: who may write; a record is signed, and checked before it is read
//! - [`state`]: pure: fold records into versions, aliases, pins and revocations
//! - `writer`: one writer a model at a time, signed, all or nothing
//! - [`publish`]: artifact -> chunks -> manifest, in one transaction
//! - [`decide`]: aliases, pins, rollbacks, revocations
//! - [`prune`]: remove old versions
//! - [`chunks`], [`stored`]: pure: an artifact's chunks become its bytes
//! - [`follow`]: replay to the end, then follow; fetch an artifact
//! - [`fleet`]: pure: the reports of the serving processes, and who lags and why
//! - [`reports`]: reads them

pub mod chunks;
pub mod decide;
pub mod fleet;
pub mod follow;
pub mod prune;
pub mod publish;
pub mod record;
pub mod reports;
pub mod selector;
pub mod state;
pub mod stored;
pub mod trust;

#[cfg(test)]
mod testing;
mod writer;

pub use selector::{Pick, Selector};
pub use state::State;
pub use trust::Trust;
pub use writer::Author;

use std::time::Duration;

use crate::kafka;
use crate::model::Refusal;

/// The topics of a model log and of its fleet, and whom its readers believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Carries manifests: compacted, one partition.
    pub models: String,
    /// Carries the artifacts' chunks: compacted.
    pub artifacts: String,
    /// Carries the last report of each serving process: compacted, one partition.
    pub status: String,
    /// Who may have written it.
    pub trust: Trust,
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
        "{model} has a version {version} already, with {existing}; versions never change: publish without --as-version, or as {next}"
    )]
    VersionTaken {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// What it has.
        existing: String,
        /// The next free version.
        next: u64,
    },
    /// A name that cannot be a model's or an alias's.
    #[error("{0:?} is no name for a model or an alias: 1 to 200 of the characters a-z A-Z 0-9 . _ -")]
    BadName(String),
    /// Nobody who checks signatures would believe what is written.
    #[error(
        "this would be written {0}, which is not what this model log trusts; --signing-key names a file with a key that is trusted"
    )]
    Unsigned(String),
    /// Another writer came later and won.
    #[error(
        "somebody else wrote about {0} meanwhile, and nothing of this was written; look at `modelstream models history {0}` and try again"
    )]
    Outrun(String),
    /// What is wished for cannot be, as things stand.
    #[error("{0}")]
    Wish(String),
    /// A control record that cannot be written.
    #[error("the decision cannot be written: {0}")]
    Control(Refusal),
    /// The artifact's bytes cannot be read.
    #[error("reading the artifact: {0}")]
    Artifact(std::io::Error),
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
