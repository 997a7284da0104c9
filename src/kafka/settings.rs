//! How to reach the cluster, and what every client of ours is configured with.

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// How long a one-shot request (metadata, creating a topic, reading a model) may take before its command gives up.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A group member that sends no heartbeat for this long is out.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
/// A lane that does not poll for this long is out; a batch and a commit fit in many times over.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);
/// A publish that is open longer is aborted by the broker: time for a large artifact on a slow line. Until then it hides
/// what others publish after it.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(120);
/// A lane's transaction that is open longer is aborted by the broker; until then it hides what others write after it. Longer
/// than any commit takes, shorter than the session.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often librdkafka reports its statistics, from which the lag is read.
pub const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of values that wait for a lane, of all its partitions together; librdkafka's default is 64 MiB. A lane needs what
/// comes while a full queue is left alone and the next fetch is under way: a few megabytes.
pub const FETCH_QUEUE_KIB: u32 = 16 * 1024;
/// Records that wait for a lane, of all its partitions together: librdkafka's documentation says "per partition", but these
/// queues are forwarded into one, and the one is looked at. Tiny records fill memory by their number, not by their bytes.
pub const FETCH_QUEUE_RECORDS: u32 = 20_000;
/// How soon a full queue is looked at again. In librdkafka's default of a second a lane empties the queue and runs dry: with
/// ten milliseconds and a fifth of the records a lane was faster by a third.
pub const FETCH_QUEUE_BACKOFF: Duration = Duration::from_millis(10);
/// Bytes that a broker answers one fetch with, compressed as they were sent. They are accepted whatever the queue holds
/// already, from each broker once, and may become [`EXPANSION_MAX`](super::memory::EXPANSION_MAX) times as many in memory:
/// with librdkafka's default of 52 MB that is no bound at all. One batch of records that is larger comes even so. On a line
/// of 2 ms a broker still gives 100 MB/s. It costs where each fetch names a thousand partitions: 180k records a second
/// instead of the 300k of a megabyte; whoever has a lane like that sets the property.
pub const FETCH_BYTES: u32 = 256 * 1024;
/// `message.max.bytes` of librdkafka.
const MESSAGE_BYTES: u32 = 1_000_000;
/// Bytes that wait for the broker, with all that a record takes: librdkafka's own count is of values alone, and keys, headers
/// and its records of them are several times a small prediction. When it is full, the lane takes no more records. Enough for
/// what a lane makes in a hundred milliseconds.
pub const PRODUCE_QUEUE_KIB: u32 = 48 * 1024;
/// Records that wait for the broker.
pub const PRODUCE_QUEUE_RECORDS: u32 = 100_000;
/// How long a producer without transactions waits for a request to fill, unless [`Connection::with_linger`] says otherwise.
pub const LINGER: Duration = Duration::from_millis(2);
/// How long a transactional one does. Nobody sees a record before the commit, which waits for none of it. A record that has waited
/// for longer while its partition's one request is under way makes librdkafka's thread spin: so it is longer than an answer takes.
const TRANSACTION_LINGER: Duration = Duration::from_millis(20);
/// How long records without a key stay with one partition of a transaction, each of which costs it an entry at the coordinator, its
/// verification and a marker; librdkafka's default is 10 ms.
const TRANSACTION_STICKY_LINGER: Duration = Duration::from_millis(25);
/// What a reader without a group may have waiting: chunks of an artifact, of half a megabyte each, or dead letters.
const READER_QUEUE_KIB: u32 = 4 * 1024;

/// Properties that are ours: a promise rests on them, or they load code.
const RESERVED: [(&str, &str); 17] = [
    ("bootstrap.servers", "use --brokers"),
    ("metadata.broker.list", "use --brokers"),
    ("group.id", "use --group"),
    ("group.instance.id", "use --static-membership and --instance"),
    ("enable.auto.commit", "offsets are committed after delivery"),
    ("enable.auto.offset.store", "offsets are committed after delivery"),
    ("isolation.level", "records of aborted transactions must stay unseen"),
    ("auto.offset.reset", "use --offset-reset"),
    ("partition.assignment.strategy", "lanes rebalance cooperatively"),
    ("enable.partition.eof", "the model log's end is found by it"),
    ("transactional.id", "it is made from group, host and lane"),
    ("enable.idempotence", "retries must not double a record"),
    ("acks", "a record that one replica lost is lost"),
    ("request.required.acks", "a record that one replica lost is lost"),
    ("partitioner", "keys must land where Java clients put them"),
    ("statistics.interval.ms", "the lag and the watchdog need them"),
    ("plugin.library.paths", "it loads code"),
];

