//! `modelstream dead-letters replay`
//!
//! Dead letters go back in Kafka transactions, a chunk each: a crash leaves whole chunks or nothing of one. The transactional
//! id is made of the dead-letter topic, so two replays of one topic fence each other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::cli;
use crate::config::{self, ConfigError};
use crate::kafka::admin::Admin;
use crate::kafka::producer::{Outgoing, Producer, UNTAGGED};
use crate::kafka::settings::{REQUEST_TIMEOUT, TRANSACTION_TIMEOUT};
use crate::kafka::{self, Connection};

use super::letter::{Facts, Letter};
use super::scan::{Scan, Step};
use super::{Error, Tally, print, printable, say_left_out};

/// The most records of a transaction: enough that its commit costs little beside them.
const CHUNK_RECORDS_MAX: usize = 1_000;
/// The most bytes of a transaction, so that records near the size limit do not keep it open for long.
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a transaction may be open: meanwhile it hides from every read_committed reader what others write behind it, the
/// serving processes among them.
const CHUNK_OPEN_MAX: Duration = Duration::from_millis(500);
/// The stubs that are named; more are counted only.
const STUBS_NAMED_MAX: usize = 100;

/// Replays what is selected.
///
/// # Errors
/// When it cannot be read or sent; what was replayed before that is said.
pub fn run(common: &cli::Common, connection: &Connection, replay: &cli::DeadLettersReplay) -> Result<(), Error> {
    let selection = config::dead_letters(&replay.topic, &replay.filter, SystemTime::now())?;
    let targets = Targets::new(common, connection, replay, &selection.topic)?;
    let mut scan = Scan::open(connection, &selection)?;
    let mut replayer = Replayer {
        replay,
        targets,
        producer: match replay.dry_run {
            true => None,
            false => {
                Some(Producer::transactional(connection, &transactional_id(&selection.topic), TRANSACTION_TIMEOUT)?)
            }
        },
        chunk: None,
        unknown: false,
        counts: Counts::default(),
        committed: (Counts::default(), scan.next().clone()),
        started: Instant::now(),
    };
    let result = replayer.run(&mut scan);
    if result.is_err() {
        replayer.abort();
    }
    let (counts, next) = &replayer.committed;
    if let Err(error) = result {
        let (replayed, from) = (counts.replayed.total(), next_text(next));
        print::say(&format!("{replayed} were replayed before it failed; --from {from} continues behind them"));
        if replayer.unknown {
            print::say(
                "whether the transaction that failed was committed is not known: look at the topic before you continue",
            );
        }
        return Err(error);
    }
    say_left_out(&selection, &scan);
    match common.json {
        true => print::json(&counts.document(&selection.topic, replay.dry_run, next)),
        false => print::line(&counts.text(replay, &selection.topic, next)),
    }
}

fn transactional_id(topic: &str) -> String {
    format!("modelstream.replay.{topic}")
}

/// Where dead letters may go.
struct Targets {
    /// The partitions of the topics that there are, without those that a replay must not write to.
    partitions: BTreeMap<String, i32>,
    to_topic: Option<String>,
}

impl Targets {
    fn new(
        common: &cli::Common,
        connection: &Connection,
        replay: &cli::DeadLettersReplay,
        dead_letters: &str,
    ) -> Result<Targets, Error> {
        let log = config::topics(common)?;
        let mut partitions = Admin::new(connection)?.topics()?;
        // Whoever may write dead letters may name any topic in them, and what is sent is sent with the rights of who replays.
        let forbidden = |topic: &str| {
            topic.starts_with("__") || [dead_letters, &log.models, &log.artifacts, &log.status].contains(&topic)
        };
        if let Some(topic) = replay.to_topic.as_deref() {
            if forbidden(topic) {
                let rule = format!("--to-topic {topic}: dead letters are records, this topic holds something else");
                return Err(ConfigError::Relation(rule).into());
            }
            if !partitions.contains_key(topic) {
                return Err(kafka::Error::NoTopic { doing: format!("replaying to {topic}") }.into());
            }
        }
        partitions.retain(|topic, _| !forbidden(topic));
        Ok(Targets { partitions, to_topic: replay.to_topic.clone() })
    }

