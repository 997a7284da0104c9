//! The settings of `modelstream bench`.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli;
use crate::registry::Selector;

use super::{ConfigError, Profile, selector};

/// The most records of one run: the reader remembers each by a bit.
pub const RECORDS_MAX: u64 = 1_000_000_000;
/// How many records are sent where nothing is said: some seconds of work for a fast process.
const RECORDS: u64 = 1_000_000;
/// How long records flow at a rate where nothing is said.
const LENGTH: Duration = Duration::from_secs(10);
/// What is not measured where nothing is said: the first connections, the first pages of memory.
const WARM_UP: Duration = Duration::from_secs(2);
/// The share of the length that the default warm-up takes at most.
const WARM_UP_SHARE_MAX: u32 = 5;
/// The shortest time between two published versions: each is a transaction.
const SWAP_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What `modelstream bench` does.
#[derive(Debug, Clone, PartialEq)]
pub struct Bench {
    /// What is measured.
    pub subject: Subject,
    /// How records come.
    pub load: Load,
    /// Where the model comes from.
    pub model: ModelSource,
    /// Whether records are Avro, not JSON.
    pub avro: bool,
    /// Partitions of input and output.
    pub partitions: i32,
    /// Replicas of each topic; `None` takes what the cluster has, up to three.
    pub replication: Option<i32>,
    /// What all its topics and groups begin with.
    pub prefix: String,
    /// How long the run may wait for outputs.
    pub time_limit: Duration,
    /// Whether the topics stay.
    pub keep_topics: bool,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// `modelstream serve`.
    Serve {
        /// Its flags beside those of model and topics.
        flags: Vec<String>,
        /// `exactly-once` or `at-least-once`.
        delivery: String,
        /// How often it commits.
        commit_interval: Duration,
        /// Its lanes.
        lanes: u16,
    },
    /// `modelstream pass-through`.
    PassThrough {
        /// Whether its copies have the headers of predictions.
        headers: bool,
    },
    /// Another program.
    Command(String),
}

/// How records come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// At a rate, whatever comes out.
    Open {
        /// Records a second.
        rate: u32,
        /// All records, those of the warm-up included.
        records: u64,
        /// Records of the warm-up, which are not measured.
        warm_up: u64,
        /// How often a new version is published.
        swap_every: Option<Duration>,
    },
    /// All are there before the process starts.
    Drain {
        /// How many.
        records: u64,
    },
}

impl Load {
    /// All records, those of the warm-up included.
    pub fn records(&self) -> u64 {
        match *self {
            Load::Open { records, .. } | Load::Drain { records } => records,
        }
    }
}

/// Where the model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSource {
    /// The model log.
    Log(Selector),
    /// A file, published on a model log of the run's own.
    File(PathBuf),
    /// A small one that is trained first, published likewise.
    BuiltIn,
}

/// What `bench` was told becomes what it does.
///
/// # Errors
/// The first rule that is broken.
pub fn bench(bench: &cli::Bench) -> Result<Bench, ConfigError> {
    let model = match (&bench.model, &bench.artifact) {
        (Some(model), _) => ModelSource::Log(selector(model)?),
        (None, Some(path)) => ModelSource::File(path.clone()),
        (None, None) => ModelSource::BuiltIn,
    };
    let subject = subject(bench)?;
    let load = load(bench)?;
    check_swaps(&load, &subject, &model)?;
    if bench.prefix.is_empty() || !bench.prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return rule(format!("--prefix {:?}: a topic's name has the characters a-z A-Z 0-9 . _ -", bench.prefix));
    }
    if bench.time_limit.is_zero() {
        return rule("--time-limit 0: nothing can come out in no time".to_owned());
    }
    Ok(Bench {
        subject,
        load,
        model,
        avro: bench.format == "avro",
        partitions: bench.partitions,
        replication: bench.replication,
        prefix: bench.prefix.clone(),
        time_limit: bench.time_limit,
        keep_topics: bench.keep_topics,
    })
}

fn rule<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Relation(text))
}

fn subject(bench: &cli::Bench) -> Result<Subject, ConfigError> {
    let other = match (bench.raw, &bench.command) {
        (true, _) => Some(("--raw", Subject::PassThrough { headers: bench.headers })),
        (false, Some(command)) => Some(("--command", Subject::Command(command.clone()))),
        (false, None) => None,
    };
    if let Some((flag, subject)) = other {
        let given = [
            (bench.delivery.is_some(), "--delivery"),
            (bench.commit_interval.is_some(), "--commit-interval"),
            (bench.lanes.is_some(), "--lanes"),
            (!bench.serve.is_empty(), "what follows --"),
        ];
        return match given.iter().find(|(given, _)| *given) {
            Some((_, name)) => rule(format!("{name} goes with the serving process, not with {flag}")),
            None => Ok(subject),
        };
    }
    let lanes = bench.lanes.unwrap_or(1);
    if i32::from(lanes) > bench.partitions {
        let partitions = bench.partitions;
        return rule(format!(
            "--lanes {lanes} with --partitions {partitions}: a lane without a partition has nothing to do"
        ));
    }
    let given = |flag: &str| bench.serve.iter().any(|given| given == flag);
    let profile = Profile::of(given("--latency"), given("--throughput"));
    let commit_interval = profile.commit_interval(bench.commit_interval)?;
    let delivery = bench.delivery.clone().unwrap_or_else(|| "exactly-once".to_owned());
    Ok(Subject::Serve { flags: bench.serve.clone(), delivery, commit_interval, lanes })
}

