//! Records that a lane fetched together, and how many of them have their output.

use crate::kafka;
use crate::kafka::consumer::Record;

/// One batch; empty between two.
#[derive(Default)]
pub(super) struct Batch<'c> {
    pub(super) records: Vec<Record<'c>>,
    /// The first so many have their output.
    pub(super) sent: usize,
}

impl Batch<'_> {
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.records.len()
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.sent = 0;
    }

    /// Gives up what is not sent: whoever has the partitions reads it again.
    pub(super) fn abandon(&self) -> Result<(), kafka::Error> {
        match self.records.len() - self.sent {
            0 => Ok(()),
            unsent => Err(kafka::Error::Other {
                doing: "giving partitions back".to_owned(),
                cause: format!("{unsent} records of the batch were not sent in time"),
                fatal: false,
            }),
        }
    }
}