    /// The topic for a dead letter, and its partition where that is known: the one that its record had. Otherwise the key
    /// decides.
    fn of<'t>(&'t self, facts: &'t Facts) -> Option<(&'t str, Option<i32>)> {
        if let Some(topic) = &self.to_topic {
            return Some((topic, None));
        }
        let topic = facts.source_topic.as_deref()?;
        let partitions = *self.partitions.get(topic)?;
        Some((topic, facts.source_partition.filter(|partition| (0..partitions).contains(partition))))
    }
}

/// An open transaction.
struct Chunk {
    opened: Instant,
    records: usize,
    bytes: usize,
}

impl Chunk {
    fn is_due_in(&self, wait: Duration) -> bool {
        self.records >= CHUNK_RECORDS_MAX
            || self.bytes >= CHUNK_BYTES_MAX
            || self.opened.elapsed() + wait >= CHUNK_OPEN_MAX
    }
}

/// What became of the dead letters that were looked at.
#[derive(Debug, Clone, Default)]
struct Counts {
    replayed: Tally,
    by_attempts: u64,
    stubs: u64,
    stubs_named: Vec<String>,
    without_topic: u64,
}

struct Replayer<'a> {
    replay: &'a cli::DeadLettersReplay,
    targets: Targets,
    /// None of a dry run.
    producer: Option<Producer>,
    chunk: Option<Chunk>,
    /// The last commit failed, and may have succeeded all the same.
    unknown: bool,
    counts: Counts,
    /// What holds whatever comes: the counts, and where to read on, as of the last commit.
    committed: (Counts, BTreeMap<i32, i64>),
    started: Instant,
}

impl Replayer<'_> {
    fn run(&mut self, scan: &mut Scan<'_>) -> Result<(), Error> {
        while self.replay.limit.is_none_or(|limit| self.counts.replayed.total() < limit) {
            match scan.step()? {
                Step::Letter(letter) => self.take(&letter)?,
                Step::Other | Step::Waiting => {}
                Step::Finished => break,
            }
            let wait = self.wait();
            if self.chunk.as_ref().is_some_and(|chunk| chunk.is_due_in(wait)) {
                self.commit(scan.next())?;
            }
            std::thread::sleep(wait);
        }
        self.commit(scan.next())
    }

    /// Sends one, or counts why not.
    fn take(&mut self, letter: &Letter<'_>) -> Result<(), Error> {
        let facts = &letter.facts;
        if facts.stub {
            self.counts.stubs += 1;
            if self.counts.stubs_named.len() < STUBS_NAMED_MAX {
                self.counts.stubs_named.push(format!("{} ({})", facts.position(), facts.source()));
            }
            return Ok(());
        }
        if facts.attempt >= self.replay.max_attempts {
            self.counts.by_attempts += 1;
            return Ok(());
        }
        let Some((topic, partition)) = self.targets.of(facts) else {
            self.counts.without_topic += 1;
            return Ok(());
        };
        if let Some(producer) = &self.producer {
            let chunk = match &mut self.chunk {
                Some(chunk) => chunk,
                none => {
                    producer.begin_transaction()?;
                    none.insert(Chunk { opened: Instant::now(), records: 0, bytes: 0 })
                }
            };
            let make = || Outgoing {
                topic,
                partition,
                key: letter.record.key(),
                value: letter.record.payload(),
                timestamp_ms: letter.record.timestamp_ms(),
                headers: letter.replay_headers(),
            };
            producer.send_waiting(make, UNTAGGED, Instant::now() + REQUEST_TIMEOUT)?;
            chunk.records += 1;
            chunk.bytes += letter.record.len();
        }
        self.counts.replayed.count(&facts.reason);
        Ok(())
    }

    /// How long the next one waits for its turn.
    fn wait(&self) -> Duration {
        let Some(rate) = self.replay.rate.filter(|_| self.producer.is_some()) else { return Duration::ZERO };
        let due = self.started + Duration::from_secs_f64(self.counts.replayed.total() as f64 / f64::from(rate));
        due.saturating_duration_since(Instant::now())
    }

    fn commit(&mut self, next: &BTreeMap<i32, i64>) -> Result<(), Error> {
        if let (Some(producer), Some(chunk)) = (&self.producer, &self.chunk) {
            if let Err(error) = producer.commit_transaction() {
                self.unknown = !matches!(error, kafka::Error::Abortable { .. });
                return Err(error.into());
            }
            tracing::info!(records = chunk.records, next = next_text(next), "replayed a chunk");
        }
        self.chunk = None;
        self.committed = (self.counts.clone(), next.clone());
        Ok(())
    }

    /// Ends what is open at once: until then it hides from readers what others write behind it.
    fn abort(&self) {
        let Some(producer) = self.producer.as_ref().filter(|_| self.chunk.is_some() && !self.unknown) else { return };
        if let Err(error) = producer.abort_transaction() {
            tracing::warn!(%error, "the broker aborts it after {TRANSACTION_TIMEOUT:?}");
        }
    }
}

