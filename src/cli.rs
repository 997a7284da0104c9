//! Every flag, documented on its field. The only file naming clap.
//!
//! A setting's value is looked for in this order: the flag, the environment variable `MODELSTREAM_<FLAG>` (upper case,
//! `_` for `-`), the file of `--config` (top-level keys for the flags of every verb, a table for each verb), the default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

/// The values of `train --algorithm`; a test compares them with those that the trainer knows.
pub const ALGORITHMS: [&str; 10] = [
    "random-forest",
    "decision-tree",
    "extra-trees",
    "logistic-regression",
    "linear-regression",
    "ridge",
    "lasso",
    "elastic-net",
    "gaussian-naive-bayes",
    "gradient-boosting",
];

/// The values of `dead-letters --reason`; a test compares them with those that a server writes.
pub const REASONS: [&str; 12] = [
    "null_value",
    "oversize",
    "unknown_schema",
    "undecodable",
    "wrong_shape",
    "missing_feature",
    "wrong_type",
    "non_finite",
    "unknown_category",
    "model_error",
    "output_oversize",
    "unknown_model",
];

/// Machine-learned predictions on a Kafka topic: exactly one for each record, by models that arrive on Kafka too.
#[derive(Debug, Parser)]
#[command(name = "modelstream", version, propagate_version = true, max_term_width = 120, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Kafka brokers to bootstrap from: `host:port`, comma-separated [default: 127.0.0.1:9092; `demo`: an embedded broker].
    #[arg(short, long, global = true, value_name = "HOST:PORT,…")]
    pub brokers: Option<String>,
    /// A librdkafka property for every client, as with kcat: `-X security.protocol=sasl_ssl`. May be given more than once.
    /// Properties on which a promise rests (`enable.auto.commit`, `isolation.level`, …) are refused.
    #[arg(short = 'X', long = "property", global = true, value_name = "KEY=VALUE")]
    pub properties: Vec<String>,
    /// A TOML file with settings: top-level keys for these common flags, a table for each verb (`[serve]`).
    #[arg(long, global = true, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Print one JSON document, or JSON lines, on stdout instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// How log lines look on stderr.
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// The topic that carries manifests and control records.
    #[arg(long, global = true, default_value = "modelstream.models", value_name = "TOPIC")]
    pub models_topic: String,
    /// The topic that carries the artifacts' chunks.
    #[arg(long, global = true, default_value = "modelstream.artifacts", value_name = "TOPIC")]
    pub artifacts_topic: String,
    /// A file with a public key (PEM) that records of the model log must be signed with; more than once where any one of several
    /// will do, as while keys are changed. Without it signatures are not looked at.
    #[arg(long, global = true, value_name = "FILE.pub")]
    pub trusted_key: Vec<PathBuf>,
    /// The topic on which serving processes report what they serve.
    #[arg(long, global = true, default_value = "modelstream.status", value_name = "TOPIC")]
    pub status_topic: String,
}

/// What those verbs take that write to the model log.
#[derive(Debug, Clone, Default, Args)]
pub struct Signing {
    /// The file with the private key (PEM) that the records are signed with; `modelstream keys generate` makes one.
    #[arg(long, value_name = "FILE.key")]
    pub signing_key: Option<PathBuf>,
}

/// What those verbs take that decide about a model.
#[derive(Debug, Clone, Args)]
pub struct Deciding {
    /// Why, for those who read `models history`.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub why: String,
    #[command(flatten)]
    pub signing: Signing,
}

/// The brokers where none are given.
pub const DEFAULT_BROKERS: &str = "127.0.0.1:9092";

impl Cli {
    /// -1 with `--quiet`, else how often `--verbose` stands there. The demo speaks for itself and logs one step less.
    pub fn verbosity(&self) -> i8 {
        let said = if self.common.quiet { -1 } else { i8::try_from(self.common.verbose).unwrap_or(i8::MAX) };
        if matches!(self.verb, Verb::Demo(_)) { said - 1 } else { said }
    }
}

