//! Reports the process on the status topic: what it serves and refused, and what its lanes do. Off the lanes, on a thread of its
//! own, and best effort: nothing waits for it but, for a moment, the end of the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use crate::kafka::{self, Connection};
use crate::registry::fleet::{
    LaneReport, ModelReport, ModelState, REFUSED_MAX, REPORT_FORMAT, RefusedVersion, Report, WHY_BYTES_MAX,
};
use crate::shutdown::Stop;
use crate::telemetry::Metrics;

use super::model_watch::ModelStatus;
use super::output::headers::format_time;
use super::pulse::LanePulse;
use super::settings::{LaneSettings, Settings};
use super::{Error, spawn};

/// How often it looks for something new to report: no process writes more often.
const LOOK: Duration = Duration::from_millis(200);
/// How long a report may be under way before that counts as a failure, and again as the next: no other is sent meanwhile.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for its report to be taken back.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
const FAREWELL_POLL: Duration = Duration::from_millis(5);

/// What a report says for as long as the process runs; it starts now.
pub(super) fn identity(settings: &Settings) -> Report {
    let first = settings.inputs.first();
    let of_first = |field: fn(&LaneSettings) -> &String| first.map(field).cloned().unwrap_or_default();
    let inputs: Vec<&str> = settings.inputs.iter().map(|lane| lane.input.as_str()).collect();
    Report {
        format: REPORT_FORMAT,
        instance: of_first(|lane| &lane.instance),
        host: settings.report.host.clone(),
        group: of_first(|lane| &lane.group),
        input: inputs.join(","),
        output: of_first(|lane| &lane.output),
        models_topic: settings.topics.models.clone(),
        models: Vec::new(),
        lanes: Vec::new(),
        modelstream: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: format_time(SystemTime::now()),
        reported_at: String::new(),
        report_interval_ms: u64::try_from(settings.report.interval.as_millis()).unwrap_or(u64::MAX),
        stopping: false,
    }
}

/// What a report is made of.
pub(super) struct Sources {
    /// What does not change.
    pub(super) identity: Report,
    /// Each model's.
    pub(super) models: Vec<Arc<Mutex<ModelStatus>>>,
    /// Each lane's.
    pub(super) pulses: Vec<Arc<LanePulse>>,
    /// Whether the process is told to stop.
    pub(super) stop: Stop,
}

impl Sources {
    /// What there is to say now, but for the time.
    fn report(&self) -> Report {
        let model = |status: &Arc<Mutex<ModelStatus>>| of_model(&status.lock().unwrap_or_else(PoisonError::into_inner));
        let lane = |pulse: &Arc<LanePulse>| LaneReport {
            partitions: pulse.partitions(),
            activity: pulse.activity().as_str().to_owned(),
        };
        Report {
            models: self.models.iter().map(model).collect(),
            lanes: self.pulses.iter().map(lane).collect(),
            stopping: self.stop.is_set(),
            ..self.identity.clone()
        }
    }
}

fn of_model(status: &ModelStatus) -> ModelReport {
    let state = match status.wanted {
        None if status.version.is_none() => ModelState::Waiting,
        Some(wanted) if status.refused.contains_key(&wanted) => ModelState::Refused,
        Some(wanted) if status.version != Some(wanted) => ModelState::Loading,
        None | Some(_) => ModelState::Serving,
    };
    let wanted = status.wanted.and_then(|wanted| status.refused.get_key_value(&wanted));
    let others = status.refused.iter().rev().filter(|(version, _)| Some(**version) != status.wanted);
    let refused = wanted.into_iter().chain(others).take(REFUSED_MAX);
    let refused = refused.map(|(version, why)| RefusedVersion {
        version: *version,
        why: why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned(),
    });
    ModelReport {
        selector: status.selector.clone(),
        version: status.version,
        digest: status.digest.clone(),
        since: status.since.clone(),
        wanted: status.wanted,
        state,
        refused: refused.collect(),
    }
}

/// The thread that reports.
pub(super) struct Reporting {
    ended: Stop,
    farewell: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Reporting {
    /// Starts to report.
    ///
    /// # Errors
    /// When the system refuses a thread. That the topic cannot be written is no error: it is said once, and counted.
    pub(super) fn start(settings: &Settings, sources: Sources, metrics: Arc<Metrics>) -> Result<Reporting, Error> {
        let (ended, farewell) = (Stop::new(), Arc::new(AtomicBool::new(false)));
        let outbox = Outbox {
            connection: settings.connection.clone(),
            topic: settings.topics.status.clone(),
            key: sources.identity.key(),
            metrics,
            producer: None,
            overdue_at: None,
            failing: false,
        };
        let (interval, thread_ended, thread_farewell) =
            (settings.report.interval, ended.clone(), Arc::clone(&farewell));
        let thread =
            spawn("report".to_owned(), move || report(&sources, outbox, interval, &thread_ended, &thread_farewell))?;
        Ok(Reporting { ended, farewell, thread })
    }

    /// The process has drained and ends: its report is taken back. Waits for that a second at most.
    pub(super) fn farewell(self) {
        self.farewell.store(true, Ordering::Release);
        self.ended.set();
        let deadline = Instant::now() + FAREWELL_TIMEOUT;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(FAREWELL_POLL);
        }
    }
}

impl Drop for Reporting {
    /// A process that does not end well leaves its last report: its silence is seen.
    fn drop(&mut self) {
        self.ended.set();
    }
}

