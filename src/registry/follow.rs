//! Replay the model log to its end, then follow it; fetch an artifact.

use std::time::{Duration, Instant};

use crate::kafka::admin::Admin;
use crate::kafka::reader::{LogReader, Read, Start};
use crate::kafka::{self, Connection};
use crate::model::{Manifest, Refusal};

use super::chunks::Assembler;
use super::record::LogRecord;
use super::state::{Change, State};
use super::stored::StoredArtifact;
use super::{CHUNK_TIMEOUT, Error, REPLAY_TIMEOUT, Topics};

/// How long one wait for the next record lasts: the longest that a stop is not seen.
const POLL: Duration = Duration::from_millis(200);

/// Follows the models topic from its beginning.
pub struct Follower {
    reader: LogReader,
    state: State,
    caught_up: bool,
}

/// What a [`Follower::turn`] brought.
#[derive(Debug, PartialEq)]
pub enum Turn {
    /// A record was taken in.
    Change(Change),
    /// Everything that was there when the follower came was taken in. Once.
    CaughtUp,
    /// Nothing new.
    Nothing,
}

impl Follower {
    /// Starts to read the models topic.
    ///
    /// # Errors
    /// When a setting is not valid. An absent topic or broker shows in [`Follower::turn`].
    pub fn start(connection: &Connection, topics: &Topics) -> Result<Follower, Error> {
        let reader = LogReader::open(connection, &topics.models, &[(0, Start::Beginning)])?;
        Ok(Follower { reader, state: State::new(topics), caught_up: false })
    }

    /// What is known so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is known, where nobody follows any more.
    pub(super) fn into_state(self) -> State {
        self.state
    }

    /// Waits at most `wait` for the next record and takes it in.
    ///
    /// # Errors
    /// What the reader reports; the next call tries again.
    pub fn turn(&mut self, wait: Duration) -> Result<Turn, Error> {
        match self.reader.next(wait)? {
            Read::Record(record) => Ok(Turn::Change(self.state.apply(&LogRecord::of(&record)))),
            Read::End(_) if !self.caught_up => {
                self.caught_up = true;
                Ok(Turn::CaughtUp)
            }
            Read::End(_) | Read::Nothing => Ok(Turn::Nothing),
        }
    }
}

/// Reads the whole models topic once.
///
/// # Errors
/// When the topic does not exist, no broker answers, or it takes longer than [`REPLAY_TIMEOUT`].
pub fn read_state(connection: &Connection, topics: &Topics) -> Result<State, Error> {
    require_topics(connection, topics)?;
    Ok(replay(connection, topics)?.into_state())
}

/// A follower that has read the models topic to its end, which has to exist.
///
/// # Errors
/// When no broker answers, or it takes longer than [`REPLAY_TIMEOUT`].
pub fn replay(connection: &Connection, topics: &Topics) -> Result<Follower, Error> {
    let mut follower = Follower::start(connection, topics)?;
    let deadline = Instant::now() + REPLAY_TIMEOUT;
    let mut last_failure = None;
    while Instant::now() < deadline {
        match follower.turn(POLL) {
            Ok(Turn::CaughtUp) => return Ok(follower),
            Ok(Turn::Change(_) | Turn::Nothing) => {}
            // One broker of several, or all for a moment.
            Err(failure @ Error::Kafka(kafka::Error::Unreachable { .. })) => last_failure = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    let doing = format!("reading {}", topics.models);
    let timed_out = kafka::Error::TimedOut { doing, seconds: REPLAY_TIMEOUT.as_secs() };
    Err(last_failure.unwrap_or(timed_out.into()))
}

/// Checks that the model log exists.
///
/// # Errors
/// [`Error::NoModelLog`] when one of its topics is not there; when no broker answers.
pub fn require_topics(connection: &Connection, topics: &Topics) -> Result<(), Error> {
    let admin = Admin::new(connection)?;
    for topic in [&topics.models, &topics.artifacts] {
        if admin.partitions(topic)?.is_none() {
            return Err(Error::NoModelLog(topic.clone()));
        }
    }
    Ok(())
}

/// What went wrong while an artifact was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Kafka did; worth another attempt.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// The chunks are not what the manifest says; another attempt would read the same.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads the chunks that `manifest` names and puts them together; they have the manifest's digest. `progress` is told how many
/// bytes came.
///
/// # Errors
/// When a chunk is absent, of another size than it should be, or the bytes have another digest; when Kafka fails.
pub fn fetch_artifact(
    connection: &Connection,
    topics: &Topics,
    manifest: &Manifest,
    mut progress: impl FnMut(u64),
) -> Result<StoredArtifact, FetchError> {
    let mut assembler = Assembler::new(manifest)?;
    let chunks = manifest.chunks;
    let start = [(chunks.partition, Start::Offset(chunks.first_offset))];
    let reader = LogReader::open(connection, &topics.artifacts, &start)?;
    let mut deadline = Instant::now() + CHUNK_TIMEOUT;
    while !assembler.is_complete() {
        match reader.next(POLL) {
            Ok(Read::Record(record)) => {
                let before = assembler.bytes();
                assembler.take(record.offset(), record.key(), record.payload())?;
                progress(assembler.bytes() - before);
                deadline = Instant::now() + CHUNK_TIMEOUT;
            }
            Ok(Read::End(_)) => return Err(assembler.incomplete("the topic ends").into()),
            Err(kafka::Error::OffsetGone { .. }) => {
                return Err(assembler.incomplete("they were deleted from the topic").into());
            }
            Ok(Read::Nothing) | Err(kafka::Error::Unreachable { .. }) if Instant::now() < deadline => {}
            Ok(Read::Nothing) => {
                let doing = format!("fetching {}:{}", manifest.model, manifest.version);
                return Err(kafka::Error::TimedOut { doing, seconds: CHUNK_TIMEOUT.as_secs() }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(assembler.finish()?)
}
