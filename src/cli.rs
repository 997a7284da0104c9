//! Every flag, documented on its field. The only room naming clap: a file for each family of verbs; here is what they share.
//!
//! A setting's value is looked for in this order: the flag, the environment variable `MODELSTREAM_<FLAG>` (upper case,
//! `_` for `-`), the file of `--config` (top-level keys for the flags of every verb, a table for each verb), the default.

mod bench;
mod dead_letters;
mod models;
mod records;
mod serve;
mod settings_file;
mod train;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use bench::{Bench, PassThrough};
pub use dead_letters::{
    DeadLetterFilter, DeadLetterTopic, DeadLetters, DeadLettersList, DeadLettersReplay, DeadLettersShow, REASONS,
};
pub use models::{Alias, Deciding, Keys, Models, Publish, Signing};
pub use records::{Predict, Produce, Tail};
pub use serve::Serve;
pub use settings_file::ConfigFileError;
pub use train::{ALGORITHMS, Hyper, Train};

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

/// Reads the command line, the environment and the settings file. Prints help or a usage error and exits (code 2) where
/// those do not parse, as clap does.
///
/// # Errors
/// When the settings file cannot be read or sets what does not exist.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ConfigFileError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = command();
    if let Some(path) = settings_file::config_path(&arguments) {
        command = settings_file::with_config(command, &path)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declarations_are_sound() {
        command().debug_assert();
    }

    #[test]
    fn completions_and_the_manual_page_come_from_the_same_declarations() {
        let script = String::from_utf8(completions(clap_complete::Shell::Bash)).expect("text");
        assert!(script.contains("--commit-interval"));
        let page = String::from_utf8(manual().expect("in memory")).expect("text");
        assert!(page.contains("modelstream\\-serve") || page.contains("modelstream-serve"));
    }
}
