//! Follows the model log; verifies; swaps. Off the lanes, on a thread of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::kafka::{self, Connection};
use crate::model::{Artifact, Digest, Manifest, Refusal};
use crate::pipeline::{InputFormat, OutputFormat, ServedModel};
use crate::registry::follow::{FetchError, Follower, Turn, fetch_artifact};
use crate::registry::state::{Change, Entry};
use crate::registry::stored::StoredArtifact;
use crate::registry::{self, Selector, Topics};
use crate::shutdown::Stop;
use crate::telemetry::Metrics;

use super::active::Active;
use super::cache::Cache;
use super::output::headers::format_time;

/// How long one wait for the model log lasts: the longest that a stop is not seen.
const POLL: Duration = Duration::from_millis(200);
/// How long the model log is left alone after an error.
const RETRY: Duration = Duration::from_secs(1);
/// When it is said first that there is no model yet: reading the log takes less.
const FIRST_NOTICE: Duration = Duration::from_secs(3);
/// How long the model log has to be read before a copy on disk is served, where one is kept.
const LOG_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is said again.
const WAITING_NOTICE: Duration = Duration::from_secs(30);

/// What `/status` says about the model.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct ModelStatus {
    /// What is followed: `iris`.
    pub selector: String,
    /// The active version.
    pub version: Option<u64>,
    /// The version that the selector wants, active or not.
    pub wanted: Option<u64>,
    /// Its digest.
    pub digest: Option<String>,
    /// Its algorithm.
    pub algorithm: Option<String>,
    /// When it was activated (RFC 3339).
    pub since: Option<String>,
    /// It is the copy of a former time: what the model log says since then is not known.
    pub stale: bool,
    /// The version that is being fetched.
    pub loading: Option<Loading>,
    /// Refused versions with the reason.
    pub refused: BTreeMap<u64, String>,
    /// The refusal that came last.
    pub last_refusal: Option<LastRefusal>,
}

/// The refusal that came last.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LastRefusal {
    /// The version.
    pub version: u64,
    /// The reason.
    pub why: String,
    /// When it was refused (RFC 3339).
    pub at: String,
}

/// How far a version is fetched.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Loading {
    /// The version.
    pub version: u64,
    /// The stored bytes that came.
    pub bytes: u64,
    /// Of how many.
    pub of: u64,
}

/// What is asked of a model beside what its artifact says.
#[derive(Debug, Clone)]
pub struct Demands {
    /// The records that it has to read.
    pub input: InputFormat,
    /// The predictions that it has to write.
    pub output: OutputFormat,
    /// The longest time that scoring a golden row may take.
    pub row_budget: Duration,
}

/// Follows one selector of the model log and keeps [`Active`] at the best version that passes every check.
pub struct ModelWatch {
    connection: Connection,
    topics: Topics,
    selector: Selector,
    demands: Demands,
    cache: Option<Cache>,
    active: Arc<Active>,
    metrics: Arc<Metrics>,
    status: Arc<Mutex<ModelStatus>>,
    /// What was fetched and refused, by version: not fetched again.
    refused: BTreeMap<u64, Digest>,
    started: Instant,
    /// When the copy on disk was looked at last.
    copy_tried: Option<Instant>,
    /// Former models that a lane may still hold; freed here, not on the lane.
    retired: Vec<Arc<ServedModel>>,
}

/// Why no version was activated just now.
enum Outcome {
    /// The best version is active.
    Settled,
    /// Kafka failed; try again.
    Again,
}

impl ModelWatch {
    /// Prepares to follow what `active` is for.
    pub fn new(
        connection: Connection,
        topics: Topics,
        demands: Demands,
        cache: Option<PathBuf>,
        active: Arc<Active>,
        metrics: Arc<Metrics>,
    ) -> ModelWatch {
        let selector = active.selector().clone();
        let status = ModelStatus { selector: selector.to_string(), ..ModelStatus::default() };
        ModelWatch {
            connection,
            topics,
            cache: cache.map(|directory| Cache::new(directory, &selector)),
            selector,
            demands,
            active,
            metrics,
            status: Arc::new(Mutex::new(status)),
            refused: BTreeMap::new(),
            started: Instant::now(),
            copy_tried: None,
            retired: Vec::new(),
        }
    }

    /// What `/status` reads.
    pub fn status(&self) -> Arc<Mutex<ModelStatus>> {
        Arc::clone(&self.status)
    }

    /// Follows until `stop`. Errors of Kafka are logged and tried again: the last good model serves meanwhile.
    pub fn run(mut self, stop: &Stop) {
        while !stop.is_set() {
            if let Err(error) = self.follow(stop) {
                tracing::warn!(%error, "the model log cannot be read; trying again, the active model stays");
                self.make_do();
                stop.wait(RETRY);
            }
        }
    }

