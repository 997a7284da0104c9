//! The flags of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;

/// `modelstream serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The model to serve: `iris` follows the newest version, `iris@champion` what the alias names, `iris:7` stays at version 7.
    /// May be given more than once, each with its own version; then `--route` says which record is for which. While one of them has no version, the lanes that serve it wait.
    #[arg(long, required = true, value_name = "NAME[:VERSION|@ALIAS],…", value_delimiter = ',')]
    pub model: Vec<String>,
    /// The topic with the records to score. May be given more than once: each input has lanes of its own. With `--route topic` each
    /// names the model that scores it.
    #[arg(long, required = true, value_name = "TOPIC[=MODEL],…", value_delimiter = ',')]
    pub input: Vec<String>,
    /// Where a record says which model it is for: `header:NAME`, the record's header of that name; `field:NAME`, a field of the
    /// top level of a JSON or Avro record; `topic`, its input. A record for none of the models is a dead letter (`unknown_model`).
    #[arg(long, value_name = "header:NAME|field:NAME|topic")]
    pub route: Option<String>,
    /// The longest time that scoring one row may take: a version whose golden rows take longer is refused.
    #[arg(long, default_value = "50ms", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub row_budget: Duration,
    /// A directory for a copy of the last good version: where the model log cannot be read at start, that is served, and said to be
    /// stale.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The topic for the predictions.
    #[arg(long, value_name = "TOPIC")]
    pub output: String,
    /// The topic for records that cannot be scored [default: `INPUT.dead-letters`].
    #[arg(long, value_name = "TOPIC")]
    pub dead_letters: Option<String>,
    /// Whose headers dead letters carry: ours, or in addition those of Kafka Connect (`__connect.errors.…`) or of Spring Kafka
    /// (`kafka_dlt-…`), for tools that look for them.
    #[arg(long, default_value = "modelstream", value_parser = PossibleValuesParser::new(["modelstream", "connect", "spring"]))]
    pub dead_letter_headers: String,
    /// The consumer group [default: `modelstream.MODEL.INPUT`; of an input with several models `modelstream.INPUT`].
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Threads of each input, each with a consumer and a producer of its own. Partitions are spread over the lanes of all processes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lanes: u16,
    /// What is promised when something dies. `exactly-once`: each record has one prediction or one dead letter; outputs and
    /// offsets are one Kafka transaction, and readers need `isolation.level=read_committed`. `at-least-once`: no record is lost,
    /// some may be predicted twice; for brokers without transactions.
    #[arg(long, default_value = "exactly-once", value_parser = PossibleValuesParser::new(["exactly-once", "at-least-once"]))]
    pub delivery: String,
    /// What tells this process from the others of its group; part of its transactional ids, and its name in `status`. With the
    /// same name after a crash it ends at once what its predecessor left open, otherwise that takes ten seconds
    /// [default: host and port of `--listen`, or host and process where the port is 0].
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// Lanes are static members of the group, named after `--instance`: a restart within the session timeout is no rebalance. A
    /// process that is gone for good keeps its partitions until then.
    #[arg(long)]
    pub static_membership: bool,
    /// For answers within milliseconds: commits every 10 ms; without transactions, sends at once.
    #[arg(long, group = "profile")]
    pub latency: bool,
    /// Between the two [the default]: commits every 100 ms.
    #[arg(long, group = "profile")]
    pub balanced: bool,
    /// For the most records per second: commits every second; without transactions, sends larger batches.
    #[arg(long, group = "profile")]
    pub throughput: bool,
    /// How often finished records are committed; earlier when the input is idle. While more records wait than the lane can
    /// score, a transaction takes up to four times as long, at most a second [default: the profile's].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub commit_interval: Option<Duration>,
    /// Commit at the latest after this many records: it bounds what is done again after a failure, where the interval does not.
    #[arg(long, default_value_t = 250_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub commit_records: u64,
    /// Commit at the latest after this many bytes of outputs.
    #[arg(long, default_value_t = 32 * 1024 * 1024, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1_073_741_824))]
    pub commit_bytes: u64,
    /// The largest share of dead letters, of at least 100 records in ten to twenty seconds, that does not stop the flow; 1 never
    /// stops it.
    #[arg(long, default_value_t = 0.9, value_name = "SHARE")]
    pub dead_letter_share_max: f64,
    /// How long a lane may make no progress although records wait; then the process exits with code 9.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub stall_timeout: Duration,
    /// How often the process reports on the status topic when nothing changes [default: 10s].
    #[arg(long, hide = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub report_interval: Option<Duration>,
    /// Where a partition starts whose committed offset no longer exists. A group that has committed nothing yet starts at the
    /// earliest record, or at the latest with `latest`; `error` stops when a committed offset was deleted. With the others the
    /// records that are skipped are counted (`modelstream_skipped_records_total`) and logged.
    #[arg(long, default_value = "error", value_parser = PossibleValuesParser::new(["error", "earliest", "latest"]))]
    pub offset_reset: String,
    /// How the records are written.
    #[arg(long, default_value = "json", value_parser = PossibleValuesParser::new(["json", "avro"]))]
    pub input_format: String,
    /// The Avro schema file of the records (with `--input-format avro`).
    #[arg(long, value_name = "FILE.avsc")]
    pub input_schema: Option<PathBuf>,
    /// The Avro records carry the five bytes of Confluent's wire format in front; they are skipped, the schema stays the
    /// one of `--input-schema`.
    #[arg(long)]
    pub confluent_framing: bool,
    /// The field of a JSON record under which the features stand, where they are nested.
    #[arg(long, value_name = "NAME")]
    pub features_field: Option<String>,
    /// How predictions are written; Avro uses `schemas/prediction.avsc`.
    #[arg(long, default_value = "json", value_parser = PossibleValuesParser::new(["json", "avro"]))]
    pub output_format: String,
    /// Leave the class probabilities out of the predictions.
    #[arg(long)]
    pub no_probabilities: bool,
    /// The most records that a lane scores together; more while the transaction before is being delivered, if they are scored fast.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_records: u32,
    /// How long a stopping process finishes what it has; then it exits with code 4 when the broker is away, 1 when a lane hangs.
    #[arg(long, default_value = "25s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,
    /// Where `/metrics`, `/live`, `/ready`, `/status` are served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "HOST:PORT")]
    pub listen: String,
}