impl Common {
    /// The bootstrap addresses.
    pub fn brokers(&self) -> &str {
        self.brokers.as_deref().unwrap_or(DEFAULT_BROKERS)
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show the whole way in half a minute: an embedded broker, a trainer, two lanes, a better model while records flow.
    Demo(Demo),
    /// Fit a model on a CSV file, report how good it is, write it to a file or publish it.
    Train(Box<Train>),
    /// Publish a model file as a new version on the model log.
    Publish(Publish),
    /// Score every record of an input topic with the newest version of a model.
    Serve(Box<Serve>),
    /// Score a CSV or JSON-lines file without a serving process; JSON lines on stdout.
    Predict(Predict),
    /// Look at the model log, and decide which version is served.
    #[command(subcommand)]
    Models(Models),
    /// Make and revoke the keys that the model log is signed with.
    #[command(subcommand)]
    Keys(Keys),
    /// Show whether each serving process serves the version that it should; exit code 8 when one does not.
    ///
    /// A process that has missed three reports (30 s) is silent, and the fleet has not converged; after ten minutes it is gone:
    /// it is shown, and does not count. One that is stopped takes its report back.
    Status(Status),
    /// Send a CSV or JSON-lines file to a topic.
    Produce(Produce),
    /// Print the records of a topic as they come.
    Tail(Tail),
    /// Look at the records that could not be scored, and send them again.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Create the topics that serving needs.
    #[command(subcommand)]
    Topics(Topics),
    /// Measure throughput and latency on a cluster: with topics, records and a serving process of its own.
    Bench(Box<Bench>),
    /// Copy one topic to another as it is: what `bench --raw` measures.
    #[command(hide = true)]
    PassThrough(PassThrough),
    /// Print the shell's completion script.
    Completions {
        /// The shell to complete for.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff): `modelstream man | man -l -`.
    Man,
}

/// `modelstream demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// How long records flow.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u64).range(4..=86_400))]
    pub seconds: u64,
    /// Records per second that the producer sends.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Where `/metrics` and `/status` are served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    pub listen: String,
}

/// `modelstream train`
#[derive(Debug, Args)]
pub struct Train {
    /// A CSV file with a header; `-` reads stdin.
    #[arg(value_name = "DATA.csv")]
    pub data: PathBuf,
    /// The column to predict.
    #[arg(long, value_name = "COLUMN")]
    pub target: String,
    /// What kind of target it is; taken from the data when not given.
    #[arg(long, value_parser = PossibleValuesParser::new(["classification", "regression"]))]
    pub task: Option<String>,
    /// How to fit.
    #[arg(long, default_value = "random-forest", value_parser = PossibleValuesParser::new(ALGORITHMS))]
    pub algorithm: String,
    /// Columns to leave out, comma-separated.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub drop: Vec<String>,
    /// Columns to treat as words although they look like numbers, comma-separated.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub categorical: Vec<String>,
    /// How categories become columns.
    #[arg(long, default_value = "one-hot", value_parser = PossibleValuesParser::new(["one-hot", "ordinal"]))]
    pub encoding: String,
    /// What the server does with a category that the trainer never saw: a dead letter, or a row without that category.
    #[arg(long, default_value = "refuse", value_parser = PossibleValuesParser::new(["refuse", "ignore"]))]
    pub unknown_category: String,
    /// Leave out rows without a target instead of failing.
    #[arg(long)]
    pub drop_missing_target: bool,
    /// The share of the rows that the model is evaluated on and never sees; 0 evaluates nothing.
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    pub test_size: f64,
    /// Seed of the split and of the algorithm; same data and seed, same digest.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Also evaluate by K-fold cross-validation.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=100))]
    pub folds: Option<u32>,
    /// Refuse to write or publish a model below the bar, for example `f1>=0.95` or `rmse<=2.5` (exit code 8). May be given
    /// more than once.
    #[arg(long, value_name = "METRIC>=VALUE")]
    pub require: Vec<String>,
    /// Write the artifact to this file.
    #[arg(long, value_name = "FILE.model")]
    pub out: Option<PathBuf>,
    /// Publish the artifact as a new version of `--model`.
    #[arg(long, requires = "model")]
    pub publish: bool,
    /// The name of the model to publish.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// A sentence for the model card.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub note: String,
    #[command(flatten)]
    pub signing: Signing,
    #[command(flatten)]
    pub hyper: Hyper,
}

/// Hyper-parameters by scikit-learn's names; one that the algorithm lacks is an error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Hyper-parameters (scikit-learn's names)")]
pub struct Hyper {
    /// Trees of a forest, rounds of boosting.
    #[arg(long, value_name = "N")]
    pub n_estimators: Option<usize>,
    /// The deepest that a tree may grow.
    #[arg(long, value_name = "N")]
    pub max_depth: Option<u16>,
    /// The fewest rows of a leaf.
    #[arg(long, value_name = "N")]
    pub min_samples_leaf: Option<usize>,
    /// The fewest rows of a node that is split.
    #[arg(long, value_name = "N")]
    pub min_samples_split: Option<usize>,
    /// Columns that a split chooses from: `sqrt`, `log2`, a number of columns, or a share such as `0.5`.
    #[arg(long, value_name = "sqrt|log2|N|SHARE")]
    pub max_features: Option<String>,
    /// How a classification tree judges a split: `gini`, `entropy`.
    #[arg(long, value_name = "NAME")]
    pub criterion: Option<String>,
    /// Inverse strength of logistic regression's L2 penalty.
    #[arg(long = "C", value_name = "VALUE")]
    pub c: Option<f64>,
    /// Strength of the penalty of ridge, lasso, elastic-net.
    #[arg(long, value_name = "VALUE")]
    pub alpha: Option<f64>,
    /// Share of L1 in elastic-net's penalty.
    #[arg(long, value_name = "SHARE")]
    pub l1_ratio: Option<f64>,
    /// How much each boosting round counts.
    #[arg(long, value_name = "VALUE")]
    pub learning_rate: Option<f64>,
    /// Share of the rows that each boosting round sees.
    #[arg(long, value_name = "SHARE")]
    pub subsample: Option<f64>,
    /// Share of the largest variance that naive Bayes adds to all variances.
    #[arg(long, value_name = "VALUE")]
    pub var_smoothing: Option<f64>,
    /// The most iterations of an iterative solver.
    #[arg(long, value_name = "N")]
    pub max_iter: Option<usize>,
    /// When an iterative solver stops.
    #[arg(long, value_name = "VALUE")]
    pub tol: Option<f64>,
}

/// `modelstream publish`
#[derive(Debug, Args)]
pub struct Publish {
    /// The file that `train --out` wrote.
    #[arg(value_name = "FILE.model")]
    pub file: PathBuf,
    /// The model's name.
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// Claim this version number instead of the next one. The same version with the same bytes is a no-op; with other
    /// bytes it is refused.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub as_version: Option<u64>,
    /// A sentence for the model card.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub note: String,
    #[command(flatten)]
    pub signing: Signing,
}

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
    /// For answers within milliseconds: commits every 10 ms, sends at once.
    #[arg(long, group = "profile")]
    pub latency: bool,
    /// Between the two [the default]: commits every 100 ms.
    #[arg(long, group = "profile")]
    pub balanced: bool,
    /// For the most records per second: commits every second, sends larger batches.
    #[arg(long, group = "profile")]
    pub throughput: bool,
    /// How often finished records are committed; earlier when the input is idle [default: the profile's].
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
    /// The most records that a lane scores together; four times as many while the transaction before is being delivered.
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_records: u32,
    /// How long a stopping process finishes what it has; then it exits with code 4 when the broker is away, 1 when a lane hangs.
    #[arg(long, default_value = "25s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,
    /// Where `/metrics`, `/live`, `/ready`, `/status` are served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "HOST:PORT")]
    pub listen: String,
}