    /// One life of a follower: until `stop`, or an error after which the log is read anew.
    fn follow(&mut self, stop: &Stop) -> Result<(), registry::Error> {
        let mut follower = Follower::start(&self.connection, &self.topics)?;
        let (mut caught_up, mut look_again) = (false, None::<Instant>);
        let mut next_notice = Instant::now() + FIRST_NOTICE;
        while !stop.is_set() {
            let due = match follower.turn(POLL) {
                Ok(Turn::CaughtUp) => {
                    caught_up = true;
                    true
                }
                Ok(Turn::Change(Change::Version(model, _) | Change::Removed(model, _) | Change::Decided(model))) => {
                    caught_up && model == self.selector.model
                }
                Ok(Turn::Change(Change::KeyRevoked(key))) => {
                    tracing::warn!(%key, "a signing key is revoked; nothing that it signed is served");
                    caught_up
                }
                Ok(Turn::Change(Change::Ignored { key, refusal })) => {
                    self.metrics.model_refused(refusal.reason());
                    tracing::error!(key, reason = refusal.reason(), %refusal, "ignoring a record of the model log");
                    false
                }
                Ok(Turn::Change(Change::None) | Turn::Nothing) => look_again.is_some_and(|at| at <= Instant::now()),
                Err(registry::Error::Kafka(kafka::Error::Unreachable { cause, .. })) => {
                    tracing::debug!(cause, "the model log's broker is away");
                    false
                }
                Err(error) => return Err(error),
            };
            if due {
                self.note_wanted(&follower);
                look_again = match self.activate_best(&follower) {
                    Outcome::Settled => None,
                    Outcome::Again => Some(Instant::now() + RETRY),
                };
            }
            if !caught_up && self.started.elapsed() >= LOG_PATIENCE {
                self.make_do();
            }
            if !self.active.is_set() && next_notice <= Instant::now() {
                tracing::info!(model = %self.selector, "waiting for a model; not ready until one is published");
                next_notice = Instant::now() + WAITING_NOTICE;
            }
            self.retired.retain(|model| Arc::strong_count(model) > 1);
        }
        Ok(())
    }

    /// Says which version is wanted, before it is tried.
    fn note_wanted(&self, follower: &Follower) {
        lock(&self.status).wanted = follower.state().wanted(&self.selector);
    }

    /// Activates the first candidate that passes every check, unless it or a better one is active already. Where there is none,
    /// the active version stays, unless nobody may serve it any more.
    fn activate_best(&mut self, follower: &Follower) -> Outcome {
        let active = self.active.load().as_ref().map(|model| model.version);
        for (version, entry) in follower.state().candidates(&self.selector) {
            match entry {
                Entry::Manifest(_) if active == Some(version) => {
                    lock(&self.status).stale = false;
                    return Outcome::Settled;
                }
                Entry::Refused(refusal) => self.refuse(version, refusal),
                Entry::Manifest(manifest) if self.refused.get(&version) == Some(&manifest.digest) => {}
                Entry::Manifest(manifest) => match self.fetch(manifest) {
                    Ok((model, stored)) => {
                        self.activate(model, &manifest.algorithm, false);
                        if let Some(stored) = stored {
                            self.keep(manifest, &stored);
                        }
                        return Outcome::Settled;
                    }
                    Err(FetchError::Refused(refusal)) => {
                        self.refuse(version, &refusal);
                        self.refused.insert(version, manifest.digest);
                    }
                    Err(FetchError::Kafka(error)) => {
                        tracing::warn!(%error, model = %self.selector, version, "cannot fetch the artifact; trying again");
                        return Outcome::Again;
                    }
                },
            }
        }
        let withdrawn = active.and_then(|version| follower.state().withdrawn(&self.selector.model, version));
        if let Some(why) = withdrawn {
            self.withdraw(&why);
        }
        Outcome::Settled
    }

    /// Fetches, verifies and compiles a version; what was fetched, where a copy of it is kept.
    fn fetch(&self, manifest: &Manifest) -> Result<(ServedModel, Option<StoredArtifact>), FetchError> {
        let timer = Instant::now();
        let mut loading = Loading { version: manifest.version, bytes: 0, of: manifest.stored_bytes() };
        let fetched = fetch_artifact(&self.connection, &self.topics, manifest, |bytes| {
            loading.bytes += bytes;
            lock(&self.status).loading = Some(loading);
        });
        let served = fetched.and_then(|stored| {
            // Without a copy to keep, the stored bytes go while the artifact is read.
            let (artifact, stored) = match self.cache {
                Some(_) => (stored.artifact()?, Some(stored)),
                None => (stored.into_artifact()?, None),
            };
            Ok((self.prove(manifest, artifact)?, stored))
        });
        lock(&self.status).loading = None;
        let served = served?;
        self.metrics.model_loaded(timer.elapsed().as_secs_f64());
        Ok(served)
    }

