//! Pure: the reports of the status topic become a fleet, and what is wanted says who lags and why.
//!
//! Each serving process writes one JSON document under the key `<group>/<instance>`, at every change and at every interval.
//! How old a report is goes by the time of its record, which the broker gives: the clocks of the processes do not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Selector, State, Topics};

/// The format number of a report.
pub const REPORT_FORMAT: u32 = 1;
/// How often a process reports when nothing changes: a few hundred bytes, so often that a dead one is soon seen.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// A replica is silent that has missed so many reports: one may be late, two may be a broker that moved.
const INTERVALS_UNTIL_SILENT: u32 = 3;
/// A replica that was silent for this long is gone: it is shown, and nobody waits for it any more.
pub const GONE_AFTER: Duration = Duration::from_secs(600);
/// The largest report: 256 lanes and some fifty models that refused as much as is told, well below what a broker takes.
pub const REPORT_BYTES_MAX: usize = 256 * 1024;
/// The longest `<group>/<instance>`: a group's name has 249 bytes at most.
pub const KEY_BYTES_MAX: usize = 1024;
/// The refused versions that a report tells of: the wanted one, then the newest.
pub const REFUSED_MAX: usize = 8;
/// The bytes of a reason in a report: a sentence or two.
pub const WHY_BYTES_MAX: usize = 300;
/// The bytes of reports that are kept together: thirty thousand replicas of a usual size.
pub const FLEET_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a serving process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// What tells the process from the others of its group.
    pub instance: String,
    /// Where it runs.
    pub host: String,
    /// Its consumer group; of several inputs, that of the first.
    pub group: String,
    /// The topic with the records; several are comma-separated.
    pub input: String,
    /// The topic for the predictions.
    pub output: String,
    /// The models topic that it follows: a cluster may have several model logs.
    pub models_topic: String,
    /// Each model that it serves.
    pub models: Vec<ModelReport>,
    /// Its lanes.
    pub lanes: Vec<LaneReport>,
    /// The version of the program.
    pub modelstream: String,
    /// When it started (RFC 3339).
    pub started_at: String,
    /// When it wrote this (RFC 3339, by its own clock).
    pub reported_at: String,
    /// How often it reports at least.
    pub report_interval_ms: u64,
    /// It finishes what it has and ends.
    pub stopping: bool,
}

/// What a process says of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// What is followed: `iris`, `iris:7`.
    pub selector: String,
    /// The version that serves.
    pub version: Option<u64>,
    /// Its digest.
    pub digest: Option<String>,
    /// Since when it serves (RFC 3339).
    pub since: Option<String>,
    /// The version that the process knows it should serve.
    pub wanted: Option<u64>,
    /// What it does about that.
    pub state: ModelState,
    /// Refused versions, at most [`REFUSED_MAX`].
    pub refused: Vec<RefusedVersion>,
}

/// What a process does about the version that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelState {
    /// It serves it, as far as it knows.
    Serving,
    /// It fetches and checks it.
    Loading,
    /// It refused it.
    Refused,
    /// There is none.
    Waiting,
    /// A word of another version of modelstream.
    #[serde(other)]
    Unknown,
}

/// A version that a process refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedVersion {
    /// The version.
    pub version: u64,
    /// The reason's word and sentence, at most [`WHY_BYTES_MAX`].
    pub why: String,
}

/// What a process says of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    /// The number of partitions that it has.
    pub partitions: usize,
    /// What it does: `flowing`.
    pub activity: String,
}

/// A report that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// More bytes than a report has.
    #[error("it has {0} bytes, a report at most {REPORT_BYTES_MAX}")]
    TooLarge(usize),
    /// More bytes than a key has.
    #[error("group and instance have {0} bytes, at most {KEY_BYTES_MAX} are reported")]
    LongKey(usize),
    /// No JSON, or no report.
    #[error("it is no report: line {line}, column {column}")]
    Json {
        /// Where reading it ended.
        line: usize,
        /// The column there.
        column: usize,
    },
    /// Written by a newer program.
    #[error("it has the format {0}: a newer modelstream wrote it; use that one to look")]
    NewerFormat(u32),
    /// It names another replica than its key.
    #[error("it is that of another replica than its key names")]
    OtherKey,
}

impl From<serde_json::Error> for ReportError {
    /// serde's own words repeat what was read, of any length.
    fn from(error: serde_json::Error) -> ReportError {
        ReportError::Json { line: error.line(), column: error.column() }
    }
}

