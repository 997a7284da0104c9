//! What a serving process is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::kafka::Connection;
use crate::kafka::consumer::OffsetReset;
use crate::pipeline::{InputFormat, OutputFormat, Route};
use crate::registry::{Selector, Topics};

use super::delivery::{CommitLimits, Promise};
use super::output::headers::Convention;

/// Everything that a serving process is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to reach the cluster.
    pub connection: Connection,
    /// The model log, and where the process reports.
    pub topics: Topics,
    /// The models to serve; no name stands there twice.
    pub models: Vec<Selector>,
    /// The longest time that scoring a golden row may take: a version that takes longer is refused.
    pub row_budget: Duration,
    /// Where copies of the last good versions are kept for a start without the model log.
    pub cache: Option<PathBuf>,
    /// The number of lanes of each input.
    pub lanes: usize,
    /// What the lanes share: for each input topic, of which none stands there twice.
    pub inputs: Vec<LaneSettings>,
    /// How records are written.
    pub input_format: InputFormat,
    /// How predictions are written.
    pub output_format: OutputFormat,
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// How long a lane may make no progress although records wait, before the process ends.
    pub stall_timeout: Duration,
    /// How the process reports on the status topic.
    pub report: ReportSettings,
}

/// How a process reports on the status topic.
#[derive(Debug, Clone)]
pub struct ReportSettings {
    /// The name of its machine.
    pub host: String,
    /// How often it reports when nothing changes.
    pub interval: Duration,
}

impl Settings {
    /// The number of lanes of the process. They are numbered through, input by input, so that what is named after a lane is
    /// named once: transactional ids, static members, series.
    pub(super) fn all_lanes(&self) -> usize {
        self.lanes * self.inputs.len()
    }
}

/// What all lanes of a process share that read one input topic.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// The topic with the records.
    pub input: String,
    /// The names of the models that score them: one at least, only one without a route.
    pub models: Vec<String>,
    /// How a record says which of them it is for.
    pub route: Option<Route>,
    /// The topic for the predictions.
    pub output: String,
    /// The topic for records that cannot be scored.
    pub dead_letters: String,
    /// Whose headers dead letters carry besides ours.
    pub dead_letter_headers: Option<Convention>,
    /// The consumer group.
    pub group: String,
    /// Where a partition starts whose committed offset does not exist.
    pub offset_reset: OffsetReset,
    /// The most records of a batch.
    pub batch_records: usize,
    /// What is promised when something dies.
    pub exactly_once: bool,
    /// What tells this process from the others of its group, for transactional ids, static members and reports.
    pub instance: String,
    /// Whether lanes are static members of the group: a restart within the session timeout is no rebalance.
    pub static_membership: bool,
    /// When a commit is due.
    pub commit: CommitLimits,
    /// The largest share of dead letters that does not stop the flow.
    pub dead_letter_share_max: f64,
    /// How long a stopping lane finishes what it has.
    pub drain_timeout: Duration,
}

impl LaneSettings {
    /// What lane `lane` of the process promises.
    pub(super) fn promise(&self, lane: usize) -> Promise {
        match self.exactly_once {
            true => {
                let id = format!("modelstream.{}.{}.{lane}", self.group, self.instance);
                Promise::ExactlyOnce { transactional_ids: [id.clone(), format!("{id}.2")] }
            }
            false => Promise::AtLeastOnce,
        }
    }

    /// The static member's name of lane `lane`.
    pub(super) fn member(&self, lane: usize) -> Option<String> {
        self.static_membership.then(|| format!("modelstream.{}.{lane}", self.instance))
    }
}
