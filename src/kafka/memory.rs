//! How much memory the clients of a lane may take.
//!
//! librdkafka bounds what it queues, but by counts of its own: a consumer's of values, without keys and headers, a producer's
//! likewise, and neither of the records that it keeps of them. What is added to those here was read in its source (2.12.1) and
//! measured; `tests/it/memory.rs` holds the sum against a real process.

use super::settings::{Connection, FETCH_BYTES, FETCH_QUEUE_KIB, FETCH_QUEUE_RECORDS, PRODUCE_QUEUE_KIB, number};

/// A fetched byte becomes at most so many in memory. It is the most that lz4 and snappy can do, and enough for the smallest of
/// records. gzip (1,032) and zstd (no limit) can do more, with contents that no one but an attacker sends.
pub const EXPANSION_MAX: u64 = 255;
/// A fetched record that waits, beside its value: librdkafka's record of it takes 320 bytes; the rest is for its key, its
/// headers and its frame, which librdkafka does not count.
const FETCHED_RECORD_BYTES: u64 = 1024;
/// A record to be sent, beside its bytes: librdkafka's record of it, its list of headers, and the allocator's share.
pub(super) const SENT_RECORD_BYTES: usize = 448;
/// A header to be sent, beside its name and value.
pub(super) const SENT_HEADER_BYTES: usize = 64;
/// Requests with records that are under way to one broker (`max.in.flight` of an idempotent producer, 5), one that waits and
/// one that is being made: each has a copy of its records.
const PRODUCE_REQUESTS: u64 = 7;
/// A request has records of one partition, up to `batch.size`, or one that is larger.
const PRODUCE_REQUEST_BYTES: u64 = 1_000_000;
/// A consumer and a producer keep so much of each partition that they know of, with its share of metadata and statistics.
const PARTITION_BYTES: u64 = 8 * 1024;

/// The limits of a lane's consumer and producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bytes of values that wait for the lane.
    pub fetch_queue_bytes: u64,
    /// Records that wait for the lane.
    pub fetch_queue_records: u64,
    /// Bytes of one answer to a fetch.
    pub fetch_bytes: u64,
    /// Bytes that wait for the broker.
    pub produce_queue_bytes: u64,
    /// The largest record that is sent.
    pub record_bytes: u64,
}

impl ClientLimits {
    /// The limits that hold with `connection`: ours, or the user's where a property sets another.
    pub fn of(connection: &Connection) -> ClientLimits {
        let (consumer, producer) = (connection.group_consumer("", None, "error"), connection.producer());
        let kib = |config, property, ours: u32| 1024 * number(config, property).unwrap_or(u64::from(ours));
        ClientLimits {
            fetch_queue_bytes: kib(&consumer, "queued.max.messages.kbytes", FETCH_QUEUE_KIB),
            fetch_queue_records: number(&consumer, "queued.min.messages").unwrap_or(u64::from(FETCH_QUEUE_RECORDS)),
            fetch_bytes: number(&consumer, "fetch.max.bytes").unwrap_or(u64::from(FETCH_BYTES)),
            produce_queue_bytes: kib(&producer, "queue.buffering.max.kbytes", PRODUCE_QUEUE_KIB),
            record_bytes: number(&producer, "message.max.bytes").unwrap_or(PRODUCE_REQUEST_BYTES),
        }
    }

    /// The most that a consumer holds whose partitions are led by `brokers`: its queue was one record short of full when each
    /// of them answered a fetch.
    pub fn consumer_bytes(&self, brokers: u64) -> u64 {
        let queue = self.fetch_queue_bytes + self.fetch_queue_records * FETCHED_RECORD_BYTES;
        queue + brokers * self.fetch_bytes * EXPANSION_MAX
    }

    /// The most that a producer to `brokers` holds. A record is there twice at most: as such, and in a request.
    pub fn producer_bytes(&self, brokers: u64) -> u64 {
        let requests = brokers * PRODUCE_REQUESTS * self.record_bytes.max(PRODUCE_REQUEST_BYTES);
        self.produce_queue_bytes + requests.min(self.produce_queue_bytes + self.record_bytes)
    }

    /// What both keep of so many partitions: the input's, the output's and the dead letters'.
    pub fn partition_bytes(partitions: u64) -> u64 {
        partitions * PARTITION_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_of_the_users_counts() {
        let properties = ["queued.min.messages=7", "fetch.max.bytes=1000000", "message.max.bytes=20000000"];
        let connection = Connection::new("b:1", &properties.map(str::to_owned)).expect("valid");
        let limits = ClientLimits::of(&connection);
        assert_eq!((limits.fetch_queue_records, limits.fetch_bytes, limits.record_bytes), (7, 1_000_000, 20_000_000));
        assert_eq!(limits.fetch_queue_bytes, u64::from(FETCH_QUEUE_KIB) * 1024);
    }

    #[test]
    fn each_broker_may_answer_at_once_and_requests_hold_no_more_than_the_queue() {
        let limits = ClientLimits {
            fetch_queue_bytes: 1_000,
            fetch_queue_records: 10,
            fetch_bytes: 100,
            produce_queue_bytes: 20_000_000,
            record_bytes: 1_000_000,
        };
        assert_eq!(limits.consumer_bytes(1), 1_000 + 10 * 1024 + 25_500);
        assert_eq!(limits.consumer_bytes(3) - limits.consumer_bytes(1), 2 * 25_500);
        assert_eq!(limits.producer_bytes(1), 27_000_000);
        assert_eq!(limits.producer_bytes(100), 41_000_000);
    }
}