/// `modelstream predict`
#[derive(Debug, Args)]
pub struct Predict {
    /// A CSV file with a header, or JSON lines (by the name's end or `--format`); `-` reads stdin.
    #[arg(value_name = "DATA.csv|DATA.jsonl|-")]
    pub data: PathBuf,
    /// Score with this file.
    #[arg(long, value_name = "FILE.model", conflicts_with = "model", required_unless_present = "model")]
    pub artifact: Option<PathBuf>,
    /// Score with a version from the model log.
    #[arg(long, value_name = "NAME[:VERSION|@ALIAS]")]
    pub model: Option<String>,
    /// What the data is [default: by the file name's end; csv for stdin].
    #[arg(long, value_parser = PossibleValuesParser::new(["csv", "jsonl"]))]
    pub format: Option<String>,
    /// The field of a JSON line under which the features stand, where they are nested.
    #[arg(long, value_name = "NAME")]
    pub features_field: Option<String>,
}

/// `modelstream models`
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Every model with its versions, and which replica refused one and why.
    List {
        /// Only this model.
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
    /// The model card of a version.
    Show {
        /// The newest version of a model, or the one that is named by its number or an alias.
        #[arg(value_name = "NAME[:VERSION|@ALIAS]")]
        model: String,
    },
    /// Write the artifact of a version to a file.
    Pull {
        /// The newest version of a model, or the one that is named by its number or an alias.
        #[arg(value_name = "NAME[:VERSION|@ALIAS]")]
        model: String,
        /// The file to write [default: NAME-VERSION.model].
        #[arg(long, value_name = "FILE.model")]
        out: Option<PathBuf>,
    },
    /// Put versions through the checks that a serving process makes before it serves them (exit code 7 when one fails).
    Verify {
        /// A version of the model log, or a file.
        #[arg(value_name = "NAME[:VERSION|@ALIAS]|FILE.model")]
        model: String,
    },
    /// Names for versions: `serve --model iris@champion` follows one.
    #[command(subcommand)]
    Alias(Alias),
    /// Hold those that follow the newest version at this one.
    Pin {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The version.
        #[arg(id = "number", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Let those that follow the newest version have it again.
    Unpin {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Give an alias back to the version that it named before.
    Rollback {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The alias.
        #[arg(long, default_value = "champion", value_name = "ALIAS")]
        alias: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Forbid a version: nobody may serve it any more, and those that do fall back at once. For ever.
    Revoke {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The version.
        #[arg(id = "number", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
        /// Why, for those who read `models history`.
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        signing: Signing,
    },
    /// Who published or decided what, when and why.
    History {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
    },
    /// Remove old versions from the model log, but none that an alias or a pin holds.
    Prune {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// How many of the newest versions stay.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Only show what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        deciding: Deciding,
    },
}

/// `modelstream models alias`
#[derive(Debug, Subcommand)]
pub enum Alias {
    /// Let an alias name a version from now on.
    Set {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The alias: `champion`, `challenger`, `staging`.
        #[arg(value_name = "ALIAS")]
        alias: String,
        /// The version.
        #[arg(id = "number", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Take an alias away; whoever follows it stays at the version that it named.
    Delete {
        /// The model.
        #[arg(value_name = "NAME")]
        model: String,
        /// The alias.
        #[arg(value_name = "ALIAS")]
        alias: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Every alias of a model, or of all.
    List {
        /// Only this model.
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
}

/// `modelstream keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key pair: `OUT.key` for those who publish, `OUT.pub` for those who serve.
    Generate {
        /// Where to write it, without the end.
        #[arg(long, default_value = "modelstream", value_name = "OUT")]
        out: PathBuf,
    },
    /// Say what a key is called, as `models list` and `models history` do.
    Show {
        /// A private or a public key.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Tell every process that follows the model log not to believe a key any more, whatever it signed.
    Revoke {
        /// The public key.
        #[arg(value_name = "FILE.pub")]
        file: PathBuf,
        #[command(flatten)]
        deciding: Deciding,
    },
}

/// `modelstream status`
#[derive(Debug, Args)]
pub struct Status {
    /// Only the replicas that serve this model; with a version or an alias only those that were told exactly that.
    #[arg(long, value_name = "NAME[:VERSION|@ALIAS]")]
    pub model: Option<String>,
    /// Only the replicas of this consumer group.
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Wait until the fleet has converged, this long at most: for deployment scripts.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// The fleet has not converged before so many replicas report: those that are about to start count too.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub replicas: u32,
}

/// `modelstream produce`
#[derive(Debug, Args)]
pub struct Produce {
    /// A CSV file with a header, or JSON lines; `-` reads stdin.
    #[arg(value_name = "DATA.csv|DATA.jsonl|-")]
    pub data: PathBuf,
    /// The topic to send to.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// What the data is [default: by the file name's end; csv for stdin].
    #[arg(long, value_parser = PossibleValuesParser::new(["csv", "jsonl"]))]
    pub data_format: Option<String>,
    /// How the records are written.
    #[arg(long, default_value = "json", value_parser = PossibleValuesParser::new(["json", "avro"]))]
    pub format: String,
    /// The Avro schema file of the records (with `--format avro`).
    #[arg(long, value_name = "FILE.avsc")]
    pub schema: Option<PathBuf>,
    /// The column whose value becomes the record's key; it stays in the record.
    #[arg(long, value_name = "COLUMN")]
    pub key_column: Option<String>,
    /// Columns to leave out, comma-separated: the label, for example.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    pub drop: Vec<String>,
    /// Records per second; as fast as it goes when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Send the data this many times; 0 for ever.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub repeat: u64,
}

/// `modelstream tail`
#[derive(Debug, Args)]
pub struct Tail {
    /// The topic to read, with read_committed.
    #[arg(long, value_name = "TOPIC")]
    pub topic: String,
    /// Start at the beginning, not at the end.
    #[arg(long)]
    pub from_beginning: bool,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
    /// Stop when there is nothing more to read.
    #[arg(long)]
    pub exit_at_end: bool,
}

/// `modelstream dead-letters`
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// A line for each dead letter, and how many there are by reason.
    List(DeadLettersList),
    /// One dead letter in full: headers, key, value.
    Show(DeadLettersShow),
    /// Send dead letters to the topic that they came from, as they were.
    ///
    /// Key, value, headers, timestamp and partition are kept. Each carries along how often it has failed, so that none is
    /// replayed for ever. They go in transactions: readers see whole chunks or nothing of one. A second replay of the same
    /// dead letters sends them again; what `--from` has to be to continue behind them is printed.
    Replay(DeadLettersReplay),
}

/// Which topic of dead letters.
#[derive(Debug, Args)]
pub struct DeadLetterTopic {
    /// The input topic whose dead letters are meant; this or `--topic` is needed.
    #[arg(long, value_name = "TOPIC")]
    pub input: Option<String>,
    /// The topic with the dead letters [default: `INPUT.dead-letters`].
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
}

/// Which dead letters of a topic.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which dead letters")]
pub struct DeadLetterFilter {
    /// Only those with one of these reasons, comma-separated.
    #[arg(long, value_name = "REASON,…", value_delimiter = ',', value_parser = PossibleValuesParser::new(REASONS))]
    pub reason: Vec<String>,
    /// Only those that failed at this time or later: `2026-01-31T12:00:00Z`, or an age such as `2h`.
    #[arg(long, value_name = "TIME|AGE")]
    pub since: Option<String>,
    /// Only those that failed before this time, or longer ago than this age.
    #[arg(long, value_name = "TIME|AGE")]
    pub until: Option<String>,
    /// Only those of this partition of the dead-letter topic.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Only those from this offset on: one for every partition, or one each as `replay` prints them, `0:17,1:20`.
    #[arg(long, value_name = "OFFSET|PARTITION:OFFSET,…", value_delimiter = ',')]
    pub from: Vec<String>,
    /// Only those up to this offset, itself included.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to: Option<i64>,
}

/// `modelstream dead-letters list`
#[derive(Debug, Args)]
pub struct DeadLettersList {
    #[command(flatten)]
    pub topic: DeadLetterTopic,
    /// The most dead letters to show: those that failed last [default: 100; with `--json` all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: Option<u32>,
    #[command(flatten)]
    pub filter: DeadLetterFilter,
}

/// `modelstream dead-letters show`
#[derive(Debug, Args)]
pub struct DeadLettersShow {
    /// The partition and offset of the dead letter, as `list` shows them.
    #[arg(value_name = "PARTITION:OFFSET")]
    pub position: String,
    #[command(flatten)]
    pub topic: DeadLetterTopic,
    /// Write the value's bytes to stdout, and nothing else.
    #[arg(long)]
    pub value_only: bool,
}

/// `modelstream dead-letters replay`
#[derive(Debug, Args)]
pub struct DeadLettersReplay {
    #[command(flatten)]
    pub topic: DeadLetterTopic,
    /// Send to this topic instead of the one that each came from.
    #[arg(long, value_name = "TOPIC")]
    pub to_topic: Option<String>,
    /// Say what would be sent, and send nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Leave those that have failed this often.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_attempts: u32,
    /// Stop after this many: some to try with, before the rest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Records per second; as fast as it goes when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    #[command(flatten)]
    pub filter: DeadLetterFilter,
}

/// `modelstream topics`
#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Create what is missing, with the settings that serving needs; what exists stays as it is.
    Init(TopicsInit),
}

/// `modelstream topics init`
#[derive(Debug, Args)]
pub struct TopicsInit {
    /// The topic with the records to score.
    #[arg(long, value_name = "TOPIC")]
    pub input: Option<String>,
    /// The topic for the predictions.
    #[arg(long, value_name = "TOPIC")]
    pub output: Option<String>,
    /// The topic for dead letters [default: `INPUT.dead-letters`].
    #[arg(long, value_name = "TOPIC", requires = "input")]
    pub dead_letters: Option<String>,
    /// Partitions of input and output (and dead letters).
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Replicas of each topic [default: 3, or as many as there are brokers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=32))]
    pub replication: Option<i32>,
    /// Say what would be created, and create nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `modelstream bench`
///
/// Makes topics of its own, starts `serve` as a process, sends records that fit the model, reads what comes out with
/// read_committed, checks that each record came out exactly once (exit code 8), and removes its topics.
#[derive(Debug, Args)]
pub struct Bench {
    /// Records per second, whatever comes out (an open loop): latency counts from when a record was due, so waiting is not
    /// hidden. Without it all `--records` are in the input topic before the process starts, and its throughput is measured.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// How long records flow, with `--rate` [default: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
    /// How many records [default: 1000000; with `--rate` as many as `--seconds` needs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// The first records are sent and checked, and not measured, with `--rate` [default: 2s, at most a fifth]. Without a rate
    /// it is the first tenth.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub warmup: Option<Duration>,
    /// Partitions of the input and of the output topic.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub partitions: i32,
    /// Replicas of each topic [default: 3, or as many as there are brokers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=32))]
    pub replication: Option<i32>,
    /// The model to serve, from the model log; nothing is written there [default: a forest of 100 trees on the iris data, on a
    /// model log of its own].
    #[arg(long, value_name = "NAME[:VERSION]", conflicts_with = "artifact")]
    pub model: Option<String>,
    /// Serve this file, from a model log of its own.
    #[arg(long, value_name = "FILE.model")]
    pub artifact: Option<PathBuf>,
    /// How the records are written.
    #[arg(long, default_value = "json", value_parser = PossibleValuesParser::new(["json", "avro"]))]
    pub format: String,
    /// What `serve` promises [default: exactly-once].
    #[arg(long, value_parser = PossibleValuesParser::new(["exactly-once", "at-least-once"]))]
    pub delivery: Option<String>,
    /// How often `serve` commits [default: 100ms].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub commit_interval: Option<Duration>,
    /// Lanes of `serve` [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lanes: Option<u16>,
    /// Measure the raw pass-through instead of `serve`: a process that reads and writes the same topics with the same settings,
    /// one message at a time, without a model. What is between the two is what scoring costs.
    #[arg(long, conflicts_with = "command")]
    pub raw: bool,
    /// With `--raw`: each copy carries the six headers that a prediction has, so that what they cost, in this process and in the
    /// broker, is told apart from what scoring costs.
    #[arg(long, requires = "raw")]
    pub headers: bool,
    /// Measure this program instead of `serve`: it reads the topic `$BENCH_INPUT` from its beginning in the group `$BENCH_GROUP`,
    /// writes one record for each to `$BENCH_OUTPUT` under the same key, on the brokers `$BENCH_BROKERS`, until SIGTERM.
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Publish the model as a new version this often while records flow, and measure how soon it predicts.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub swap_every: Option<Duration>,
    /// How long to wait for what comes out; then the rest counts as lost.
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub time_limit: Duration,
    /// What the names of its topics and groups begin with.
    #[arg(long, default_value = "modelstream-bench", value_name = "PREFIX")]
    pub prefix: String,
    /// Leave the topics there, and say what they are.
    #[arg(long)]
    pub keep_topics: bool,
    /// More flags for `serve`: `-- --latency --batch-records 500`.
    #[arg(last = true, value_name = "FLAG")]
    pub serve: Vec<String>,
}

/// `modelstream pass-through`
#[derive(Debug, Args)]
pub struct PassThrough {
    /// The topic to read.
    #[arg(long, value_name = "TOPIC")]
    pub input: String,
    /// The topic to write.
    #[arg(long, value_name = "TOPIC")]
    pub output: String,
    /// The consumer group [default: `modelstream.pass-through.INPUT`].
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Give each copy the six headers that a prediction has: where it comes from, and a model that there is not.
    #[arg(long)]
    pub headers: bool,
}

/// A settings file that does not fit.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read the settings file {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the settings file {path} is not TOML: {message}")]
    Toml { path: PathBuf, message: String },
    #[error("the settings file {path} sets `{key}`, which is no setting{table}; there are: {known}")]
    Unknown { path: PathBuf, key: String, table: String, known: String },
}

/// Reads the command line, the environment and the settings file. Prints help or a usage error and exits (code 2) where
/// those do not parse, as clap does.
///
/// # Errors
/// When the settings file cannot be read or sets what does not exist.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ConfigFileError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = command();
    if let Some(path) = config_path(&arguments) {
        command = with_config(command, &path)?;
    }
    let matches = command.get_matches_from(arguments);
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}

/// As [`parse`], without environment, settings file or exit: for tests of command lines in files.
///
/// # Errors
/// clap's usage error.
pub fn try_parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

/// The declarations with the environment variable of each flag.
pub fn command() -> clap::Command {
    with_environment(Cli::command())
}

/// The completion script of a shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "modelstream", &mut script);
    script
}