fn report(sources: &Sources, mut outbox: Outbox, interval: Duration, ended: &Stop, farewell: &AtomicBool) {
    let (mut last, mut due) = (None, Instant::now());
    while !ended.is_set() {
        outbox.look();
        let report = sources.report();
        measure(&report.models, &outbox.metrics);
        let now = Instant::now();
        if outbox.overdue_at.is_none() && (due <= now || last.as_ref() != Some(&report)) {
            outbox.send(&Report { reported_at: format_time(SystemTime::now()), ..report.clone() });
            (last, due) = (Some(report), now + interval);
        }
        ended.wait(LOOK);
    }
    if farewell.load(Ordering::Acquire) {
        outbox.take_back();
    }
}

/// A model that is served by two selectors has converged when both have.
fn measure(models: &[ModelReport], metrics: &Metrics) {
    let mut converged = BTreeMap::new();
    for model in models {
        *converged.entry(model.model()).or_insert(true) &= model.is_converged();
    }
    converged.into_iter().for_each(|(model, converged)| metrics.model_converged(model, converged));
}

/// The way to the status topic, for one report at a time.
struct Outbox {
    connection: Connection,
    topic: String,
    key: String,
    metrics: Arc<Metrics>,
    /// Made with the first report, and anew when it is of no use any more.
    producer: Option<Producer>,
    /// While a report is under way, when that counts as a failure.
    overdue_at: Option<Instant>,
    /// That it fails was said.
    failing: bool,
}

impl Outbox {
    /// Takes note of what became of the report that is under way.
    fn look(&mut self) {
        let Some((producer, overdue_at)) = self.producer.as_ref().zip(self.overdue_at) else { return };
        if !producer.is_sealed_delivered() {
            if overdue_at <= Instant::now() {
                let doing = format!("delivering a report to {}", self.topic);
                self.overdue_at = Some(Instant::now() + DELIVERY_TIMEOUT);
                self.failed(&kafka::Error::TimedOut { doing, seconds: DELIVERY_TIMEOUT.as_secs() });
            }
            return;
        }
        self.overdue_at = None;
        match producer.take_failure() {
            Some(failure) => self.failed(&failure),
            None => {
                self.metrics.report_ended(true);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(topic = self.topic, "reports on the status topic are delivered again");
                }
            }
        }
    }

    fn send(&mut self, report: &Report) {
        match report.encode() {
            Err(error) => self.failed(&error),
            Ok(value) => match self.hand_over(Some(&value)) {
                Err(error) => self.failed(&error),
                Ok(producer) => {
                    producer.seal();
                    self.overdue_at = Some(Instant::now() + DELIVERY_TIMEOUT);
                }
            },
        }
    }

    /// A tombstone, where reports are delivered.
    fn take_back(&mut self) {
        if self.failing {
            return;
        }
        match self.hand_over(None) {
            Ok(producer) => drop(producer.flush(FAREWELL_TIMEOUT)),
            Err(error) => tracing::debug!(%error, "the report stays on the status topic"),
        }
    }

    fn hand_over(&mut self, value: Option<&[u8]>) -> Result<&Producer, kafka::Error> {
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => Producer::idempotent(&self.connection)?,
        };
        let producer = self.producer.insert(producer);
        let make = || Outgoing {
            topic: &self.topic,
            partition: Some(0),
            key: Some(self.key.as_bytes()),
            value,
            timestamp_ms: None,
            headers: Headers::default(),
        };
        producer.send_waiting(make, UNTAGGED, Instant::now())?;
        Ok(producer)
    }

    fn failed(&mut self, error: &dyn std::error::Error) {
        self.metrics.report_ended(false);
        if !std::mem::replace(&mut self.failing, true) {
            let topic = &self.topic;
            tracing::warn!(%error, topic, "this process does not report; it serves all the same, and goes on trying");
        }
        if self.producer.as_ref().is_some_and(|producer| producer.fatal_error("reporting").is_some()) {
            (self.producer, self.overdue_at) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Option<u64>, wanted: Option<u64>, refused: impl IntoIterator<Item = u64>) -> ModelStatus {
        let refused = refused.into_iter().map(|version| (version, "digest: another".repeat(100))).collect();
        ModelStatus { selector: "iris".into(), version, wanted, refused, ..ModelStatus::default() }
    }

    #[test]
    fn the_state_of_a_model_is_what_is_done_about_the_wanted_version() {
        for (version, wanted, refused, state) in [
            (None, None, None, ModelState::Waiting),
            (None, Some(1), None, ModelState::Loading),
            (Some(1), Some(1), None, ModelState::Serving),
            (Some(1), Some(2), None, ModelState::Loading),
            (Some(1), Some(2), Some(2), ModelState::Refused),
            (None, Some(2), Some(2), ModelState::Refused),
            (Some(1), None, None, ModelState::Serving),
        ] {
            let report = of_model(&status(version, wanted, refused));
            assert_eq!(report.state, state, "{version:?} {wanted:?} {refused:?}");
            assert_eq!(report.is_converged(), wanted.is_some() && version == wanted);
        }
    }

    #[test]
    fn of_many_refused_versions_the_wanted_one_and_the_newest_are_told() {
        let report = of_model(&status(Some(1), Some(3), 2..100));
        let versions: Vec<u64> = report.refused.iter().map(|refused| refused.version).collect();
        assert_eq!(versions, [3, 99, 98, 97, 96, 95, 94, 93]);
        assert!(report.refused.iter().all(|refused| refused.why.len() == WHY_BYTES_MAX));
    }
}
