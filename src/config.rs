//! What was typed becomes what is used; every relation between settings is checked here, once.

pub mod bench;
mod inputs;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cli;
use crate::kafka::Connection;
use crate::kafka::consumer::OffsetReset;
use crate::kafka::settings::{LINGER, PropertyError};
use crate::pipeline::{AvroFraming, InputFormat, OutputFormat};
use crate::registry::fleet::REPORT_INTERVAL;
use crate::registry::selector::SelectorError;
use crate::registry::trust::{KeyError, PublicKey, SigningKey};
use crate::registry::{Author, Selector, Topics, Trust};
use crate::serve::delivery::CommitLimits;
use crate::serve::output::headers::Convention;
use crate::serve::{self, LaneSettings, ReportSettings};

use inputs::Input;

/// The longest commit interval: what is not committed is done again after a crash.
pub const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The shortest patience of the watchdog: more than any wait for a broker within a lane's turn.
pub const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(15);
/// The shortest interval of reports: what is new is reported this soon anyway.
const REPORT_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// The longest: three of them are over before a replica is gone.
const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(180);
/// The longest wait for a fleet.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The largest schema file that is read.
const SCHEMA_BYTES_MAX: u64 = 1024 * 1024;
/// The largest key file that is read: a key has some hundred bytes.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// A setting that does not fit, with the rule that it breaks.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Property(#[from] PropertyError),
    #[error("--model: {0}")]
    Selector(#[from] SelectorError),
    #[error("{0}")]
    Relation(String),
    #[error("--listen {address}: {reason}; expected HOST:PORT")]
    Address { address: String, reason: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has {bytes} bytes, the limit is {limit}: is it the right file?")]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    #[error("{path}: {source}")]
    Key { path: PathBuf, source: KeyError },
    #[error("{path} is no Avro schema that fits: {reason}")]
    Schema { path: PathBuf, reason: String },
}

/// How to reach the cluster.
///
/// # Errors
/// When a `-X` property cannot be used.
pub fn connection(common: &cli::Common) -> Result<Connection, ConfigError> {
    Ok(Connection::new(common.brokers(), &common.properties)?)
}

/// The topics of the model log and of its fleet, and the keys that are trusted.
///
/// # Errors
/// When a key cannot be read.
pub fn topics(common: &cli::Common) -> Result<Topics, ConfigError> {
    let keys: Result<Vec<PublicKey>, ConfigError> = common.trusted_key.iter().map(|path| public_key(path)).collect();
    let (models, artifacts) = (common.models_topic.clone(), common.artifacts_topic.clone());
    Ok(Topics { models, artifacts, status: common.status_topic.clone(), trust: Trust::new(keys?) })
}

/// Reads a public key.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn public_key(path: &Path) -> Result<PublicKey, ConfigError> {
    let text = small_file(path, KEY_BYTES_MAX)?;
    PublicKey::from_pem(&text).map_err(|source| ConfigError::Key { path: path.to_owned(), source })
}

/// Reads a private key.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn private_key(path: &Path) -> Result<SigningKey, ConfigError> {
    let text = small_file(path, KEY_BYTES_MAX)?;
    SigningKey::from_pem(&text).map_err(|source| ConfigError::Key { path: path.to_owned(), source })
}

/// Who writes to the model log: `name` is `user@host`.
///
/// # Errors
/// When the signing key cannot be read.
pub fn author(signing: &cli::Signing, name: String) -> Result<Author, ConfigError> {
    let key = signing.signing_key.as_deref().map(private_key).transpose()?;
    Ok(Author { name, key })
}

/// Reads a `NAME[:VERSION|@ALIAS]`.
///
/// # Errors
/// When it is none.
pub fn selector(text: &str) -> Result<Selector, ConfigError> {
    Ok(text.parse()?)
}

/// The dead-letter topic of an input topic when none is named.
pub fn dead_letters_of(input: &str) -> String {
    format!("{input}.dead-letters")
}

