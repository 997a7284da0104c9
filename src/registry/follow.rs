//! Replay the model log to its end, then follow it; fetch and reassemble an artifact.

use std::time::{Duration, Instant};

use crate::kafka::admin::Admin;
use crate::kafka::consumer::Record;
use crate::kafka::reader::{LogReader, Read, Start};
use crate::kafka::{self, Connection};
use crate::model::artifact::ARTIFACT_BYTES_MAX;
use crate::model::{Digest, Manifest, Refusal};

use super::state::{Change, State};
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
        Ok(Follower { reader, state: State::default(), caught_up: false })
    }

    /// What is known so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Waits at most `wait` for the next record and takes it in.
    ///
    /// # Errors
    /// What the reader reports; the next call tries again.
    pub fn turn(&mut self, wait: Duration) -> Result<Turn, Error> {
        match self.reader.next(wait)? {
            Read::Record(record) => {
                Ok(Turn::Change(self.state.apply(record.key().unwrap_or_default(), record.payload())))
            }
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
    let mut follower = Follower::start(connection, topics)?;
    let deadline = Instant::now() + REPLAY_TIMEOUT;
    let mut last_failure = None;
    while Instant::now() < deadline {
        match follower.turn(POLL) {
            Ok(Turn::CaughtUp) => return Ok(follower.state),
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

/// Reads the chunks that `manifest` names and puts them together; the bytes have the manifest's digest.
///
/// # Errors
/// When a chunk is absent, of another size than it should be, or the bytes have another digest; when Kafka fails.
pub fn fetch_artifact(connection: &Connection, topics: &Topics, manifest: &Manifest) -> Result<Vec<u8>, FetchError> {
    let mut assembler = Assembler::new(manifest)?;
    let chunks = manifest.chunks;
    let start = [(chunks.partition, Start::Offset(chunks.first_offset))];
    let reader = LogReader::open(connection, &topics.artifacts, &start)?;
    let mut deadline = Instant::now() + CHUNK_TIMEOUT;
    while !assembler.is_complete() {
        match reader.next(POLL) {
            Ok(Read::Record(record)) => {
                assembler.take(&record)?;
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

/// Puts the chunks of one artifact together, in order and within the size that the manifest promises.
struct Assembler<'m> {
    manifest: &'m Manifest,
    bytes: Vec<u8>,
    next_chunk: u32,
}

impl<'m> Assembler<'m> {
    fn new(manifest: &'m Manifest) -> Result<Assembler<'m>, Refusal> {
        if manifest.artifact_bytes > ARTIFACT_BYTES_MAX as u64 {
            let (actual, limit) = (manifest.artifact_bytes, ARTIFACT_BYTES_MAX as u64);
            return Err(Refusal::TooLarge { what: "the artifact's size in bytes", actual, limit });
        }
        Ok(Assembler { manifest, bytes: Vec::new(), next_chunk: 0 })
    }

    fn is_complete(&self) -> bool {
        self.next_chunk == self.manifest.chunks.count
    }

    fn take(&mut self, record: &Record<'_>) -> Result<(), Refusal> {
        if record.offset() > self.manifest.chunks.last_offset {
            return Err(self.incomplete("the last one's offset is passed"));
        }
        let key = chunk_key(&self.manifest.digest, self.next_chunk);
        // Other publishers' chunks may stand between ours.
        if record.key() != Some(key.as_bytes()) {
            return Ok(());
        }
        let payload = record.payload().unwrap_or_default();
        let room = self.manifest.artifact_bytes - self.bytes.len() as u64;
        if payload.is_empty() || payload.len() as u64 > room {
            let (chunk, bytes) = (self.next_chunk, payload.len());
            return Err(Refusal::Chunks(format!("chunk {chunk} has {bytes} bytes where 1 to {room} are left")));
        }
        self.bytes.extend_from_slice(payload);
        self.next_chunk += 1;
        Ok(())
    }

    fn incomplete(&self, why: &str) -> Refusal {
        let (have, count) = (self.next_chunk, self.manifest.chunks.count);
        Refusal::Chunks(format!("{have} of {count} found before {why}"))
    }

    fn finish(self) -> Result<Vec<u8>, Refusal> {
        if self.bytes.len() as u64 != self.manifest.artifact_bytes {
            let (have, expected) = (self.bytes.len(), self.manifest.artifact_bytes);
            return Err(Refusal::Chunks(format!("they hold {have} bytes, the manifest says {expected}")));
        }
        let actual = Digest::of(&self.bytes);
        if actual != self.manifest.digest {
            let expected = self.manifest.digest.to_string();
            return Err(Refusal::Digest { actual: actual.to_string(), expected });
        }
        Ok(self.bytes)
    }
}

/// The key of chunk `index` of the artifact with this digest.
pub(super) fn chunk_key(digest: &Digest, index: u32) -> String {
    format!("{digest}/{index}")
}