    /// Verifies and compiles a version.
    fn prove(&self, manifest: &Manifest, artifact: Artifact) -> Result<ServedModel, Refusal> {
        if artifact.signature != manifest.signature {
            return Err(Refusal::Signature("the artifact's signature is not the manifest's".to_owned()));
        }
        let unproven = artifact.compile()?;
        let (rows, timer) = (unproven.golden_rows() as u32, Instant::now());
        let model = unproven.prove()?;
        let (actual, limit) = (timer.elapsed() / rows.max(1), self.demands.row_budget);
        if actual > limit {
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            return Err(Refusal::TooSlow { actual_us: micros(actual), limit_us: micros(limit) });
        }
        let (name, version, digest) = (manifest.model.as_str(), manifest.version, manifest.digest);
        ServedModel::new(name, version, model, digest, &self.demands.input, &self.demands.output)
    }

    /// Keeps a copy on disk, where that is wanted. Without one it is only worse the next time.
    fn keep(&self, manifest: &Manifest, stored: &StoredArtifact) {
        if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.keep(manifest, stored)) {
            tracing::warn!(%error, "the version cannot be kept on disk; it is served all the same");
        }
    }

    /// Serves the copy on disk while the model log cannot be read, where there is one and nothing better.
    fn make_do(&mut self) {
        let tried = self.copy_tried.is_some_and(|tried| tried.elapsed() < WAITING_NOTICE);
        let Some(cache) = self.cache.clone().filter(|_| !self.active.is_set() && !tried) else { return };
        self.copy_tried = Some(Instant::now());
        let kept = match cache.last_good() {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "the copy on disk cannot be served");
                None
            }
        };
        let Some((manifest, stored)) = kept else { return };
        match stored.into_artifact().and_then(|artifact| self.prove(&manifest, artifact)) {
            Ok(model) => {
                tracing::warn!(
                    model = %self.selector, version = model.version,
                    "the model log cannot be read: serving the last good version from disk, which may be stale"
                );
                self.activate(model, &manifest.algorithm, true);
            }
            Err(refusal) => tracing::warn!(%refusal, "the copy on disk is refused"),
        }
    }

    fn activate(&mut self, model: ServedModel, algorithm: &str, stale: bool) {
        let model = Arc::new(model);
        let (version, digest) = (model.version, model.digest.to_string());
        self.metrics.model_activated(&model.name, version, &digest, algorithm);
        let former = self.active.swap(Arc::clone(&model));
        let former_version = former.as_ref().map(|model| model.version);
        self.retired.extend(former);
        tracing::info!(model = model.name, version, digest, former = former_version, "serving a new version");
        let mut status = lock(&self.status);
        status.version = Some(version);
        status.digest = Some(digest);
        status.algorithm = Some(algorithm.to_owned());
        status.since = Some(format_time(SystemTime::now()));
        status.stale = stale;
        // It may have been published once more, by somebody who is trusted.
        status.refused.remove(&version);
    }

    /// Stops to serve: nobody may serve the active version any more, and there is no other. Lanes wait for one.
    fn withdraw(&mut self, why: &str) {
        let Some(former) = self.active.clear() else { return };
        tracing::error!(
            model = former.name,
            version = former.version,
            why,
            "the version must not be served any more and there is no other: records wait until one is published"
        );
        self.metrics.model_deactivated(&former.name);
        self.retired.push(former);
        let mut status = lock(&self.status);
        let ModelStatus { selector, wanted, refused, last_refusal, .. } = std::mem::take(&mut *status);
        *status = ModelStatus { selector, wanted, refused, last_refusal, ..ModelStatus::default() };
    }

    fn refuse(&mut self, version: u64, refusal: &Refusal) {
        let reason = refusal.reason();
        let text = format!("{reason}: {refusal}");
        if lock(&self.status).refused.insert(version, text.clone()).as_ref() == Some(&text) {
            return;
        }
        self.metrics.model_refused(reason);
        let kept = self.active.load().as_ref().map(|model| model.version);
        tracing::error!(model = %self.selector, version, reason, %refusal, kept, "refusing a version; the last good one stays");
        let at = format_time(SystemTime::now());
        lock(&self.status).last_refusal = Some(LastRefusal { version, why: text, at });
    }
}

/// A status is replaced field by field; a poisoned lock holds nothing that could mislead.
fn lock(status: &Mutex<ModelStatus>) -> MutexGuard<'_, ModelStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