/// How to reach the cluster.
#[derive(Clone)]
pub struct Connection {
    brokers: String,
    properties: Vec<(String, String)>,
    linger: Duration,
}

/// A `-X` property that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PropertyError {
    #[error("-X {0}: expected KEY=VALUE")]
    NoValue(String),
    #[error("-X {property}: this property is not yours to set ({reason})")]
    Reserved { property: String, reason: &'static str },
}

impl Connection {
    /// Takes the bootstrap addresses and `KEY=VALUE` properties.
    ///
    /// # Errors
    /// When a property has no value, or is one on which a promise rests.
    pub fn new(brokers: &str, properties: &[String]) -> Result<Connection, PropertyError> {
        let properties = properties.iter().map(|property| parse_property(property)).collect::<Result<_, _>>()?;
        Ok(Connection { brokers: brokers.to_owned(), properties, linger: LINGER })
    }

    /// The same, but producers without transactions wait for `linger`, in whole milliseconds, for a request to fill.
    pub fn with_linger(self, linger: Duration) -> Connection {
        Connection { linger, ..self }
    }

    /// The bootstrap addresses.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The configuration that all clients share. The user's properties come last, so they win over our defaults.
    fn client(&self, ours: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        // Whoever sets librdkafka's `debug` wants to read what it says then.
        let is_debugged = self.properties.iter().any(|(key, _)| key == "debug");
        config.set_log_level(if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config.set("bootstrap.servers", &self.brokers).set("client.id", "modelstream");
        // A new topic or a moved leader is seen within this time, not within librdkafka's five minutes.
        config.set("topic.metadata.refresh.interval.ms", "30000");
        // A broker that comes back is found within this time, not within librdkafka's ten seconds.
        config.set("reconnect.backoff.max.ms", "2000");
        for (key, value) in ours {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.client(&[])
    }

    /// A member of a consumer group that commits what we tell it, when we tell it.
    pub(super) fn group_consumer(&self, group: &str, member: Option<&str>, offset_reset: &str) -> ClientConfig {
        let (session, poll) = (millis(SESSION_TIMEOUT), millis(MAX_POLL_INTERVAL));
        let statistics = millis(STATISTICS_INTERVAL);
        let (queue, records) = (FETCH_QUEUE_KIB.to_string(), FETCH_QUEUE_RECORDS.to_string());
        let (fetch, backoff) = (FETCH_BYTES.to_string(), millis(FETCH_QUEUE_BACKOFF));
        let mut config = self.client(&[
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("auto.offset.reset", offset_reset),
            ("allow.auto.create.topics", "false"),
            ("session.timeout.ms", &session),
            // A member learns of a rebalance by its next heartbeat; until all have, the group stands still.
            ("heartbeat.interval.ms", "1000"),
            ("max.poll.interval.ms", &poll),
            ("statistics.interval.ms", &statistics),
            ("queued.max.messages.kbytes", &queue),
            ("queued.min.messages", &records),
            ("fetch.queue.backoff.ms", &backoff),
            ("fetch.max.bytes", &fetch),
            // The broker answers as soon as it has anything; with more it waits and throughput falls by two thirds.
            ("fetch.wait.max.ms", "50"),
        ]);
        receive_only(&mut config);
        if let Some(member) = member {
            config.set("group.instance.id", member);
        }
        config
    }

    /// A reader without a group: every byte is checked, ends of partitions are told.
    pub(super) fn reader(&self) -> ClientConfig {
        let (queue, backoff) = (READER_QUEUE_KIB.to_string(), millis(FETCH_QUEUE_BACKOFF));
        let mut config = self.client(&[
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            ("check.crcs", "true"),
            ("fetch.wait.max.ms", "50"),
            ("queued.max.messages.kbytes", &queue),
            ("queued.min.messages", "10000"),
            ("fetch.queue.backoff.ms", &backoff),
            ("fetch.max.bytes", "1048576"),
        ]);
        receive_only(&mut config);
        config
    }

    /// An idempotent producer.
    pub(super) fn producer(&self) -> ClientConfig {
        self.producer_with(&[("linger.ms", &millis(self.linger))])
    }

    fn producer_with(&self, more: &[(&str, &str)]) -> ClientConfig {
        let (kib, records) = (PRODUCE_QUEUE_KIB.to_string(), PRODUCE_QUEUE_RECORDS.to_string());
        let common = [
            ("enable.idempotence", "true"),
            // librdkafka's default puts keys elsewhere than Java's clients do.
            ("partitioner", "murmur2_random"),
            ("compression.type", "lz4"),
            // How long records wait for a topic that is not there: less than a transaction may take, or they would wait for ever.
            ("topic.metadata.propagation.max.ms", "5000"),
            ("queue.buffering.max.kbytes", &kib),
            ("queue.buffering.max.messages", &records),
        ];
        self.client(&[&common, more].concat())
    }

    /// A transactional producer.
    pub(super) fn transactional_producer(&self, transactional_id: &str, timeout: Duration) -> ClientConfig {
        let (linger, sticky) = (millis(TRANSACTION_LINGER), millis(TRANSACTION_STICKY_LINGER));
        let mut config = self.producer_with(&[("linger.ms", &linger), ("sticky.partitioning.linger.ms", &sticky)]);
        config.set("transactional.id", transactional_id);
        config.set("transaction.timeout.ms", millis(timeout));
        config
    }
}

impl fmt::Debug for Connection {
    /// Names properties, never values: one may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("Connection").field("brokers", &self.brokers).field("properties", &names).finish()
    }
}

/// What a client that only receives can do without: librdkafka refuses to fetch less at once than `message.max.bytes`, which
/// is about what is sent, and which a user raises for large dead letters.
fn receive_only(config: &mut ClientConfig) {
    let fetch = number(config, "fetch.max.bytes").unwrap_or(u64::from(MESSAGE_BYTES));
    config.set("message.max.bytes", fetch.min(u64::from(MESSAGE_BYTES)).to_string());
}

/// A property's number, where it has one.
pub(super) fn number(config: &ClientConfig, property: &str) -> Option<u64> {
    config.get(property)?.parse().ok()
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn parse_property(property: &str) -> Result<(String, String), PropertyError> {
    let Some((key, value)) = property.split_once('=') else {
        return Err(PropertyError::NoValue(property.to_owned()));
    };
    match RESERVED.iter().find(|(reserved, _)| *reserved == key) {
        Some((_, reason)) => Err(PropertyError::Reserved { property: key.to_owned(), reason }),
        None => Ok((key.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_cannot_be_broken_by_a_property() {
        let refused = Connection::new("b:1", &["acks=1".to_owned()]).expect_err("reserved");
        assert!(matches!(refused, PropertyError::Reserved { ref property, .. } if property == "acks"));
        assert_eq!(
            Connection::new("b:1", &["linger.ms".to_owned()]).err(),
            Some(PropertyError::NoValue("linger.ms".into()))
        );
    }

    #[test]
    fn the_users_property_wins_over_our_default() {
        let connection = Connection::new("b:1", &["linger.ms=50".to_owned()]).expect("valid");
        assert_eq!(connection.producer().get("linger.ms"), Some("50"));
        assert_eq!(connection.producer().get("enable.idempotence"), Some("true"));
        let transactional = connection.transactional_producer("t", Duration::from_secs(1));
        assert_eq!(transactional.get("linger.ms"), Some("50"));
    }

    #[test]
    fn a_profiles_linger_is_for_producers_without_transactions() {
        let connection = Connection::new("b:1", &[]).expect("valid").with_linger(Duration::ZERO);
        assert_eq!(connection.producer().get("linger.ms"), Some("0"));
        let transactional = connection.transactional_producer("t", Duration::from_secs(1));
        assert_eq!(transactional.get("linger.ms"), Some("20"));
        assert_eq!(connection.group_consumer("g", None, "error").get("linger.ms"), None);
    }

    #[test]
    fn what_may_be_sent_does_not_limit_what_is_fetched() {
        let larger = Connection::new("b:1", &["message.max.bytes=20000000".to_owned()]).expect("valid");
        assert_eq!(larger.producer().get("message.max.bytes"), Some("20000000"));
        let consumer = larger.group_consumer("g", None, "error");
        assert_eq!(number(&consumer, "fetch.max.bytes"), number(&consumer, "message.max.bytes"));
        consumer.create_native_config().expect("librdkafka takes it");
        let fetch = Connection::new("b:1", &["fetch.max.bytes=50000000".to_owned()]).expect("valid");
        assert_eq!(fetch.group_consumer("g", None, "error").get("message.max.bytes"), Some("1000000"));
    }

    #[test]
    fn a_password_is_never_printed() {
        let connection = Connection::new("b:1", &["sasl.password=geheim".to_owned()]).expect("valid");
        let text = format!("{connection:?}");
        assert!(text.contains("sasl.password") && !text.contains("geheim"), "{text}");
    }
}