impl Report {
    /// The key of the process's record.
    pub fn key(&self) -> String {
        format!("{}/{}", self.group, self.instance)
    }

    /// The report as its record's value.
    ///
    /// # Errors
    /// When it or its key is too large.
    pub fn encode(&self) -> Result<Vec<u8>, ReportError> {
        let key = self.group.len() + 1 + self.instance.len();
        if key > KEY_BYTES_MAX {
            return Err(ReportError::LongKey(key));
        }
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > REPORT_BYTES_MAX { Err(ReportError::TooLarge(bytes.len())) } else { Ok(bytes) }
    }

    /// Reads the value of the record under `key`. Fields that this program does not know are passed over.
    ///
    /// # Errors
    /// When it is no report, too large, of a newer format, or stands under another's key.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<Report, ReportError> {
        /// What every format has.
        #[derive(Deserialize)]
        struct Numbered {
            format: u32,
        }
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(ReportError::TooLarge(bytes.len()));
        }
        let Numbered { format } = serde_json::from_slice(bytes)?;
        if format != REPORT_FORMAT {
            return Err(ReportError::NewerFormat(format));
        }
        let report: Report = serde_json::from_slice(bytes)?;
        if report.key() == key { Ok(report) } else { Err(ReportError::OtherKey) }
    }

    /// For how long nothing is heard of the process before it is silent.
    fn patience(&self) -> Duration {
        let interval = Duration::from_millis(self.report_interval_ms);
        interval.saturating_mul(INTERVALS_UNTIL_SILENT).min(GONE_AFTER)
    }
}

impl ModelReport {
    /// The model's name.
    pub fn model(&self) -> &str {
        self.selector.split([':', '@']).next().unwrap_or_default()
    }

    /// Whether the process serves what it knows it should.
    pub fn is_converged(&self) -> bool {
        self.wanted.is_some() && self.version == self.wanted
    }

    /// Why the process refused `version`, if it did.
    pub fn refusal(&self, version: u64) -> Option<&str> {
        self.refused.iter().find(|refused| refused.version == version).map(|refused| refused.why.as_str())
    }
}

/// The last report of each replica.
#[derive(Debug, Default)]
pub struct Fleet {
    replicas: BTreeMap<String, Heard>,
    bytes: usize,
    is_cut: bool,
}

#[derive(Debug)]
struct Heard {
    report: Result<Report, ReportError>,
    /// The time of its record, in milliseconds since the Unix epoch.
    at_ms: i64,
    bytes: usize,
}

/// What is looked at, and when.
#[derive(Debug, Clone, Copy)]
pub struct View<'v> {
    /// What the model log says.
    pub state: &'v State,
    /// Whose models topic the replicas follow; those of other model logs are left out.
    pub topics: &'v Topics,
    /// The only group.
    pub group: Option<&'v str>,
    /// The only model: its name, or the whole of a selector.
    pub model: Option<&'v str>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// How a replica stands with one of its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It serves the version that its selector wants.
    Converged,
    /// It does not serve it yet.
    Loading,
    /// It refused it.
    Refused,
    /// The model log has no version for its selector.
    NoVersion,
    /// It has not reported for too long.
    Silent,
    /// It has not reported for so long that it does not count.
    Gone,
    /// Its report cannot be read.
    Unreadable,
}

impl Verdict {
    /// As it is shown, to people and to scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Converged => "converged",
            Verdict::Loading => "loading",
            Verdict::Refused => "refused",
            Verdict::NoVersion => "no-version",
            Verdict::Silent => "silent",
            Verdict::Gone => "gone",
            Verdict::Unreadable => "unreadable",
        }
    }
}

/// One replica and one of its models.
#[derive(Debug)]
pub struct Standing<'f> {
    /// `<group>/<instance>`
    pub key: &'f str,
    /// What it reported, where that can be read.
    pub report: Option<&'f Report>,
    /// Of which model.
    pub model: Option<&'f ModelReport>,
    /// The version that the model log wants it to serve.
    pub wanted: Option<u64>,
    /// What that comes to.
    pub verdict: Verdict,
    /// In words, where it has not converged.
    pub why: String,
    /// How long ago it reported.
    pub heard_ago: Duration,
}

/// Whether each replica that counts serves what it should, and there are `expected` of them.
pub fn have_converged(standings: &[Standing<'_>], expected: usize) -> bool {
    counting(standings).all(|standing| standing.verdict == Verdict::Converged) && replicas(standings) >= expected
}

/// Those that count: not the replicas that are gone.
pub fn counting<'s, 'f>(standings: &'s [Standing<'f>]) -> impl Iterator<Item = &'s Standing<'f>> {
    standings.iter().filter(|standing| standing.verdict != Verdict::Gone)
}