/// What `--from` takes.
fn next_text(next: &BTreeMap<i32, i64>) -> String {
    let positions: Vec<String> = next.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
    positions.join(",")
}

impl Counts {
    fn document(&self, topic: &str, dry_run: bool, next: &BTreeMap<i32, i64>) -> serde_json::Value {
        json!({
            "topic": topic,
            "dry_run": dry_run,
            "replayed": self.replayed.total(),
            "by_reason": self.replayed.0,
            "left_by_attempts": self.by_attempts,
            "left_stubs": self.stubs,
            "stubs": self.stubs_named,
            "left_without_topic": self.without_topic,
            "next": next_text(next),
        })
    }

    fn text(&self, replay: &cli::DeadLettersReplay, topic: &str, next: &BTreeMap<i32, i64>) -> String {
        let verb = if replay.dry_run { "would be replayed" } else { "replayed" };
        let mut lines = vec![format!("{} of {topic} {verb}{}", self.replayed.total(), self.replayed.text())];
        if self.by_attempts > 0 {
            let (left, attempts) = (self.by_attempts, replay.max_attempts);
            lines.push(format!("{left} left: they have failed {attempts} times or more (--max-attempts)"));
        }
        if self.stubs > 0 {
            let named = printable(&self.stubs_named.join(", "));
            let more = if self.stubs as usize > self.stubs_named.len() { ", …" } else { "" };
            lines.push(format!("{} left: stubs, their values were too large to copy: {named}{more}", self.stubs));
        }
        if self.without_topic > 0 {
            let left = self.without_topic;
            lines.push(format!(
                "{left} left: the topic that they came from is not there, or not for records (--to-topic names one)"
            ));
        }
        if !replay.dry_run {
            lines.push(format!("--from {} continues behind these", next_text(next)));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_goes_back_to_its_partition_where_that_still_is() {
        let partitions = BTreeMap::from([("in".to_owned(), 2)]);
        let targets = Targets { partitions: partitions.clone(), to_topic: None };
        let facts = |topic: &str, partition| Facts {
            source_topic: Some(topic.to_owned()),
            source_partition: Some(partition),
            ..Facts::default()
        };
        assert_eq!(targets.of(&facts("in", 1)), Some(("in", Some(1))));
        assert_eq!(targets.of(&facts("in", 2)), Some(("in", None)));
        assert_eq!(targets.of(&facts("in", -1)), Some(("in", None)));
        assert_eq!(targets.of(&facts("gone", 0)), None);
        assert_eq!(targets.of(&Facts::default()), None);
        let redirected = Targets { partitions, to_topic: Some("other".to_owned()) };
        assert_eq!(redirected.of(&facts("in", 1)), Some(("other", None)));
    }

    #[test]
    fn a_chunk_is_bounded_in_records_bytes_and_time() {
        let chunk = |records, bytes| Chunk { opened: Instant::now(), records, bytes };
        assert!(!chunk(1, 1).is_due_in(Duration::ZERO));
        assert!(chunk(CHUNK_RECORDS_MAX, 1).is_due_in(Duration::ZERO));
        assert!(chunk(1, CHUNK_BYTES_MAX).is_due_in(Duration::ZERO));
        assert!(chunk(1, 1).is_due_in(CHUNK_OPEN_MAX), "a slow rate does not keep it open");
    }
}
