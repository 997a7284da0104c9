//! The control record: what somebody decided about the versions of a model.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::artifact::within;
use super::avro::{self, Format};
use super::manifest::check_time;

/// The format number that this binary writes, and the newest that it reads.
pub const FORMAT: i32 = 1;
/// The largest control record: a name, and a reason of some pages.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// The Avro schema of a control record.
pub const SCHEMA: &str = include_str!("../../schemas/control.avsc");
static AVRO: LazyLock<Format> = LazyLock::new(|| Format::new(SCHEMA, "control record"));

/// A decision, with who made it, when and why. Avro with `schemas/control.avsc`, framed as the artifact is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// [`FORMAT`].
    pub format: i32,
    /// The model's name; empty for [`Decision::KeyRevoked`].
    pub model: String,
    /// Its place in the order of everything that was decided about the model; 0 for [`Decision::KeyRevoked`].
    #[serde(with = "avro::long")]
    pub sequence: u64,
    /// What was decided.
    pub decision: Decision,
    /// When, in milliseconds since the Unix epoch.
    pub decided_at_ms: i64,
    /// By whom: `user@host`.
    pub decided_by: String,
    /// The reason; may be empty.
    pub why: String,
}

/// What can be decided about a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// The alias names the version from now on.
    AliasSet {
        /// The alias.
        alias: String,
        /// The version.
        #[serde(with = "avro::long")]
        version: u64,
    },
    /// The alias names no version any more.
    AliasDeleted {
        /// The alias.
        alias: String,
    },
    /// As [`Decision::AliasSet`], to the version that the alias named before.
    RolledBack {
        /// The alias.
        alias: String,
        /// The version.
        #[serde(with = "avro::long")]
        version: u64,
    },
    /// Whoever follows the newest version stays at this one.
    Pinned {
        /// The version.
        #[serde(with = "avro::long")]
        version: u64,
    },
    /// Whoever follows the newest version has it again.
    Unpinned,
    /// Nobody may serve the version any more.
    Revoked {
        /// The version.
        #[serde(with = "avro::long")]
        version: u64,
    },
    /// The version's manifest and chunks were removed.
    Pruned {
        /// The version.
        #[serde(with = "avro::long")]
        version: u64,
    },
    /// What was signed with this key is not trusted any more.
    KeyRevoked {
        /// The key's id.
        key: String,
    },
}

impl Control {
    /// The control record's bytes.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] beyond [`CONTROL_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let bytes = AVRO.encode(self)?;
        within("the control record's size in bytes", bytes.len(), CONTROL_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Reads a control record.
    ///
    /// # Errors
    /// A [`Refusal`] when the bytes are too many or no control record, are of a newer format, or a number is out of its range.
    pub fn decode(bytes: &[u8]) -> Result<Control, Refusal> {
        within("the control record's size in bytes", bytes.len(), CONTROL_BYTES_MAX)?;
        let control: Control = AVRO.read(bytes)?;
        if control.format != FORMAT {
            return Err(Refusal::newer("control record", format!("number {}", control.format)));
        }
        check_time("control record", control.decided_at_ms)?;
        Ok(control)
    }
}