/// How many replicas count: one that serves several models has a standing for each.
pub fn replicas(standings: &[Standing<'_>]) -> usize {
    counting(standings).map(|standing| standing.key).collect::<BTreeSet<_>>().len()
}

impl Fleet {
    /// Takes in the next record of the status topic. A key that is none of a replica is passed over.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>, timestamp_ms: Option<i64>) {
        let key = std::str::from_utf8(key).ok().filter(|key| key.len() <= KEY_BYTES_MAX && key.contains('/'));
        let Some(key) = key else { return };
        if let Some(former) = self.replicas.remove(key) {
            self.bytes -= former.bytes;
        }
        let Some(value) = value else { return };
        let report = Report::decode(key, value);
        let bytes = key.len() + if report.is_ok() { value.len() } else { 0 };
        if self.bytes + bytes > FLEET_BYTES_MAX {
            self.is_cut = true;
            return;
        }
        self.bytes += bytes;
        self.replicas.insert(key.to_owned(), Heard { report, at_ms: timestamp_ms.unwrap_or_default(), bytes });
    }

    /// Whether there were more reports than [`FLEET_BYTES_MAX`]: then some are missing here.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// How the replicas of `view` stand with its models, by group and instance. A report that cannot be read may be of any model.
    pub fn standings<'f>(&'f self, view: &View<'_>) -> Vec<Standing<'f>> {
        let of_group = |key: &str| {
            let rest = view.group.map(|group| key.strip_prefix(group));
            rest.is_none_or(|rest| rest.is_some_and(|rest| rest.starts_with('/')))
        };
        self.replicas
            .iter()
            .filter(|(key, heard)| match &heard.report {
                Ok(report) => view.group.is_none_or(|group| group == report.group),
                Err(_) => of_group(key),
            })
            .flat_map(|(key, heard)| heard.standings(key, view))
            .collect()
    }

    /// Who refused a version, and why: instance and reason of each replica of this model log that is not gone.
    pub fn refusals(&self, topics: &Topics, model: &str, version: u64, now_ms: u64) -> Vec<(&Report, &str)> {
        let replicas = self.replicas.values().filter(|heard| age(heard.at_ms, now_ms) <= GONE_AFTER);
        let reports = replicas.filter_map(|heard| heard.report.as_ref().ok());
        reports
            .filter(|report| report.models_topic == topics.models)
            .filter_map(|report| {
                let mut models = report.models.iter().filter(|of| of.model() == model);
                Some((report, models.find_map(|of| of.refusal(version))?))
            })
            .collect()
    }
}

impl Heard {
    fn standings<'f>(&'f self, key: &'f str, view: &View<'_>) -> Vec<Standing<'f>> {
        let heard_ago = age(self.at_ms, view.now_ms);
        let standing = |report, model, wanted, judged| {
            let (verdict, why) = absence(report, heard_ago).unwrap_or(judged);
            Standing { key, report, model, wanted, verdict, why, heard_ago }
        };
        let report = match &self.report {
            Ok(report) if report.models_topic != view.topics.models => return Vec::new(),
            Ok(report) => report,
            Err(error) => {
                return vec![standing(
                    None,
                    None,
                    None,
                    (Verdict::Unreadable, format!("its report cannot be read: {error}")),
                )];
            }
        };
        let models = report.models.iter();
        models
            .filter(|model| view.model.is_none_or(|only| only == model.model() || only == model.selector))
            .map(|model| {
                let Ok(selector) = model.selector.parse::<Selector>() else {
                    let why = format!("{:?} is nothing that this version of modelstream knows", model.selector);
                    return standing(Some(report), Some(model), None, (Verdict::Unreadable, why));
                };
                let wanted = view.state.wanted(&selector);
                standing(Some(report), Some(model), wanted, judge(report, model, wanted))
            })
            .collect()
    }
}

/// How old a record is; one of the future is as good as new.
fn age(at_ms: i64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(u64::try_from(at_ms).unwrap_or(0)))
}

