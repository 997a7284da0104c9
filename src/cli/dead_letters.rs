//! The flags of `dead-letters`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

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