fn load(bench: &cli::Bench) -> Result<Load, ConfigError> {
    let Some(rate) = bench.rate else {
        let open = [
            (bench.seconds.is_some(), "--seconds"),
            (bench.warmup.is_some(), "--warmup"),
            (bench.swap_every.is_some(), "--swap-every"),
        ];
        return match open.iter().find(|(given, _)| *given) {
            Some((_, flag)) => {
                rule(format!("{flag} goes with --rate; without a rate --records are there at the start"))
            }
            None => Ok(Load::Drain { records: within(bench.records.unwrap_or(RECORDS))? }),
        };
    };
    let records = match (bench.records, bench.seconds) {
        (Some(_), Some(_)) => {
            return rule("--records and --seconds both say how long --rate flows; give one".to_owned());
        }
        (Some(records), None) => records,
        (None, seconds) => u64::from(rate) * seconds.unwrap_or(LENGTH.as_secs()),
    };
    let length = Duration::from_secs_f64(records as f64 / f64::from(rate));
    let warm_up = bench.warmup.unwrap_or_else(|| WARM_UP.min(length / WARM_UP_SHARE_MAX));
    if warm_up >= length {
        return rule(format!("--warmup {warm_up:?}: records flow for {length:?} only, so nothing would be measured"));
    }
    let warm_up = (warm_up.as_secs_f64() * f64::from(rate)) as u64;
    Ok(Load::Open { rate, records: within(records)?, warm_up, swap_every: bench.swap_every })
}

fn within(records: u64) -> Result<u64, ConfigError> {
    match records {
        1..=RECORDS_MAX => Ok(records),
        _ => rule(format!("{records} records: expected 1 to {RECORDS_MAX}")),
    }
}

fn check_swaps(load: &Load, subject: &Subject, model: &ModelSource) -> Result<(), ConfigError> {
    let Load::Open { swap_every: Some(interval), .. } = load else { return Ok(()) };
    if *interval < SWAP_INTERVAL_MIN {
        return rule(format!("--swap-every {interval:?}: expected at least {SWAP_INTERVAL_MIN:?}"));
    }
    if !matches!(subject, Subject::Serve { .. }) {
        return rule("--swap-every goes with the serving process, which alone follows a model log".to_owned());
    }
    if matches!(model, ModelSource::Log(_)) {
        return rule(
            "--swap-every publishes versions, and never on your model log: --artifact instead of --model".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &[&str]) -> Result<Bench, ConfigError> {
        let words = ["modelstream", "bench"].iter().chain(line).map(|word| (*word).into());
        let cli::Verb::Bench(typed) = cli::try_parse(words).expect("a line").verb else { panic!("another verb") };
        bench(&typed)
    }

    #[test]
    fn a_rate_is_an_open_loop_and_without_one_the_records_are_there_at_the_start() {
        assert_eq!(told(&[]).expect("valid").load, Load::Drain { records: RECORDS });
        let open = told(&["--rate", "1000", "--seconds", "20"]).expect("valid").load;
        assert_eq!(open, Load::Open { rate: 1_000, records: 20_000, warm_up: 2_000, swap_every: None });
        let short = told(&["--rate", "1000", "--records", "1000"]).expect("valid").load;
        assert_eq!(short, Load::Open { rate: 1_000, records: 1_000, warm_up: 200, swap_every: None });
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_the_rule() {
        for (line, expected) in [
            (&["--seconds", "5"][..], "--rate"),
            (&["--warmup", "5s"], "--rate"),
            (&["--rate", "10", "--records", "5", "--seconds", "5"], "give one"),
            (&["--rate", "10", "--seconds", "5", "--warmup", "5s"], "nothing would be measured"),
            (&["--records", "2000000000"], "1000000000"),
            (&["--lanes", "5", "--partitions", "4"], "nothing to do"),
            (&["--commit-interval", "5m"], "60s"),
            (&["--raw", "--delivery", "exactly-once"], "--raw"),
            (&["--command", "true", "--lanes", "2"], "--command"),
            (&["--raw", "--", "--latency"], "--raw"),
            (&["--rate", "10", "--swap-every", "1ms"], "100ms"),
            (&["--rate", "10", "--swap-every", "1s", "--raw"], "model log"),
            (&["--rate", "10", "--swap-every", "1s", "--model", "iris"], "--artifact"),
            (&["--model", "a b"], "--model"),
            (&["--prefix", "a b"], "--prefix"),
        ] {
            let refused = told(line).expect_err("a rule is broken").to_string();
            assert!(refused.contains(expected), "{line:?}: {refused}");
        }
    }
}