/// What is to be said of a replica that has not reported in time.
fn absence(report: Option<&Report>, heard_ago: Duration) -> Option<(Verdict, String)> {
    let seconds = heard_ago.as_secs();
    if heard_ago > GONE_AFTER {
        return Some((Verdict::Gone, format!("no report for {seconds} s: it does not count any more")));
    }
    let report = report.filter(|report| heard_ago > report.patience())?;
    let interval = Duration::from_millis(report.report_interval_ms);
    Some((Verdict::Silent, format!("no report for {seconds} s, one is due every {} s", interval.as_secs_f64())))
}

/// How a replica that reports stands.
fn judge(report: &Report, model: &ModelReport, wanted: Option<u64>) -> (Verdict, String) {
    let Some(wanted) = wanted else {
        return (Verdict::NoVersion, format!("the model log has no version of {}", model.selector));
    };
    if model.version == Some(wanted) {
        return (Verdict::Converged, String::new());
    }
    if let Some(why) = model.refusal(wanted) {
        return (Verdict::Refused, why.to_owned());
    }
    let why = match model.state {
        _ if report.stopping => "it is stopping".to_owned(),
        ModelState::Loading if model.wanted == Some(wanted) => format!("it fetches and checks version {wanted}"),
        _ => format!("it has not seen version {wanted} yet"),
    };
    (Verdict::Loading, why)
}

#[cfg(test)]
mod tests {
    use super::super::Trust;
    use super::super::record::LogRecord;
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const AT_MS: Option<i64> = Some(NOW_MS as i64);

    fn topics() -> Topics {
        Topics {
            models: "models".into(),
            artifacts: "artifacts".into(),
            status: "status".into(),
            trust: Trust::default(),
        }
    }

    fn model(selector: &str, version: Option<u64>) -> ModelReport {
        ModelReport {
            selector: selector.into(),
            version,
            digest: version.map(|_| "ab".repeat(32)),
            since: version.map(|_| "2026-01-31T12:00:00.000Z".into()),
            wanted: version,
            state: ModelState::Serving,
            refused: Vec::new(),
        }
    }

    fn report(instance: &str, models: Vec<ModelReport>) -> Report {
        Report {
            format: REPORT_FORMAT,
            instance: instance.into(),
            host: "host".into(),
            group: "g".into(),
            input: "in".into(),
            output: "out".into(),
            models_topic: "models".into(),
            models,
            lanes: vec![LaneReport { partitions: 2, activity: "flowing".into() }],
            modelstream: "0.1.0".into(),
            started_at: "2026-01-31T11:00:00.000Z".into(),
            reported_at: "2026-01-31T12:00:01.000Z".into(),
            report_interval_ms: 10_000,
            stopping: false,
        }
    }

    /// A fleet that reported so many milliseconds ago.
    fn fleet(reports: &[(Report, i64)]) -> Fleet {
        let mut fleet = Fleet::default();
        for (report, ago) in reports {
            fleet.apply(report.key().as_bytes(), Some(&report.encode().expect("small")), Some(NOW_MS as i64 - ago));
        }
        fleet
    }

    /// A model log with versions 1 and 2 of `iris`; a manifest that cannot be read is a version too.
    fn two_versions() -> State {
        let mut state = State::default();
        state.apply(&LogRecord { key: b"version/iris/1", value: Some(b"junk"), ..LogRecord::default() });
        state.apply(&LogRecord { key: b"version/iris/2", value: Some(b"junk"), ..LogRecord::default() });
        state
    }

    /// The verdict and the reason for each replica, and whether they have converged.
    fn verdicts(fleet: &Fleet, group: Option<&str>, only: Option<&str>) -> (Vec<(Verdict, String)>, bool) {
        let (state, topics) = (two_versions(), topics());
        let view = View { state: &state, topics: &topics, group, model: only, now_ms: NOW_MS };
        let standings = fleet.standings(&view);
        let converged = have_converged(&standings, 1);
        (standings.into_iter().map(|standing| (standing.verdict, standing.why)).collect(), converged)
    }

