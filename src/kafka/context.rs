//! What librdkafka tells every client besides records: log lines, errors, statistics.

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics as Raw;

/// What librdkafka says about itself each [`super::settings::STATISTICS_INTERVAL`], as far as anyone looks at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statistics {
    /// Bytes sent to brokers since the start.
    pub sent_bytes: u64,
    /// Bytes received from brokers since the start.
    pub received_bytes: u64,
    /// Whether a connection to at least one broker is up.
    pub connected: bool,
    /// The mean round trip to the slowest broker in the last interval, in seconds.
    pub round_trip_seconds: f64,
    /// The partitions of the consumer's topic.
    pub partitions: Vec<PartitionStatistics>,
}

/// What librdkafka says about a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStatistics {
    /// The partition.
    pub partition: i32,
    /// The offset behind the last record that a read_committed reader may see.
    pub end_offset: i64,
    /// Whether everything before it was handed out. The last offset may be of no record, but the end of a transaction.
    pub drained: bool,
}

/// Reads librdkafka's statistics; `None` where they are not valid JSON, which some versions produce (librdkafka #5378).
pub(super) fn parse_statistics(json: &[u8], topic: &str) -> Option<Statistics> {
    let raw: Raw = serde_json::from_slice(json).ok()?;
    let round_trips = raw.brokers.values().filter_map(|broker| broker.rtt.as_ref()).map(|rtt| rtt.avg);
    let partitions = raw.topics.get(topic).map(|topic| topic.partitions.values()).into_iter().flatten();
    let partitions = partitions.filter(|partition| partition.partition >= 0).filter_map(|partition| {
        let end_offset = if partition.ls_offset >= 0 { partition.ls_offset } else { partition.hi_offset };
        let drained = partition.next_offset >= end_offset && partition.fetchq_cnt == 0;
        (end_offset >= 0).then_some(PartitionStatistics { partition: partition.partition, end_offset, drained })
    });
    Some(Statistics {
        sent_bytes: u64::try_from(raw.tx_bytes).unwrap_or(0),
        received_bytes: u64::try_from(raw.rx_bytes).unwrap_or(0),
        connected: raw.brokers.values().any(|broker| broker.state == "UP"),
        round_trip_seconds: round_trips.max().unwrap_or(0) as f64 / 1e6,
        partitions: partitions.collect(),
    })
}

pub(super) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    use RDKafkaLogLevel as Level;
    match level {
        // A user's property goes to consumers and producers alike; that one of them has no use for it is no news.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", facility, "{line}"),
        Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
            tracing::warn!(target: "librdkafka", facility, "{line}");
        }
        Level::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        Level::Notice | Level::Info => tracing::info!(target: "librdkafka", facility, "{line}"),
        Level::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

/// Errors that come here are librdkafka's own to recover from; those that end something come back from a call.
pub(super) fn error(error: &KafkaError, reason: &str) {
    // The end of a partition comes as a result of the poll too.
    if matches!(error, KafkaError::PartitionEOF(_))
        || error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF)
    {
        return;
    }
    // Said once for each attempt of each client; the log line that says why stands beside it.
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        return;
    }
    tracing::warn!(target: "librdkafka", %error, "{reason}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_that_are_not_valid_are_none_and_no_panic() {
        let valid = serde_json::to_string(&Raw::default()).expect("JSON");
        assert_eq!(parse_statistics(valid.as_bytes(), "in"), Some(Statistics::default()));
        for (valid_part, invalid_part) in [("0", "nan"), ("0", "-inf"), ("0", "1e400"), ("\"", ""), ("{", "{{")] {
            let invalid = valid.replacen(valid_part, invalid_part, 1);
            assert_eq!(parse_statistics(invalid.as_bytes(), "in"), None, "{invalid}");
        }
        for length in 0..valid.len() {
            assert_eq!(parse_statistics(&valid.as_bytes()[..length], "in"), None, "cut at {length}");
        }
        assert_eq!(parse_statistics(b"\xff\x00", "in"), None);
    }
}
