//! Publish an artifact: its chunks, then its manifest, in one Kafka transaction.
//!
//! A publish that dies half-way is an aborted transaction, which no reader sees. The same bytes are stored once for each model:
//! a version whose artifact is there already is a manifest that names the chunks of the former one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kafka::{self, Connection};
use crate::model::artifact::{Digested, Evaluation};
use crate::model::manifest::{Chunks, Compression, FORMAT, Stored, chunk_key};
use crate::model::{Artifact, Digest, Manifest, Refusal, Signature};

use super::record::version_key;
use super::selector::is_model_name;
use super::state::{Entry, State};
use super::stored::compressed;
use super::writer::{Author, WRITE_TIMEOUT, Writer};
use super::{CHUNK_BYTES, Error, Topics};

/// The partition of the artifacts topic that chunks go to: one, so that an artifact's chunks stand in order.
const ARTIFACTS_PARTITION: i32 = 0;
/// The slowest line that an artifact is published over, in bytes a second. Until the publish has ended, or the broker aborted it
/// after the time that this gives, it hides the artifacts that others publish.
const LINE_BYTES_A_SECOND: u64 = 2_000_000;
/// The longest that a broker lets a transaction be open, by its default `transaction.max.timeout.ms`.
const TRANSACTION_TIMEOUT_MAX: Duration = Duration::from_secs(900);

/// Where an artifact's bytes are. They are read twice, so that a large file need not be in memory.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In memory.
    Bytes(&'a [u8]),
    /// In a file.
    File(&'a Path),
}

impl<'a> Source<'a> {
    /// From the first byte on.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self) -> io::Result<Box<dyn BufRead + 'a>> {
        match self {
            Source::Bytes(bytes) => Ok(Box::new(*bytes)),
            Source::File(path) => Ok(Box::new(BufReader::new(File::open(path)?))),
        }
    }
}

/// What is published, and as what.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The version to claim; `None` takes the next one.
    pub version: Option<u64>,
    /// The artifact's bytes.
    pub source: Source<'a>,
    /// A sentence for the model card.
    pub note: String,
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The version's manifest.
    pub manifest: Manifest,
    /// The version was there already, with the same bytes: nothing was written.
    pub already_there: bool,
}

/// Publishes a version. `progress` is told how many of the artifact's bytes were read to be sent.
///
/// # Errors
/// When the bytes are no artifact or fail the checks that a server makes, the version is taken, another writer about this
/// model came after us, or Kafka fails. Then nothing was published.
pub fn publish(
    connection: &Connection,
    topics: &Topics,
    author: &Author,
    request: &Request<'_>,
    progress: impl FnMut(usize),
) -> Result<Published, Error> {
    if !is_model_name(request.model) {
        return Err(Error::BadName(request.model.to_owned()));
    }
    let Card { algorithm, hyper_parameters, signature, evaluation, bytes, digest } = checked(request)?;
    let timeout = (WRITE_TIMEOUT + Duration::from_secs(bytes / LINE_BYTES_A_SECOND)).min(TRANSACTION_TIMEOUT_MAX);
    let (writer, state) = Writer::take_over(connection, topics, author, request.model, timeout)?;
    let version = match claim(&state, request, digest)? {
        Claim::Version(version) => version,
        Claim::AlreadyThere(manifest) => return Ok(Published { manifest: *manifest, already_there: true }),
    };
    writer.transact(|| {
        let (chunks, stored) = match twin(&state, request.model, digest) {
            Some(twin) => (twin.chunks, twin.stored),
            None => write(&writer, topics, request, (bytes, digest), timeout, progress)?,
        };
        let manifest = Manifest {
            format: FORMAT,
            model: request.model.to_owned(),
            version,
            digest,
            artifact_bytes: bytes,
            chunks,
            algorithm,
            hyper_parameters,
            signature,
            evaluation,
            published_at_ms: now_ms(),
            published_by: author.name.clone(),
            note: request.note.clone(),
            sequence: state.next_sequence(request.model),
            stored,
        };
        let value = manifest.encode().map_err(|refusal| refused(request, refusal))?;
        writer.put(&version_key(request.model, version), Some(&value))?;
        Ok(Published { manifest, already_there: false })
    })
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn refused(request: &Request<'_>, refusal: Refusal) -> Error {
    Error::Refused { model: request.model.to_owned(), version: request.version.unwrap_or_default(), refusal }
}

/// What a manifest says of its artifact.
struct Card {
    /// The number of its bytes.
    bytes: u64,
    digest: Digest,
    algorithm: String,
    hyper_parameters: BTreeMap<String, String>,
    signature: Signature,
    evaluation: Evaluation,
}

/// What a server would refuse is not published.
fn checked(request: &Request<'_>) -> Result<Card, Error> {
    let mut source = Digested::new(request.source.open().map_err(Error::Artifact)?);
    let artifact = Artifact::read(&mut source).map_err(|refusal| refused(request, refusal))?;
    let (bytes, digest) = source.finish();
    let card = Card {
        bytes,
        digest,
        algorithm: artifact.algorithm.clone(),
        hyper_parameters: artifact.hyper_parameters.clone(),
        signature: artifact.signature.clone(),
        evaluation: artifact.evaluation.clone(),
    };
    artifact.into_model().map_err(|refusal| refused(request, refusal))?;
    Ok(card)
}

enum Claim {
    Version(u64),
    AlreadyThere(Box<Manifest>),
}

fn claim(state: &State, request: &Request<'_>, digest: Digest) -> Result<Claim, Error> {
    let next = state.next_version(request.model);
    let Some(version) = request.version else { return Ok(Claim::Version(next)) };
    let taken = |existing: String| Error::VersionTaken { model: request.model.to_owned(), version, existing, next };
    match state.versions(request.model).and_then(|versions| versions.get(&version)) {
        Some(Entry::Manifest(manifest)) if manifest.digest == digest => Ok(Claim::AlreadyThere(manifest.clone())),
        Some(Entry::Manifest(manifest)) => Err(taken(format!("digest {}", manifest.digest))),
        Some(Entry::Refused(refusal)) => Err(taken(format!("a manifest that is refused ({})", refusal.reason()))),
        None if state.steering(request.model).pruned.contains(&version) => Err(taken("bytes that were removed".into())),
        None => Ok(Claim::Version(version)),
    }
}

/// A version of the model with the same bytes, whose chunks can be named again.
fn twin<'s>(state: &'s State, model: &str, digest: Digest) -> Option<&'s Manifest> {
    let versions = state.versions(model)?.values().rev();
    let manifests = versions.filter_map(|entry| match entry {
        Entry::Manifest(manifest) => Some(manifest.as_ref()),
        Entry::Refused(_) => None,
    });
    // Of an older format the chunks have keys that a newer one does not look for.
    manifests.into_iter().find(|manifest| manifest.digest == digest && manifest.format == FORMAT)
}

