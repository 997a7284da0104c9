//! Publish an artifact: its chunks, then its manifest, in one Kafka transaction.
//!
//! A publish that dies half-way is an aborted transaction, which no reader sees. The transactional id is that of the model
//! in its model log, so a second publisher of the same model fences the first, and a version number is given once: the number is read after the
//! fencing, when no other publisher of this model can commit any more.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use crate::kafka::settings::PUBLISH_TIMEOUT;
use crate::kafka::{self, Connection};
use crate::model::artifact::FORMAT;
use crate::model::manifest::Chunks;
use crate::model::{Artifact, Digest, Manifest};

use super::chunks::chunk_key;
use super::follow::{read_state, require_topics};
use super::state::{Entry, State, is_model_name, version_key};
use super::{CHUNK_BYTES, Error, Topics};

/// The partition of the artifacts topic that chunks go to: one, so that an artifact's chunks stand in order.
const ARTIFACTS_PARTITION: i32 = 0;

/// What is published, and as what.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The version to claim; `None` takes the next one.
    pub version: Option<u64>,
    /// The artifact's bytes.
    pub bytes: &'a [u8],
    /// Who publishes: `user@host`.
    pub published_by: String,
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

/// Publishes a version. `progress` is told how many bytes were handed over.
///
/// # Errors
/// When the bytes are no artifact or fail the checks that a server makes, the version is taken, another publisher of this
/// model came after us, or Kafka fails. Then nothing was published.
pub fn publish(
    connection: &Connection,
    topics: &Topics,
    request: &Request<'_>,
    mut progress: impl FnMut(usize),
) -> Result<Published, Error> {
    if !is_model_name(request.model) {
        return Err(Error::BadName(request.model.to_owned()));
    }
    let artifact = checked(request)?;
    require_topics(connection, topics)?;
    let transactional_id = format!("modelstream.publish.{}.{}", topics.models, request.model);
    let producer = Producer::transactional(connection, &transactional_id, PUBLISH_TIMEOUT)?;
    let state = read_state(connection, topics)?;
    let digest = Digest::of(request.bytes);
    let version = match claim(&state, request, digest)? {
        Claim::Version(version) => version,
        Claim::AlreadyThere(manifest) => return Ok(Published { manifest: *manifest, already_there: true }),
    };
    producer.begin_transaction()?;
    let result = write(&producer, topics, request, digest, &mut progress).and_then(|chunks| {
        let manifest = manifest(request, artifact, version, digest, chunks);
        write_manifest(&producer, topics, &manifest)?;
        producer.commit_transaction()?;
        Ok(Published { manifest, already_there: false })
    });
    result.map_err(|error| {
        // What a fenced producer reports of its records says less than why it was fenced.
        let cause = producer.fatal_error("publishing");
        // Best effort: what is left open, the broker aborts itself.
        let _ = producer.abort_transaction();
        cause.map_or(error, Error::Kafka)
    })
}

/// What a server would refuse is not published.
fn checked(request: &Request<'_>) -> Result<Artifact, Error> {
    let refused = |refusal| {
        let version = request.version.unwrap_or_default();
        Error::Refused { model: request.model.to_owned(), version, refusal }
    };
    let artifact = Artifact::decode(request.bytes).map_err(refused)?;
    artifact.clone().into_model().map_err(refused)?;
    Ok(artifact)
}

enum Claim {
    Version(u64),
    AlreadyThere(Box<Manifest>),
}

fn claim(state: &State, request: &Request<'_>, digest: Digest) -> Result<Claim, Error> {
    let next = state.next_version(request.model);
    let Some(version) = request.version else { return Ok(Claim::Version(next)) };
    match state.versions(request.model).and_then(|versions| versions.get(&version)) {
        None => Ok(Claim::Version(version)),
        Some(Entry::Manifest(manifest)) if manifest.digest == digest => Ok(Claim::AlreadyThere(manifest.clone())),
        Some(entry) => {
            let existing = match entry {
                Entry::Manifest(manifest) => manifest.digest.to_string(),
                Entry::Refused(_) => "unknown (its manifest is damaged)".to_owned(),
            };
            Err(Error::VersionTaken { model: request.model.to_owned(), version, existing, next })
        }
    }
}

fn write(
    producer: &Producer,
    topics: &Topics,
    request: &Request<'_>,
    digest: Digest,
    progress: &mut impl FnMut(usize),
) -> Result<Chunks, Error> {
    let deadline = Instant::now() + PUBLISH_TIMEOUT;
    let mut count = 0;
    for chunk in request.bytes.chunks(CHUNK_BYTES) {
        let key = chunk_key(&digest, count);
        let make = || Outgoing {
            topic: &topics.artifacts,
            partition: Some(ARTIFACTS_PARTITION),
            key: Some(key.as_bytes()),
            value: Some(chunk),
            timestamp_ms: None,
            headers: Headers::default(),
        };
        count += 1;
        producer.send_waiting(make, count, deadline)?;
        progress(chunk.len());
    }
    delivered_chunks(producer, topics, count, deadline)
}

/// Waits for the chunks' delivery: the manifest says where they are.
fn delivered_chunks(producer: &Producer, topics: &Topics, count: u32, deadline: Instant) -> Result<Chunks, Error> {
    let delivered_in_time = producer.flush(deadline.saturating_duration_since(Instant::now()));
    if let Some(failure) = producer.take_failure() {
        return Err(failure.into());
    }
    let delivered = producer.take_delivered();
    let offset_of = |tag: u32| delivered.iter().find(|delivered| delivered.tag == tag).map(|found| found.offset);
    match (offset_of(1), offset_of(count)) {
        (Some(first_offset), Some(last_offset)) if delivered_in_time && delivered.len() == count as usize => {
            Ok(Chunks { partition: ARTIFACTS_PARTITION, first_offset, last_offset, count })
        }
        _ => {
            let doing = format!("delivering chunks to {}", topics.artifacts);
            Err(kafka::Error::TimedOut { doing, seconds: PUBLISH_TIMEOUT.as_secs() }.into())
        }
    }
}

fn manifest(request: &Request<'_>, artifact: Artifact, version: u64, digest: Digest, chunks: Chunks) -> Manifest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Manifest {
        format: FORMAT,
        model: request.model.to_owned(),
        version,
        digest,
        artifact_bytes: request.bytes.len() as u64,
        chunks,
        algorithm: artifact.algorithm,
        hyper_parameters: artifact.hyper_parameters,
        signature: artifact.signature,
        evaluation: artifact.evaluation,
        published_at_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        published_by: request.published_by.clone(),
        note: request.note.clone(),
    }
}

fn write_manifest(producer: &Producer, topics: &Topics, manifest: &Manifest) -> Result<(), Error> {
    let refused = |refusal| {
        let (model, version) = (manifest.model.clone(), manifest.version);
        Error::Refused { model, version, refusal }
    };
    let (key, value) = (version_key(&manifest.model, manifest.version), manifest.encode().map_err(refused)?);
    let make = || Outgoing {
        topic: &topics.models,
        partition: Some(0),
        key: Some(key.as_bytes()),
        value: Some(&value),
        timestamp_ms: None,
        headers: Headers::default(),
    };
    Ok(producer.send_waiting(make, UNTAGGED, Instant::now() + PUBLISH_TIMEOUT)?)
}
