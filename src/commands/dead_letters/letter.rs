//! A dead letter as it is read back.
//!
//! Whoever may write to the topic may write anything: every field is bounded, and what does not parse counts as absent.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::DeadLetterSelection;
use crate::kafka::consumer::Record;
use crate::kafka::producer::Headers;
use crate::pipeline::record::DEAD_LETTER_MESSAGE_BYTES_MAX;
use crate::serve::output::HEADER_PREFIX;
use crate::serve::output::headers::{self, Convention};

/// The longest name that is kept of a header or key: a topic's has 249 bytes at most.
const NAME_BYTES_MAX: usize = 256;

/// What a dead letter says of itself.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub partition: i32,
    pub offset: i64,
    pub reason: String,
    pub message: String,
    pub group: String,
    pub model: String,
    pub version: String,
    pub digest: String,
    pub failed_at: Option<SystemTime>,
    pub first_failed_at: Option<SystemTime>,
    /// How often it has failed.
    pub attempt: u32,
    pub source_topic: Option<String>,
    pub source_partition: Option<i32>,
    pub source_offset: Option<i64>,
    /// It is a stub: its record was too large to copy.
    pub stub: bool,
    pub convention: Option<Convention>,
    pub timestamp_ms: Option<i64>,
    pub key: Option<String>,
    pub value_bytes: usize,
}

/// A record of a dead-letter topic that a serving process wrote.
pub struct Letter<'r> {
    pub facts: Facts,
    pub record: Record<'r>,
}

impl<'r> Letter<'r> {
    /// Reads what `record` says; `None` when it has no reason, so that it is not one of ours.
    pub fn read(record: Record<'r>) -> Option<Letter<'r>> {
        let mut facts = Facts::of(record.headers());
        facts.partition = record.partition();
        facts.offset = record.offset();
        facts.timestamp_ms = record.timestamp_ms();
        facts.key = record.key().map(|key| text(key, NAME_BYTES_MAX));
        facts.value_bytes = record.payload().map_or(0, <[u8]>::len);
        (!facts.reason.is_empty()).then_some(Letter { facts, record })
    }

    /// The headers of the record that it is a copy of, followed by what a replay says of its failures.
    pub fn replay_headers(&self) -> Headers {
        let Facts { convention, attempt, first_failed_at, .. } = self.facts;
        let headers = match convention {
            None => Headers::default().with_those_of(&self.record, HEADER_PREFIX),
            Some(convention) => {
                let all: Vec<(&str, Option<&[u8]>)> = self.record.headers().collect();
                let users = users_headers(&all, convention);
                // The producer takes no header without a value here: it goes on as an empty one.
                users.fold(Headers::default(), |headers, (name, value)| headers.with(name, value.unwrap_or_default()))
            }
        };
        let headers = headers.with(headers::ATTEMPT, attempt.to_string().as_bytes());
        match first_failed_at {
            None => headers,
            Some(time) => headers.with(headers::FIRST_FAILED_AT, headers::format_time(time).as_bytes()),
        }
    }
}

/// All headers but ours and the last of each name of the convention, which was written with ours.
fn users_headers<'h>(
    all: &'h [(&'h str, Option<&'h [u8]>)],
    convention: Convention,
) -> impl Iterator<Item = (&'h str, Option<&'h [u8]>)> {
    let last = |name: &str| all.iter().rposition(|(other, _)| *other == name);
    let written: Vec<usize> = convention.names().iter().filter_map(|name| last(name)).collect();
    all.iter()
        .enumerate()
        .filter(move |(index, (name, _))| !name.starts_with(HEADER_PREFIX) && !written.contains(index))
        .map(|(_, header)| *header)
}

