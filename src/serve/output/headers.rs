//! The headers of dead letters and of replayed records.
//!
//! Ours are always written, and `modelstream dead-letters` reads only them. Those of a convention that users have tools for
//! come in addition, behind the user's own headers: of several headers with one name, Kafka's clients give the last.

use std::time::SystemTime;

use crate::pipeline::Reason;

/// Why the record could not be scored, as a word of a closed set.
pub const REASON: &str = "modelstream-reason";
/// Why, in words for a person.
pub const MESSAGE: &str = "modelstream-message";
/// The consumer group that failed.
pub const GROUP: &str = "modelstream-group";
/// When it failed.
pub const FAILED_AT: &str = "modelstream-failed-at";
/// When it failed for the first time; a replayed record carries it along.
pub const FIRST_FAILED_AT: &str = "modelstream-first-failed-at";
/// How often it has failed by now: 1 for the first time; a replayed record carries it along.
pub const ATTEMPT: &str = "modelstream-attempt";
/// The record was too large to copy: this is a stub, which says where the record is.
pub const TRUNCATED: &str = "modelstream-truncated";
/// The convention whose headers stand here besides ours, so that a replay can leave them out.
pub const CONVENTION: &str = "modelstream-convention";
/// The model that was active.
pub const MODEL: &str = "modelstream-model";
/// Its version.
pub const VERSION: &str = "modelstream-version";
/// Its digest.
pub const DIGEST: &str = "modelstream-digest";
/// The topic that the record came from.
pub const SOURCE_TOPIC: &str = "modelstream-source-topic";
/// Its partition there.
pub const SOURCE_PARTITION: &str = "modelstream-source-partition";
/// Its offset there.
pub const SOURCE_OFFSET: &str = "modelstream-source-offset";

/// The highest attempt that is counted. No `--max-attempts` is higher, so a record that says more is never replayed.
pub const ATTEMPT_MAX: u32 = 1_000;
/// The longest time that is read: RFC 3339 with nanoseconds and room to spare.
const TIME_BYTES_MAX: usize = 40;

/// Kafka Connect's, in the order in which it writes them; without the stack trace, which there is none of.
const CONNECT: [&str; 9] = [
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "__connect.errors.connector.name",
    "__connect.errors.task.id",
    "__connect.errors.stage",
    "__connect.errors.class.name",
    "__connect.errors.exception.class.name",
    "__connect.errors.exception.message",
];
/// Spring Kafka's, in the order in which it writes them; without cause and stack trace, which there are none of.
const SPRING: [&str; 7] = [
    "kafka_dlt-exception-fqcn",
    "kafka_dlt-exception-message",
    "kafka_dlt-original-topic",
    "kafka_dlt-original-partition",
    "kafka_dlt-original-offset",
    "kafka_dlt-original-timestamp",
    "kafka_dlt-original-consumer-group",
];
/// Connect counts the tasks of a connector. Lanes come and go with their partitions, so a number would say nothing.
const CONNECT_TASK: &str = "0";
/// What failed, where the conventions want a class.
const CLASS: &str = "modelstream.serve";

/// Headers that other software writes on dead letters, and that users' tools look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Kafka Connect's, all of them text.
    Connect,
    /// Spring Kafka's, numbers as big-endian bytes.
    Spring,
}

/// What the conventions tell of a failure.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// The topic of the record.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// The consumer group.
    pub group: &'a str,
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub message: &'a str,
}

impl Convention {
    /// The convention of this name.
    pub fn named(name: &str) -> Option<Convention> {
        [Convention::Connect, Convention::Spring].into_iter().find(|convention| convention.name() == name)
    }

    /// Its name, as in `--dead-letter-headers`.
    pub fn name(self) -> &'static str {
        match self {
            Convention::Connect => "connect",
            Convention::Spring => "spring",
        }
    }

    /// The names of its headers.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Convention::Connect => &CONNECT,
            Convention::Spring => &SPRING,
        }
    }

    /// Its headers for this failure.
    pub fn headers(self, failure: &Failure<'_>) -> Vec<(&'static str, Vec<u8>)> {
        let exception = format!("modelstream.{}", failure.reason);
        let text = |text: &str| text.as_bytes().to_vec();
        match self {
            Convention::Connect => {
                let values = [
                    text(failure.topic),
                    failure.partition.to_string().into_bytes(),
                    failure.offset.to_string().into_bytes(),
                    text(failure.group),
                    text(CONNECT_TASK),
                    text(connect_stage(failure.reason)),
                    text(CLASS),
                    exception.into_bytes(),
                    text(failure.message),
                ];
                CONNECT.into_iter().zip(values).collect()
            }
            Convention::Spring => {
                let values = [
                    exception.into_bytes(),
                    text(failure.message),
                    text(failure.topic),
                    failure.partition.to_be_bytes().to_vec(),
                    failure.offset.to_be_bytes().to_vec(),
                    // Kafka's number for a record without a timestamp.
                    failure.timestamp_ms.unwrap_or(-1).to_be_bytes().to_vec(),
                    text(failure.group),
                ];
                SPRING.into_iter().zip(values).collect()
            }
        }
    }
}

/// Connect's word for the step that failed: a closed set of its own.
fn connect_stage(reason: Reason) -> &'static str {
    match reason {
        Reason::NullValue | Reason::Oversize | Reason::UnknownSchema | Reason::Undecodable | Reason::WrongShape => {
            "VALUE_CONVERTER"
        }
        Reason::MissingFeature
        | Reason::WrongType
        | Reason::NonFinite
        | Reason::UnknownCategory
        | Reason::ModelError
        | Reason::UnknownModel => "TRANSFORMATION",
        Reason::OutputOversize => "KAFKA_PRODUCE",
    }
}

