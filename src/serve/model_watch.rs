//! Follows the model log; verifies; swaps. Off the lanes, on a thread of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::kafka::{self, Connection};
use crate::model::{Artifact, Manifest, Refusal};
use crate::pipeline::{InputFormat, OutputFormat, ServedModel};
use crate::registry::follow::{FetchError, Follower, Turn, fetch_artifact};
use crate::registry::state::{Change, Entry, Selector};
use crate::registry::{self, Topics};
use crate::shutdown::Stop;
use crate::telemetry::Metrics;

use super::active::Active;

/// How long one wait for the model log lasts: the longest that a stop is not seen.
const POLL: Duration = Duration::from_millis(200);
/// How long the model log is left alone after an error.
const RETRY: Duration = Duration::from_secs(1);
/// When it is said first that there is no model yet: reading the log takes less.
const FIRST_NOTICE: Duration = Duration::from_secs(3);
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

/// Follows one selector of the model log and keeps [`Active`] at the best version that passes every check.
pub struct ModelWatch {
    connection: Connection,
    topics: Topics,
    selector: Selector,
    input: InputFormat,
    output: OutputFormat,
    active: Arc<Active>,
    metrics: Arc<Metrics>,
    status: Arc<Mutex<ModelStatus>>,
    refused: BTreeMap<u64, Refusal>,
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
    /// Prepares to follow `selector`.
    pub fn new(
        connection: Connection,
        topics: Topics,
        selector: Selector,
        formats: (InputFormat, OutputFormat),
        active: Arc<Active>,
        metrics: Arc<Metrics>,
    ) -> ModelWatch {
        let status = ModelStatus { selector: selector.to_string(), ..ModelStatus::default() };
        let (input, output) = formats;
        ModelWatch {
            connection,
            topics,
            selector,
            input,
            output,
            active,
            metrics,
            status: Arc::new(Mutex::new(status)),
            refused: BTreeMap::new(),
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
                Ok(Turn::Change(Change::Version(model, _) | Change::Removed(model, _))) => {
                    caught_up && model == self.selector.model
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
        let wanted = follower.state().candidates(&self.selector).first().map(|(version, _)| *version);
        lock(&self.status).wanted = wanted;
    }

    /// Activates the first candidate that passes every check, unless it or a better one is active already.
    fn activate_best(&mut self, follower: &Follower) -> Outcome {
        let active = self.active.load().as_ref().map(|model| model.version);
        for (version, entry) in follower.state().candidates(&self.selector) {
            if active == Some(version) {
                return Outcome::Settled;
            }
            if self.refused.contains_key(&version) {
                continue;
            }
            match entry {
                Entry::Refused(refusal) => self.refuse(version, refusal.clone()),
                Entry::Manifest(manifest) => match self.load(manifest) {
                    Ok(model) => {
                        self.activate(model, &manifest.algorithm);
                        return Outcome::Settled;
                    }
                    Err(FetchError::Refused(refusal)) => self.refuse(version, refusal),
                    Err(FetchError::Kafka(error)) => {
                        tracing::warn!(%error, model = %self.selector, version, "cannot fetch the artifact; trying again");
                        return Outcome::Again;
                    }
                },
            }
        }
        Outcome::Settled
    }

    /// Fetches, verifies and compiles a version.
    fn load(&self, manifest: &Manifest) -> Result<ServedModel, FetchError> {
        let timer = Instant::now();
        let bytes = fetch_artifact(&self.connection, &self.topics, manifest)?;
        let artifact = Artifact::decode(&bytes)?;
        drop(bytes);
        if artifact.signature != manifest.signature {
            return Err(Refusal::Signature("the artifact's signature is not the manifest's".to_owned()).into());
        }
        let model = artifact.into_model()?;
        let (name, version, digest) = (manifest.model.as_str(), manifest.version, manifest.digest);
        let served = ServedModel::new(name, version, model, digest, &self.input, &self.output)?;
        self.metrics.model_loaded(timer.elapsed().as_secs_f64());
        Ok(served)
    }

    fn activate(&mut self, model: ServedModel, algorithm: &str) {
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
        status.since = Some(humantime::format_rfc3339_millis(SystemTime::now()).to_string());
    }

    fn refuse(&mut self, version: u64, refusal: Refusal) {
        let reason = refusal.reason();
        self.metrics.model_refused(reason);
        let kept = self.active.load().as_ref().map(|model| model.version);
        tracing::error!(model = %self.selector, version, reason, %refusal, kept, "refusing a version; the last good one stays");
        let (why, at) =
            (format!("{reason}: {refusal}"), humantime::format_rfc3339_millis(SystemTime::now()).to_string());
        let mut status = lock(&self.status);
        status.refused.insert(version, why.clone());
        status.last_refusal = Some(LastRefusal { version, why, at });
        drop(status);
        self.refused.insert(version, refusal);
    }
}

/// A status is replaced field by field; a poisoned lock holds nothing that could mislead.
fn lock(status: &Mutex<ModelStatus>) -> MutexGuard<'_, ModelStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