fn write(
    writer: &Writer<'_>,
    topics: &Topics,
    request: &Request<'_>,
    (bytes, digest): (u64, Digest),
    timeout: Duration,
    progress: impl FnMut(usize),
) -> Result<(Chunks, Option<Stored>), Error> {
    let deadline = Instant::now() + timeout;
    let source = request.source.open().map_err(Error::Artifact)?;
    let mut stored = compressed(Counted { source, progress }, bytes).map_err(Error::Artifact)?;
    let (mut count, mut stored_bytes, mut hasher) = (0, 0, Digest::hasher());
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        chunk.clear();
        stored.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(Error::Artifact)?;
        if chunk.is_empty() {
            break;
        }
        let key = chunk_key(FORMAT, request.model, &digest, count);
        count += 1;
        writer.put_chunk(ARTIFACTS_PARTITION, &key, Some(&chunk), count, deadline)?;
        stored_bytes += chunk.len() as u64;
        hasher.update(&chunk);
    }
    let chunks = delivered_chunks(writer, topics, count, deadline)?;
    let digest = hasher.finish();
    Ok((chunks, Some(Stored { compression: Compression::Zstd, bytes: stored_bytes, digest })))
}

/// Waits for the chunks' delivery: the manifest says where they are.
fn delivered_chunks(writer: &Writer<'_>, topics: &Topics, count: u32, deadline: Instant) -> Result<Chunks, Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    let delivered_in_time = writer.producer.flush(left);
    if let Some(failure) = writer.producer.take_failure() {
        return Err(failure.into());
    }
    let delivered = writer.producer.take_delivered();
    let offset_of = |tag: u32| delivered.iter().find(|delivered| delivered.tag == tag).map(|found| found.offset);
    match (offset_of(1), offset_of(count)) {
        (Some(first_offset), Some(last_offset)) if delivered_in_time && delivered.len() == count as usize => {
            Ok(Chunks { partition: ARTIFACTS_PARTITION, first_offset, last_offset, count })
        }
        _ => {
            let doing = format!("delivering chunks to {}", topics.artifacts);
            Err(kafka::Error::TimedOut { doing, seconds: left.as_secs() }.into())
        }
    }
}

/// Tells how much was read.
struct Counted<R, F> {
    source: R,
    progress: F,
}

impl<R: BufRead, F: FnMut(usize)> io::Read for Counted<R, F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead, F: FnMut(usize)> BufRead for Counted<R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        (self.progress)(count);
        self.source.consume(count);
    }
}