/// The settings of `modelstream serve`.
///
/// # Errors
/// The first rule that is broken.
pub fn serve(common: &cli::Common, serve: &cli::Serve) -> Result<serve::Settings, ConfigError> {
    let (models, input_format) = (inputs::models(serve)?, input_format(serve)?);
    let (inputs, route) = inputs::inputs(serve, &models, &input_format)?;
    let profile = Profile::of(serve.latency, serve.throughput);
    let commit_interval = profile.commit_interval(serve.commit_interval)?;
    if !(serve.dead_letter_share_max > 0.0 && serve.dead_letter_share_max <= 1.0) {
        let rule =
            format!("--dead-letter-share-max {}: expected more than 0 and at most 1", serve.dead_letter_share_max);
        return Err(ConfigError::Relation(rule));
    }
    if serve.stall_timeout < STALL_TIMEOUT_MIN {
        let rule = format!(
            "--stall-timeout {:?}: expected at least {STALL_TIMEOUT_MIN:?}, as long as a lane may wait for a broker",
            serve.stall_timeout
        );
        return Err(ConfigError::Relation(rule));
    }
    let lane = |input: Input| LaneSettings {
        output: serve.output.clone(),
        dead_letters: serve.dead_letters.clone().unwrap_or_else(|| dead_letters_of(&input.topic)),
        dead_letter_headers: Convention::named(&serve.dead_letter_headers),
        group: serve.group.clone().unwrap_or_else(|| input.group()),
        route: route.clone(),
        offset_reset: offset_reset(&serve.offset_reset),
        batch_records: serve.batch_records as usize,
        exactly_once: serve.delivery == "exactly-once",
        instance: serve.instance.clone().unwrap_or_else(|| instance(&serve.listen)),
        static_membership: serve.static_membership,
        commit: CommitLimits { interval: commit_interval, records: serve.commit_records, bytes: serve.commit_bytes },
        dead_letter_share_max: serve.dead_letter_share_max,
        drain_timeout: serve.drain_timeout,
        input: input.topic,
        models: input.models,
    };
    let inputs: Vec<LaneSettings> = inputs.into_iter().map(lane).collect();
    check_topics(&inputs)?;
    Ok(serve::Settings {
        connection: profile.connection(common)?,
        topics: topics(common)?,
        models,
        row_budget: serve.row_budget,
        cache: serve.cache.clone(),
        lanes: usize::from(serve.lanes),
        inputs,
        input_format,
        output_format: output_format(serve),
        listen: address(&serve.listen)?,
        stall_timeout: serve.stall_timeout,
        report: ReportSettings { host: host(), interval: report_interval(serve.report_interval)? },
    })
}

fn report_interval(given: Option<Duration>) -> Result<Duration, ConfigError> {
    let interval = given.unwrap_or(REPORT_INTERVAL);
    if !(REPORT_INTERVAL_MIN..=REPORT_INTERVAL_MAX).contains(&interval) {
        return Err(ConfigError::Relation(format!(
            "--report-interval {interval:?}: expected {REPORT_INTERVAL_MIN:?} to {REPORT_INTERVAL_MAX:?}"
        )));
    }
    Ok(interval)
}

/// The settings of `modelstream status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The only model: its name, or the whole of a selector.
    pub model: Option<String>,
    /// The only group.
    pub group: Option<String>,
    /// How long the fleet may take to converge.
    pub wait: Duration,
    /// How many replicas there are to be.
    pub replicas: usize,
}

/// Reads the settings of `modelstream status`.
///
/// # Errors
/// When the model is none, or the wait is too long.
pub fn status(status: &cli::Status) -> Result<Status, ConfigError> {
    let model = status.model.as_deref().map(selector).transpose()?.map(|selector| selector.to_string());
    let wait = status.wait.unwrap_or_default();
    if wait > WAIT_MAX {
        return Err(ConfigError::Relation(format!("--wait {wait:?}: expected at most {WAIT_MAX:?}")));
    }
    Ok(Status { model, group: status.group.clone(), wait, replicas: status.replicas as usize })
}

/// What `--latency`, `--balanced` and `--throughput` set.
struct Profile {
    commit_interval: Duration,
    linger: Duration,
}

impl Profile {
    /// Of the flags `--latency` and `--throughput`.
    fn of(latency: bool, throughput: bool) -> Profile {
        let (millis, linger) = match (latency, throughput) {
            (true, _) => (10, Duration::ZERO),
            (false, true) => (1_000, Duration::from_millis(20)),
            (false, false) => (100, LINGER),
        };
        Profile { commit_interval: Duration::from_millis(millis), linger }
    }

    /// The interval that was `given`, or the profile's.
    fn commit_interval(&self, given: Option<Duration>) -> Result<Duration, ConfigError> {
        let interval = given.unwrap_or(self.commit_interval);
        if interval.is_zero() || interval > COMMIT_INTERVAL_MAX {
            return Err(ConfigError::Relation(format!(
                "--commit-interval {interval:?}: expected more than 0 and at most {COMMIT_INTERVAL_MAX:?}"
            )));
        }
        Ok(interval)
    }