/// The manual page, verbs included.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn manual() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let command = Cli::command();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for verb in command.get_subcommands() {
        let name = format!("modelstream-{}", verb.get_name());
        clap_mangen::Man::new(verb.clone().name(name)).render(&mut page)?;
    }
    Ok(page)
}

fn with_environment(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_long() {
        Some("help" | "version") | None => arg,
        Some(long) => {
            let variable = format!("MODELSTREAM_{}", long.replace('-', "_").to_uppercase());
            arg.env(variable).hide_env(true)
        }
    });
    command.mut_subcommands(with_environment)
}

/// The settings file's path: `--config` is looked for before the real parse, because the file sets the real parse's defaults.
fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            break;
        }
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("MODELSTREAM_CONFIG").map(PathBuf::from)
}

fn with_config(command: clap::Command, path: &Path) -> Result<clap::Command, ConfigFileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigFileError::Toml {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    with_defaults(command, &table, path, "")
}

/// Makes each key of `table` the default of the flag of that name; a table goes to the verb of its name.
fn with_defaults(
    mut command: clap::Command,
    table: &toml::Table,
    path: &Path,
    verb: &str,
) -> Result<clap::Command, ConfigFileError> {
    for (key, value) in table {
        if let (toml::Value::Table(inner), Some(subcommand)) = (value, command.find_subcommand(key).cloned()) {
            let changed = with_defaults(subcommand, inner, path, key)?;
            command = command.mut_subcommand(key, |_| changed);
            continue;
        }
        let Some(id) = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(key.as_str()) && key != "config")
            .map(|arg| arg.get_id().clone())
        else {
            return Err(unknown_key(&command, key, path, verb));
        };
        let defaults = default_values(value);
        command = command.mut_arg(id, |arg| arg.required(false).default_values(defaults));
    }
    Ok(command)
}