/// What a record says of its former failures. It comes from outside: what does not parse counts as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// How often it has failed.
    pub attempt: u32,
    /// When it failed first.
    pub first_failed_at: Option<SystemTime>,
}

impl History {
    /// Reads it from a record's headers; `None` where the record was not replayed.
    pub fn of<'h>(headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>) -> Option<History> {
        let (mut attempt, mut first_failed_at) = (None, None);
        for (name, value) in headers {
            match name {
                ATTEMPT => attempt = value.and_then(parse_attempt),
                FIRST_FAILED_AT => first_failed_at = value.and_then(parse_time),
                _ => {}
            }
        }
        attempt.map(|attempt| History { attempt, first_failed_at })
    }

    /// The number of the failure that comes now.
    pub fn next_attempt(&self) -> u32 {
        self.attempt.saturating_add(1).min(ATTEMPT_MAX)
    }
}

/// Reads an [`ATTEMPT`].
pub fn parse_attempt(bytes: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|attempt| (1..=ATTEMPT_MAX).contains(attempt))
}

/// Reads a time as [`format_time`] writes it.
pub fn parse_time(bytes: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= TIME_BYTES_MAX)?;
    humantime::parse_rfc3339(text).ok()
}

/// Writes a time: RFC 3339 with milliseconds.
pub fn format_time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const FAILURE: Failure<'_> = Failure {
        topic: "iris.features",
        partition: 258,
        offset: 4_294_967_297,
        timestamp_ms: Some(1_700_000_000_123),
        group: "g",
        reason: Reason::MissingFeature,
        message: "petal_width is missing – ä",
    };

    #[test]
    fn connects_headers_are_text() {
        let text = |(name, value): &(&'static str, Vec<u8>)| (*name, String::from_utf8(value.clone()).expect("text"));
        let headers: Vec<(&str, String)> = Convention::Connect.headers(&FAILURE).iter().map(text).collect();
        let expected = [
            ("__connect.errors.topic", "iris.features"),
            ("__connect.errors.partition", "258"),
            ("__connect.errors.offset", "4294967297"),
            ("__connect.errors.connector.name", "g"),
            ("__connect.errors.task.id", "0"),
            ("__connect.errors.stage", "TRANSFORMATION"),
            ("__connect.errors.class.name", "modelstream.serve"),
            ("__connect.errors.exception.class.name", "modelstream.missing_feature"),
            ("__connect.errors.exception.message", "petal_width is missing – ä"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn springs_numbers_are_big_endian_bytes() {
        let headers = Convention::Spring.headers(&FAILURE);
        let expected: [(&str, &[u8]); 7] = [
            ("kafka_dlt-exception-fqcn", b"modelstream.missing_feature"),
            ("kafka_dlt-exception-message", "petal_width is missing – ä".as_bytes()),
            ("kafka_dlt-original-topic", b"iris.features"),
            ("kafka_dlt-original-partition", &[0, 0, 1, 2]),
            ("kafka_dlt-original-offset", &[0, 0, 0, 1, 0, 0, 0, 1]),
            ("kafka_dlt-original-timestamp", &[0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x7b]),
            ("kafka_dlt-original-consumer-group", b"g"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_vec())));
        let timeless = Convention::Spring.headers(&Failure { timestamp_ms: None, ..FAILURE });
        assert_eq!(timeless[5].1, [0xff; 8]);
    }

    #[test]
    fn a_convention_has_one_name() {
        for convention in [Convention::Connect, Convention::Spring] {
            assert_eq!(Convention::named(convention.name()), Some(convention));
            let written: Vec<&str> = convention.headers(&FAILURE).iter().map(|(name, _)| *name).collect();
            assert_eq!(written, convention.names());
        }
        assert_eq!(Convention::named("modelstream"), None);
    }

    #[test]
    fn a_history_from_outside_is_believed_only_where_it_parses() {
        let of = |attempt: &'static [u8], first: &'static [u8]| {
            History::of([("user", None), (ATTEMPT, Some(attempt)), (FIRST_FAILED_AT, Some(first))].into_iter())
        };
        let known = of(b"2", b"1970-01-01T00:00:01.500Z").expect("a history");
        assert_eq!(known.first_failed_at, Some(UNIX_EPOCH + Duration::from_millis(1_500)));
        assert_eq!(known.next_attempt(), 3);
        assert_eq!(of(b"1000", b"").map(|history| history.next_attempt()), Some(ATTEMPT_MAX));
        for garbage in [&b""[..], b"0", b"-1", b"+1", b"1.5", b"1001", b"99999999999999999999", b"\xff", b" 1"] {
            assert_eq!(of(garbage, b"1970-01-01T00:00:01Z"), None, "{garbage:?}");
        }
        for garbage in [&b""[..], b"yesterday", b"\xff", b"99999-01-01T00:00:00Z", &[b'1'; 5_000]] {
            assert_eq!(of(b"1", garbage).map(|history| history.first_failed_at), Some(None), "{garbage:?}");
        }
        assert_eq!(History::of([(FIRST_FAILED_AT, Some(&b"1970-01-01T00:00:01Z"[..]))].into_iter()), None);
        assert_eq!(History::of([(ATTEMPT, None)].into_iter()), None);
    }

    #[test]
    fn a_time_is_read_as_it_was_written() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(format_time(time), "2023-11-14T22:13:20.123Z");
        assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
    }
}
