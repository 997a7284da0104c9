//! What was typed becomes what is used; every relation between settings is checked here, once.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli;
use crate::kafka::Connection;
use crate::kafka::consumer::OffsetReset;
use crate::kafka::settings::PropertyError;
use crate::pipeline::{AvroFraming, InputFormat, OutputFormat};
use crate::registry::state::SelectorError;
use crate::registry::{Selector, Topics};
use crate::serve::delivery::CommitLimits;
use crate::serve::lane::LaneSettings;
use crate::serve::{self};

/// The longest commit interval: what is not committed is done again after a crash.
pub const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The shortest patience of the watchdog: more than any wait for a broker within a lane's turn.
pub const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(15);
/// The largest schema file that is read.
const SCHEMA_BYTES_MAX: u64 = 1024 * 1024;

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

/// The model log's topics.
pub fn topics(common: &cli::Common) -> Topics {
    Topics { models: common.models_topic.clone(), artifacts: common.artifacts_topic.clone() }
}

/// Reads a `NAME[:VERSION]`.
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
    let selector = selector(&serve.model)?;
    let dead_letters = serve.dead_letters.clone().unwrap_or_else(|| dead_letters_of(&serve.input));
    check_topics(&serve.input, &serve.output, &dead_letters)?;
    let profile = Profile::of(serve);
    let commit_interval = serve.commit_interval.unwrap_or(profile.commit_interval);
    if commit_interval.is_zero() || commit_interval > COMMIT_INTERVAL_MAX {
        return Err(ConfigError::Relation(format!(
            "--commit-interval {commit_interval:?}: expected more than 0 and at most {COMMIT_INTERVAL_MAX:?}"
        )));
    }
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
    let group = serve.group.clone().unwrap_or_else(|| format!("modelstream.{}.{}", selector.model, serve.input));
    let lane = LaneSettings {
        input: serve.input.clone(),
        output: serve.output.clone(),
        dead_letters,
        group,
        offset_reset: offset_reset(&serve.offset_reset),
        batch_records: serve.batch_records as usize,
        exactly_once: serve.delivery == "exactly-once",
        instance: serve.instance.clone().unwrap_or_else(|| instance(&serve.listen)),
        static_membership: serve.static_membership,
        commit: CommitLimits { interval: commit_interval, records: serve.commit_records, bytes: serve.commit_bytes },
        dead_letter_share_max: serve.dead_letter_share_max,
        drain_timeout: serve.drain_timeout,
    };
    Ok(serve::Settings {
        connection: profile.connection(common)?,
        topics: topics(common),
        selector,
        lanes: usize::from(serve.lanes),
        lane,
        input_format: input_format(serve)?,
        output_format: output_format(serve),
        listen: address(&serve.listen)?,
        stall_timeout: serve.stall_timeout,
    })
}

/// What `--latency`, `--balanced` and `--throughput` set.
struct Profile {
    commit_interval: Duration,
    linger: &'static str,
}

impl Profile {
    fn of(serve: &cli::Serve) -> Profile {
        let (millis, linger) = match serve {
            cli::Serve { latency: true, .. } => (10, "linger.ms=0"),
            cli::Serve { throughput: true, .. } => (1_000, "linger.ms=20"),
            cli::Serve { .. } => (100, "linger.ms=2"),
        };
        Profile { commit_interval: Duration::from_millis(millis), linger }
    }

    /// The user's properties come after the profile's, so they win.
    fn connection(&self, common: &cli::Common) -> Result<Connection, ConfigError> {
        let properties = [&[self.linger.to_owned()], common.properties.as_slice()].concat();
        Ok(Connection::new(common.brokers(), &properties)?)
    }
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
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > SCHEMA_BYTES_MAX {
        let reason = format!("it has {bytes} bytes, the limit is {SCHEMA_BYTES_MAX}");
        return Err(ConfigError::Schema { path: path.to_owned(), reason });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Processes of one host listen on different ports, so the port tells them apart, also after a restart.
fn instance(listen: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let port = listen.rsplit(':').next().filter(|port| *port != "0");
    format!("{}-{}", host.trim(), port.map_or_else(|| format!("p{}", std::process::id()), str::to_owned))
}

fn check_topics(input: &str, output: &str, dead_letters: &str) -> Result<(), ConfigError> {
    let clash = |one: &str, other: &str| {
        let rule = format!("{one} and {other} are the same topic: predictions would be read as records; name another");
        Err(ConfigError::Relation(rule))
    };
    if input == output {
        return clash("--input", "--output");
    }
    if input == dead_letters {
        return clash("--input", "--dead-letters");
    }
    if output == dead_letters {
        return clash("--output", "--dead-letters");
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