fn unknown_key(command: &clap::Command, key: &str, path: &Path, verb: &str) -> ConfigFileError {
    let known: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let table = if verb.is_empty() { String::new() } else { format!(" of `{verb}`") };
    ConfigFileError::Unknown { path: path.to_owned(), key: key.to_owned(), table, known: known.join(", ") }
}

fn default_values(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(values) => values.iter().flat_map(default_values).collect(),
        other => vec![other.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(command: clap::Command, line: &[&str]) -> Cli {
        let matches = command.try_get_matches_from(line).expect("a valid line");
        Cli::from_arg_matches(&matches).expect("a valid line")
    }

    #[test]
    fn the_declarations_are_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_settings_file_sets_what_the_command_line_does_not() {
        let table: toml::Table =
            "brokers = 'a:1'\n[serve]\nlanes = 3\noutput = 'out'\nmodel = ['iris', 'wine:2']\nno-probabilities = true\n"
                .parse()
                .expect("TOML");
        let command = with_defaults(command(), &table, Path::new("x.toml"), "").expect("known keys");
        let line = ["modelstream", "serve", "--input", "in", "--lanes", "5"];
        let cli = parsed(command, &line);
        assert_eq!(cli.common.brokers(), "a:1");
        let Verb::Serve(serve) = cli.verb else { panic!("another verb") };
        assert_eq!((serve.lanes, serve.output.as_str(), serve.no_probabilities), (5, "out", true));
        assert_eq!((serve.model, serve.input), (vec!["iris".to_owned(), "wine:2".to_owned()], vec!["in".to_owned()]));
    }

    #[test]
    fn an_unknown_key_names_those_that_there_are() {
        let table: toml::Table = "[serve]\nlane = 3\n".parse().expect("TOML");
        let error = with_defaults(command(), &table, Path::new("x.toml"), "").expect_err("no such key");
        let text = error.to_string();
        assert!(text.contains("`lane`") && text.contains("of `serve`") && text.contains("lanes"), "{text}");
    }

    #[test]
    fn completions_and_the_manual_page_come_from_the_same_declarations() {
        let script = String::from_utf8(completions(clap_complete::Shell::Bash)).expect("text");
        assert!(script.contains("--commit-interval"));
        let page = String::from_utf8(manual().expect("in memory")).expect("text");
        assert!(page.contains("modelstream\\-serve") || page.contains("modelstream-serve"));
    }
}