    fn connection(&self, common: &cli::Common) -> Result<Connection, ConfigError> {
        Ok(connection(common)?.with_linger(self.linger))
    }
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterSelection {
    /// The topic that they are in.
    pub topic: String,
    /// The topic that they came from, where only one is meant.
    pub input: Option<String>,
    /// Their reasons; none is every reason.
    pub reasons: Vec<String>,
    /// The earliest failure.
    pub since: Option<SystemTime>,
    /// What the latest failure is before.
    pub until: Option<SystemTime>,
    /// The only partition.
    pub partition: Option<i32>,
    /// The first offset of the partitions that `from_of` does not name.
    pub from: i64,
    /// The first offset by partition.
    pub from_of: BTreeMap<i32, i64>,
    /// The last offset.
    pub to: Option<i64>,
}

impl DeadLetterSelection {
    /// The first offset of a partition.
    pub fn first_offset(&self, partition: i32) -> i64 {
        self.from_of.get(&partition).copied().unwrap_or(self.from)
    }
}

/// What `--input`, `--topic` and the filters select, at the time `now`.
///
/// # Errors
/// When a time or an offset is none.
pub fn dead_letters(
    topic: &cli::DeadLetterTopic,
    filter: &cli::DeadLetterFilter,
    now: SystemTime,
) -> Result<DeadLetterSelection, ConfigError> {
    let time = |flag: &str, text: &Option<String>| text.as_deref().map(|text| moment(flag, text, now)).transpose();
    let mut selection = DeadLetterSelection {
        topic: dead_letter_topic(topic)?,
        input: topic.input.clone(),
        reasons: filter.reason.clone(),
        since: time("--since", &filter.since)?,
        until: time("--until", &filter.until)?,
        partition: filter.partition,
        to: filter.to,
        ..DeadLetterSelection::default()
    };
    for from in &filter.from {
        if from.contains(':') {
            let (partition, offset) = position("--from", from)?;
            selection.from_of.insert(partition, offset);
        } else {
            selection.from = from.parse().ok().filter(|offset| *offset >= 0).ok_or_else(|| not_an_offset(from))?;
        }
    }
    Ok(selection)
}

/// The one dead letter at a `PARTITION:OFFSET`.
///
/// # Errors
/// When it is none.
pub fn dead_letter_at(topic: &cli::DeadLetterTopic, at: &str) -> Result<DeadLetterSelection, ConfigError> {
    let (partition, offset) = position("the dead letter's position", at)?;
    let (partition, to) = (Some(partition), Some(offset));
    let topic = dead_letter_topic(topic)?;
    Ok(DeadLetterSelection { topic, partition, from: offset, to, ..DeadLetterSelection::default() })
}

fn dead_letter_topic(topic: &cli::DeadLetterTopic) -> Result<String, ConfigError> {
    let of_input = || topic.input.as_deref().map(dead_letters_of);
    let missing = || ConfigError::Relation("--input TOPIC or --topic TOPIC says whose dead letters".to_owned());
    topic.topic.clone().or_else(of_input).ok_or_else(missing)
}

/// Reads a point in time, or an age.
fn moment(flag: &str, text: &str, now: SystemTime) -> Result<SystemTime, ConfigError> {
    let time = humantime::parse_rfc3339_weak(text).ok();
    let age = || humantime::parse_duration(text).ok().and_then(|age| now.checked_sub(age));
    time.or_else(age).ok_or_else(|| {
        ConfigError::Relation(format!(
            "{flag} {text}: expected a time such as 2026-01-31T12:00:00Z, or an age such as 2h"
        ))
    })
}

fn position(what: &str, text: &str) -> Result<(i32, i64), ConfigError> {
    let parts =
        text.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parts
        .filter(|(partition, offset)| *partition >= 0 && *offset >= 0)
        .ok_or_else(|| ConfigError::Relation(format!("{what} {text}: expected PARTITION:OFFSET, for example 0:17")))
}

fn not_an_offset(text: &str) -> ConfigError {
    ConfigError::Relation(format!("--from {text}: expected OFFSET or PARTITION:OFFSET, for example 17 or 0:17,1:20"))
}

/// Resolves a `HOST:PORT`.
///
/// # Errors
/// When it is none, or the host has no address.
pub fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let failed = |reason: String| ConfigError::Address { address: text.to_owned(), reason };
    let mut addresses = text.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    addresses.next().ok_or_else(|| failed("the host has no address".to_owned()))
}

/// Reads an Avro schema file.
///
/// # Errors
/// When the file cannot be read or is too large to be a schema.
pub fn read_schema(path: &Path) -> Result<String, ConfigError> {
    small_file(path, SCHEMA_BYTES_MAX)
}

