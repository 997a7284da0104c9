//! The most memory that a serving process takes: the sum of its limits, without the models.
//!
//! Pure: [`Bound::of`] adds up what [`Limits`] says. The terms of librdkafka are in [`crate::kafka::memory`].

use crate::kafka::memory::ClientLimits;

use super::lane::BATCH_BYTES_MAX;

/// What a process takes before it has a lane: code, threads, the HTTP server, metrics, the reader of the model log with up to
/// four megabytes of chunks, the producer of one report at a time, and what the allocator keeps of what was freed.
const BASE_BYTES: u64 = 64 * 1024 * 1024;
/// What each model beyond the first adds to that: the thread that follows it, with a reader of the model log of its own. Measured: 13 MB
/// with small models; an artifact has up to four megabytes of chunks on their way.
const FURTHER_MODEL_BYTES: u64 = 24 * 1024 * 1024;
/// Decoded rows, answers and predictions of a lane. Without it, two thousand records of a model with twenty thousand classes
/// would take gigabytes. A lane that serves several models keeps buffers for each, so each has its share of this.
pub const SCORED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A buffer that grows has up to twice what it holds.
const GROWTH: u64 = 2;
/// A batch ends with the records that were taken together with the one that fills it: at most what the fetch queue held, and one
/// that was larger than that.
const LAST_RECORD_BYTES: u64 = 10 * 1024 * 1024;

/// Of a finished record until its commit: its timestamp.
const FINISHED_RECORD_BYTES: u64 = 8;
/// Commits whose records are kept: the one that is being filled and the one that is being made.
const COMMITS: u64 = 2;

/// Everything that bounds a process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Its models.
    pub models: u64,
    /// Its lanes.
    pub lanes: u64,
    /// Of the clients of each.
    pub clients: ClientLimits,
    /// Records of one commit; the most where there are several inputs.
    pub commit_records: u64,
    /// Brokers that may lead partitions of the input; the most where there are several inputs.
    pub brokers: u64,
    /// Partitions of input, output and dead letters; likewise.
    pub partitions: u64,
}

/// The declared bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// What the process takes without lanes.
    pub base: u64,
    /// What each lane adds.
    pub lane: u64,
    /// Both, with all lanes.
    pub total: u64,
}

impl Bound {
    /// Adds the limits up.
    pub fn of(limits: &Limits) -> Bound {
        let Limits { models, lanes, clients, commit_records, brokers, partitions } = limits;
        let records = BATCH_BYTES_MAX as u64 + clients.fetch_queue_bytes + LAST_RECORD_BYTES;
        let batch = records + GROWTH * SCORED_BYTES_MAX as u64;
        let finished = GROWTH * COMMITS * FINISHED_RECORD_BYTES * commit_records;
        let partitions = ClientLimits::partition_bytes(*partitions);
        let lane = clients.consumer_bytes(*brokers) + clients.producer_bytes(*brokers) + batch + finished + partitions;
        let base = BASE_BYTES + models.saturating_sub(1) * FURTHER_MODEL_BYTES;
        Bound { base, lane, total: base + lanes * lane }
    }
}

/// How many records of `usual` fit one batch when each takes `scored_bytes` there, in a lane that serves so many `models`; at
/// least one.
pub fn batch_records(usual: usize, scored_bytes: usize, models: usize) -> usize {
    usual.min(SCORED_BYTES_MAX / models.max(1) / scored_bytes.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Connection;

    const MIB: u64 = 1024 * 1024;

    fn limits(clients: ClientLimits, models: u64, lanes: u64, brokers: u64, partitions: u64) -> Limits {
        Limits { models, lanes, clients, commit_records: 250_000, brokers, partitions }
    }

    fn bound(lanes: u64, brokers: u64, partitions: u64) -> Bound {
        let clients = ClientLimits::of(&Connection::new("b:1", &[]).expect("no properties"));
        Bound::of(&limits(clients, 1, lanes, brokers, partitions))
    }

    #[test]
    fn the_bound_of_the_defaults() {
        let one = bound(1, 1, 12);
        assert_eq!(one.total, one.base + one.lane);
        assert_eq!(one.total / MIB, 275);
        assert_eq!(bound(4, 1, 12).total, one.base + 4 * one.lane);
        let three_brokers = bound(1, 3, 12).lane - one.lane;
        assert!((140..160).contains(&(three_brokers / MIB)), "two more answers and their requests: {three_brokers}");
        assert_eq!((bound(1, 1, 3_000).lane - bound(1, 1, 0).lane) / MIB, 23);
        let clients = ClientLimits::of(&Connection::new("b:1", &[]).expect("no properties"));
        let three_models = Bound::of(&limits(clients, 3, 1, 1, 12));
        assert_eq!((three_models.lane, three_models.total - one.total), (one.lane, 2 * FURTHER_MODEL_BYTES));
    }

    #[test]
    fn wide_records_come_in_smaller_batches() {
        assert_eq!(batch_records(2_000, 300, 1), 2_000);
        assert_eq!(batch_records(2_000, 900_000, 1), 9);
        assert_eq!(batch_records(2_000, 900_000, 3), 3, "each of three models may have all records of a batch");
        assert_eq!(batch_records(2_000, 2 * SCORED_BYTES_MAX, 1), 1);
    }

    #[test]
    fn a_property_of_the_users_is_part_of_it() {
        let larger = Connection::new("b:1", &["fetch.max.bytes=1048576".to_owned()]).expect("valid");
        let clients = ClientLimits::of(&larger);
        let larger = Bound::of(&limits(clients, 1, 1, 1, 12));
        assert!(larger.total - bound(1, 1, 12).total > 190 * MIB);
    }
}