    fn only_verdict(report: Report, ago: i64) -> (Verdict, String) {
        let (mut verdicts, converged) = verdicts(&fleet(&[(report, ago)]), None, None);
        let verdict = verdicts.pop().expect("one replica");
        assert_eq!(converged, verdict.0 == Verdict::Converged);
        verdict
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_may_say_more() {
        let written = report("a", vec![model("iris", Some(2))]);
        let bytes = written.encode().expect("small");
        assert_eq!(Report::decode("g/a", &bytes), Ok(written.clone()));
        let text = String::from_utf8(bytes).expect("text");
        let more = text.replacen('{', "{\"of the future\":[1,{}],", 1);
        assert_eq!(Report::decode("g/a", more.as_bytes()), Ok(written));
        let word = text.replace("\"serving\"", "\"dreaming\"");
        let read = Report::decode("g/a", word.as_bytes()).expect("a word more is no other format");
        assert_eq!(read.models[0].state, ModelState::Unknown);
    }

    #[test]
    fn what_is_no_report_is_refused_without_repeating_it() {
        let good = report("a", vec![model("iris", Some(2))]).encode().expect("small");
        for cut in 0..good.len() {
            assert!(matches!(Report::decode("g/a", &good[..cut]), Err(ReportError::Json { .. })), "cut at {cut}");
        }
        let deep = format!("{{\"format\":1,\"x\":{}", "[".repeat(10_000));
        for bytes in [&b"\xff\x00"[..], b"", b"[]", b"{\"format\":-1}", b"{\"format\":1}", deep.as_bytes()] {
            assert!(matches!(Report::decode("g/a", bytes), Err(ReportError::Json { .. })));
        }
        let loud = br#"{"format":1,"instance":7,"host":"\u001b[2J"}"#;
        assert!(!Report::decode("g/a", loud).expect_err("no report").to_string().contains('\u{1b}'));
        assert_eq!(Report::decode("g/a", b"{\"format\":2}"), Err(ReportError::NewerFormat(2)));
        assert_eq!(Report::decode("g/b", &good), Err(ReportError::OtherKey));
        let large = vec![b' '; REPORT_BYTES_MAX + 1];
        assert_eq!(Report::decode("g/a", &large), Err(ReportError::TooLarge(large.len())));
    }

    #[test]
    fn a_report_is_bounded_when_it_is_written() {
        let many = report("a", (0..100_000).map(|_| model("iris", Some(1))).collect());
        assert!(matches!(many.encode(), Err(ReportError::TooLarge(_))));
        let long = report(&"a".repeat(KEY_BYTES_MAX), Vec::new());
        assert!(matches!(long.encode(), Err(ReportError::LongKey(_))));
        let mut largest = model(&format!("{}:1", "m".repeat(super::super::selector::NAME_BYTES_MAX)), Some(1));
        largest.refused = (1..=REFUSED_MAX as u64)
            .map(|version| RefusedVersion { version, why: "\"".repeat(WHY_BYTES_MAX) })
            .collect();
        let mut full = report("a", vec![largest; 40]);
        full.lanes = vec![LaneReport { partitions: 1_000, activity: "circuit-open".into() }; 256];
        assert!(full.encode().is_ok(), "the most that is told of forty models and 256 lanes");
    }

    #[test]
    fn each_replica_stands_as_its_report_says() {
        assert_eq!(only_verdict(report("a", vec![model("iris", Some(2))]), 5_000).0, Verdict::Converged);
        assert_eq!(only_verdict(report("a", vec![model("iris:1", Some(1))]), 5_000).0, Verdict::Converged);
        let (verdict, why) = only_verdict(report("a", vec![model("iris", Some(1))]), 0);
        assert_eq!((verdict, why.contains("not seen version 2")), (Verdict::Loading, true), "{why}");
        let loading = ModelReport { wanted: Some(2), state: ModelState::Loading, ..model("iris", Some(1)) };
        let (verdict, why) = only_verdict(report("a", vec![loading]), 0);
        assert_eq!((verdict, why.contains("fetches")), (Verdict::Loading, true), "{why}");
        let stopping = Report { stopping: true, ..report("a", vec![model("iris", Some(1))]) };
        assert_eq!(only_verdict(stopping, 0), (Verdict::Loading, "it is stopping".into()));
        let refused = vec![RefusedVersion { version: 2, why: "digest: another".into() }];
        let refused = ModelReport { refused, ..model("iris", Some(1)) };
        assert_eq!(only_verdict(report("a", vec![refused]), 0), (Verdict::Refused, "digest: another".into()));
        assert_eq!(only_verdict(report("a", vec![model("iris:9", None)]), 0).0, Verdict::NoVersion);
        assert_eq!(only_verdict(report("a", vec![model("iris:x", None)]), 0).0, Verdict::Unreadable);
    }

    #[test]
    fn a_replica_that_is_not_heard_is_silent_and_then_gone() {
        let replica = || report("a", vec![model("iris", Some(2))]);
        assert_eq!(only_verdict(replica(), 30_000).0, Verdict::Converged);
        let (verdict, why) = only_verdict(replica(), 31_000);
        assert_eq!((verdict, why.as_str()), (Verdict::Silent, "no report for 31 s, one is due every 10 s"));
        assert_eq!(only_verdict(replica(), 600_000).0, Verdict::Silent);
        assert_eq!(only_verdict(replica(), 601_000).0, Verdict::Gone);
        assert_eq!(only_verdict(replica(), -5_000).0, Verdict::Converged, "its broker's clock is ahead");
        let patient = Report { report_interval_ms: u64::MAX, ..replica() };
        assert_eq!(only_verdict(patient, 601_000).0, Verdict::Gone, "no interval keeps it for ever");
        let both = fleet(&[(replica(), 0), (report("b", vec![model("iris", Some(1))]), 601_000)]);
        assert!(verdicts(&both, None, None).1, "nobody waits for one that is gone");
    }

    #[test]
    fn nobody_at_all_has_not_converged() {
        assert_eq!(verdicts(&Fleet::default(), None, None), (Vec::new(), false));
    }

    #[test]
    fn group_and_model_choose_and_other_model_logs_are_left_out() {
        let other_log = Report { models_topic: "others".into(), ..report("c", vec![model("iris", Some(1))]) };
        let other_group = Report { group: "h".into(), ..report("d", vec![model("iris", Some(1))]) };
        let both = report("a", vec![model("iris", Some(2)), model("iris:1", Some(1)), model("fraud", None)]);
        let fleet = fleet(&[(both, 0), (other_log, 0), (other_group, 0)]);
        assert_eq!(verdicts(&fleet, None, None).0.len(), 4);
        assert_eq!(verdicts(&fleet, Some("g"), None).0.len(), 3);
        let (of_model, converged) = verdicts(&fleet, Some("g"), Some("iris"));
        assert_eq!((of_model.len(), converged), (2, true));
        assert_eq!(verdicts(&fleet, None, Some("iris:1")).0.len(), 1);
        assert_eq!(verdicts(&fleet, Some("g"), Some("iri")), (Vec::new(), false));
    }

    #[test]
    fn a_tombstone_removes_and_a_damaged_report_is_not_taken_for_the_former_one() {
        let mut fleet = fleet(&[(report("a", vec![model("iris", Some(2))]), 0)]);
        fleet.apply(b"g/a", Some(b"junk"), AT_MS);
        let (damaged, converged) = verdicts(&fleet, Some("g"), Some("fraud"));
        assert_eq!((damaged[0].0, converged), (Verdict::Unreadable, false), "it may be of any model");
        assert!(verdicts(&fleet, Some("other"), None).0.is_empty());
        fleet.apply(b"g/a", None, AT_MS);
        assert!(verdicts(&fleet, None, None).0.is_empty());
        assert_eq!(fleet.bytes, 0);
        for key in [&b"\xff/a"[..], b"no replica", &[b'/'; KEY_BYTES_MAX + 1]] {
            fleet.apply(key, Some(b"junk"), None);
        }
        assert!(fleet.replicas.is_empty());
    }

    #[test]
    fn more_reports_than_are_kept_are_said_to_be_missing() {
        let mut large = report("a", vec![model("iris", Some(2))]);
        large.output = "o".repeat(REPORT_BYTES_MAX - 2_000);
        let mut fleet = Fleet::default();
        for number in 0..FLEET_BYTES_MAX / REPORT_BYTES_MAX + 10 {
            large.instance = number.to_string();
            fleet.apply(large.key().as_bytes(), Some(&large.encode().expect("within")), AT_MS);
        }
        assert!(fleet.is_cut() && fleet.bytes <= FLEET_BYTES_MAX);
    }

    #[test]
    fn a_refusal_names_its_replica() {
        let refused = |version| vec![RefusedVersion { version, why: "golden: row 3".into() }];
        let one = ModelReport { refused: refused(2), ..model("iris", Some(1)) };
        let other = ModelReport { refused: refused(1), ..model("iris", Some(2)) };
        let fleet = fleet(&[
            (report("a", vec![one.clone()]), 0),
            (report("b", vec![other]), 0),
            (report("c", vec![one]), 700_000),
        ]);
        let named = fleet.refusals(&topics(), "iris", 2, NOW_MS);
        let named: Vec<(&str, &str)> = named.iter().map(|(report, why)| (report.instance.as_str(), *why)).collect();
        assert_eq!(named, [("a", "golden: row 3")]);
        assert!(fleet.refusals(&topics(), "fraud", 2, NOW_MS).is_empty());
    }
}