impl Facts {
    fn of<'h>(headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>) -> Facts {
        let mut facts = Facts { attempt: 1, ..Facts::default() };
        for (name, value) in headers {
            let bytes = value.unwrap_or_default();
            let name_of = || text(bytes, NAME_BYTES_MAX);
            match name {
                headers::REASON => facts.reason = name_of(),
                headers::MESSAGE => facts.message = text(bytes, DEAD_LETTER_MESSAGE_BYTES_MAX),
                headers::GROUP => facts.group = name_of(),
                headers::MODEL => facts.model = name_of(),
                headers::VERSION => facts.version = name_of(),
                headers::DIGEST => facts.digest = name_of(),
                headers::FAILED_AT => facts.failed_at = headers::parse_time(bytes),
                headers::FIRST_FAILED_AT => facts.first_failed_at = headers::parse_time(bytes),
                // What cannot be read must not be replayed for ever: it counts as the highest.
                headers::ATTEMPT => facts.attempt = headers::parse_attempt(bytes).unwrap_or(headers::ATTEMPT_MAX),
                headers::SOURCE_TOPIC => facts.source_topic = Some(name_of()),
                headers::SOURCE_PARTITION => facts.source_partition = name_of().parse().ok(),
                headers::SOURCE_OFFSET => facts.source_offset = name_of().parse().ok(),
                headers::TRUNCATED => facts.stub = true,
                headers::CONVENTION => facts.convention = Convention::named(&name_of()),
                _ => {}
            }
        }
        facts.first_failed_at = facts.first_failed_at.or(facts.failed_at);
        facts
    }

    /// Whether it is one of those that are meant; its position and topic were looked at before.
    pub fn is_meant_by(&self, selection: &DeadLetterSelection) -> bool {
        let reason = selection.reasons.is_empty() || selection.reasons.contains(&self.reason);
        // Without a time it cannot be said to be within one.
        let since = selection.since.is_none_or(|since| self.failed_at.is_some_and(|failed| failed >= since));
        let until = selection.until.is_none_or(|until| self.failed_at.is_some_and(|failed| failed < until));
        reason && since && until
    }

    /// `topic partition:offset` of the record that it is a copy of.
    pub fn source(&self) -> String {
        let number = |number: Option<i64>| number.map_or("?".to_owned(), |number| number.to_string());
        let topic = self.source_topic.as_deref().unwrap_or("?");
        format!("{topic} {}:{}", number(self.source_partition.map(i64::from)), number(self.source_offset))
    }

    /// `partition:offset` in the dead-letter topic.
    pub fn position(&self) -> String {
        format!("{}:{}", self.partition, self.offset)
    }

    /// As JSON.
    pub fn document(&self) -> Value {
        let time = |time: Option<SystemTime>| time.map(headers::format_time);
        json!({
            "partition": self.partition,
            "offset": self.offset,
            "reason": self.reason,
            "message": self.message,
            "failed_at": time(self.failed_at),
            "first_failed_at": time(self.first_failed_at),
            "attempt": self.attempt,
            "source_topic": self.source_topic,
            "source_partition": self.source_partition,
            "source_offset": self.source_offset,
            "group": self.group,
            "model": self.model,
            "version": self.version.parse::<u64>().ok(),
            "digest": self.digest,
            "timestamp": self.timestamp_ms,
            "key": self.key,
            "value_bytes": self.value_bytes,
            "stub": self.stub,
        })
    }
}

/// At most `limit` bytes as text.
fn text(bytes: &[u8], limit: usize) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(limit)]).into_owned();
    text.truncate(text.floor_char_boundary(limit));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_says_nothing_sensible_is_bounded_and_never_replayed() {
        let long = vec![b'x'; 100_000];
        let garbage = [headers::REASON, headers::MESSAGE, headers::ATTEMPT, headers::SOURCE_OFFSET, headers::FAILED_AT];
        let facts = Facts::of(garbage.into_iter().map(|name| (name, Some(&long[..]))));
        assert_eq!((facts.reason.len(), facts.message.len()), (NAME_BYTES_MAX, DEAD_LETTER_MESSAGE_BYTES_MAX));
        assert_eq!((facts.attempt, facts.source_offset, facts.failed_at), (headers::ATTEMPT_MAX, None, None));
    }

    #[test]
    fn of_a_conventions_headers_only_those_that_we_wrote_are_left_out() {
        let all: [(&str, Option<&[u8]>); 6] = [
            (headers::REASON, Some(b"oversize")),
            ("kafka_dlt-original-topic", Some(b"the user's own")),
            ("traceparent", Some(b"00")),
            ("empty", None),
            ("kafka_dlt-exception-fqcn", Some(b"ours")),
            ("kafka_dlt-original-topic", Some(b"ours")),
        ];
        let users: Vec<_> = users_headers(&all, Convention::Spring).collect();
        assert_eq!(users, [all[1], all[2], all[3]]);
    }
}