/// Reads a text file of at most `limit` bytes.
fn small_file(path: &Path, limit: u64) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > limit {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// This machine's name.
pub fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

/// Processes of one host listen on different ports, so the port tells them apart, also after a restart.
fn instance(listen: &str) -> String {
    let port = listen.rsplit(':').next().filter(|port| *port != "0");
    format!("{}-{}", host(), port.map_or_else(|| format!("p{}", std::process::id()), str::to_owned))
}

/// No topic that is read is written, or outputs would be read as records; and predictions are no dead letters.
fn check_topics(inputs: &[LaneSettings]) -> Result<(), ConfigError> {
    let clash = |one: &str, other: &str, topic: &str| {
        let rule =
            format!("{one} and {other} are the same topic, {topic}: outputs would be read as records; name another");
        Err(ConfigError::Relation(rule))
    };
    for LaneSettings { input, .. } in inputs {
        for LaneSettings { output, dead_letters, .. } in inputs {
            if input == output {
                return clash("--input", "--output", input);
            }
            if input == dead_letters {
                return clash("--input", "--dead-letters", input);
            }
            if output == dead_letters {
                return clash("--output", "--dead-letters", output);
            }
        }
    }
    Ok(())
}

fn offset_reset(word: &str) -> OffsetReset {
    match word {
        "earliest" => OffsetReset::Earliest,
        "latest" => OffsetReset::Latest,
        _ => OffsetReset::Error,
    }
}

fn input_format(serve: &cli::Serve) -> Result<InputFormat, ConfigError> {
    let rule = |text: &str| Err(ConfigError::Relation(text.to_owned()));
    match (serve.input_format.as_str(), &serve.input_schema) {
        ("avro", None) => rule("--input-format avro needs --input-schema FILE.avsc: the schema of the records"),
        ("avro", Some(_)) if serve.features_field.is_some() => rule("--features-field goes with --input-format json"),
        ("avro", Some(path)) => {
            let framing = if serve.confluent_framing { AvroFraming::Confluent } else { AvroFraming::None };
            InputFormat::avro(&read_schema(path)?, framing)
                .map_err(|error| ConfigError::Schema { path: path.clone(), reason: error.to_string() })
        }
        (_, Some(_)) => rule("--input-schema goes with --input-format avro"),
        (_, None) if serve.confluent_framing => rule("--confluent-framing goes with --input-format avro"),
        (_, None) => Ok(InputFormat::Json { field: serve.features_field.clone() }),
    }
}

fn output_format(serve: &cli::Serve) -> OutputFormat {
    let probabilities = !serve.no_probabilities;
    match serve.output_format.as_str() {
        "avro" => OutputFormat::Avro { probabilities },
        _ => OutputFormat::Json { probabilities },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn selected(line: &[&str]) -> Result<DeadLetterSelection, ConfigError> {
        let words = ["modelstream", "dead-letters", "list"].iter().chain(line).map(|word| (*word).into());
        let cli::Verb::DeadLetters(cli::DeadLetters::List(list)) = cli::try_parse(words).expect("a line").verb else {
            panic!("another verb")
        };
        dead_letters(&list.topic, &list.filter, UNIX_EPOCH + Duration::from_secs(7_200))
    }

    #[test]
    fn dead_letters_are_selected_by_topic_time_and_offset() {
        let selection =
            selected(&["--input", "in", "--since", "1h", "--until", "1970-01-01T01:30:00Z"]).expect("valid");
        assert_eq!((selection.topic.as_str(), selection.input.as_deref()), ("in.dead-letters", Some("in")));
        assert_eq!(selection.since, Some(UNIX_EPOCH + Duration::from_secs(3_600)));
        assert_eq!(selection.until, Some(UNIX_EPOCH + Duration::from_secs(5_400)));
        let selection =
            selected(&["--topic", "t", "--from", "0:17,2:20", "--reason", "oversize,null_value"]).expect("valid");
        assert_eq!((selection.topic.as_str(), selection.input), ("t", None));
        assert_eq!(
            [0, 1, 2].map(|partition| DeadLetterSelection::first_offset(
                &selected(&["--topic", "t", "--from", "0:17,2:20,5"]).expect("valid"),
                partition
            )),
            [17, 5, 20]
        );
        assert_eq!(selection.reasons, ["oversize", "null_value"]);
    }

    #[test]
    fn what_is_no_time_or_offset_is_refused_with_an_example() {
        let nothing = selected(&[]).expect_err("no topic").to_string();
        assert!(nothing.contains("--input") && nothing.contains("--topic"), "{nothing}");
        for (flag, value, example) in [
            ("--since", "yesterday", "2h"),
            ("--until", "99999999999999y", "2h"),
            ("--from", "x", "0:17"),
            ("--from", "0:x", "0:17"),
            ("--from", "0:1:2", "0:17"),
            ("--from=-1", "--to=1", "17"),
        ] {
            let refused = selected(&["--topic", "t", flag, value]).expect_err("no such time or offset");
            assert!(refused.to_string().contains(example), "{flag} {value}: {refused}");
        }
    }
}
