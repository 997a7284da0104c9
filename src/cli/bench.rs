//! The flags of `bench`, and of the pass-through that it measures beside.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;

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
