//! One verb a file, thin: wire the parts, print.

pub mod bench;
pub mod dead_letters;
pub mod demo;
pub mod keys;
pub mod models;
pub mod pass_through;
pub mod predict;
pub mod produce;
pub mod publish;
pub mod serve;
pub mod status;
pub mod tail;
pub mod topics;
pub mod train;

mod print;
mod rows;

use crate::cli::{self, Cli, Verb};
use crate::config::ConfigError;
use crate::model::Refusal;
use crate::{kafka, registry};

/// Exit codes that scripts may rely on; 2 is clap's, 0 and 1 are everybody's.
pub mod exit {
    /// The settings do not fit.
    pub const CONFIGURATION: u8 = 3;
    /// No broker answers.
    pub const UNREACHABLE: u8 = 4;
    /// The cluster refuses credentials or rights.
    pub const NOT_AUTHORISED: u8 = 5;
    /// A twin took over.
    pub const FENCED: u8 = 6;
    /// A model was refused.
    pub const REFUSED: u8 = 7;
    /// A check failed: `--require`, `verify`, a fleet that has not converged, a demo or a benchmark that lost a record.
    pub const CHECK_FAILED: u8 = 8;
    /// The watchdog: a lane made no progress although records waited.
    pub const STALLED: u8 = 9;
}

/// What a verb ends with when it does not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    ConfigFile(#[from] cli::ConfigFileError),
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Serve(#[from] crate::serve::Error),
    #[error(transparent)]
    Train(#[from] crate::train::Error),
    #[error("{what} is refused ({reason}): {refusal}", reason = refusal.reason())]
    Refused { what: String, refusal: Refusal },
    #[error("{0}")]
    CheckFailed(String),
    #[error("{doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    #[error("{0}")]
    Data(String),
}

impl Error {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::ConfigFile(_) => exit::CONFIGURATION,
            Error::Kafka(error)
            | Error::Registry(registry::Error::Kafka(error))
            | Error::Serve(crate::serve::Error::Kafka(error)) => kafka_exit_code(error),
            Error::Registry(registry::Error::Refused { .. }) | Error::Refused { .. } => exit::REFUSED,
            Error::Registry(registry::Error::Outrun(_)) => exit::FENCED,
            Error::CheckFailed(_) | Error::Train(crate::train::Error::BelowTheBar(_)) => exit::CHECK_FAILED,
            Error::Serve(crate::serve::Error::Stalled { .. }) => exit::STALLED,
            Error::Registry(_) | Error::Serve(_) | Error::Train(_) | Error::Io { .. } | Error::Data(_) => 1,
        }
    }
}

fn kafka_exit_code(error: &kafka::Error) -> u8 {
    match error {
        kafka::Error::Setting(_) => exit::CONFIGURATION,
        kafka::Error::Unreachable { .. } | kafka::Error::TimedOut { .. } => exit::UNREACHABLE,
        kafka::Error::NotAuthorised { .. } => exit::NOT_AUTHORISED,
        kafka::Error::Fenced { .. } => exit::FENCED,
        kafka::Error::NoTransactions { .. }
        | kafka::Error::NoTopic { .. }
        | kafka::Error::OffsetGone { .. }
        | kafka::Error::Abortable { .. }
        | kafka::Error::Other { .. } => 1,
    }
}

/// Runs a verb to its end.
///
/// # Errors
/// What the verb ended with.
pub fn run(cli: Cli) -> Result<(), Error> {
    let common = &cli.common;
    match cli.verb {
        Verb::Demo(demo) => demo::run(common, &demo),
        Verb::Train(train) => train::run(common, &train),
        Verb::Publish(publish) => publish::run(common, &publish),
        Verb::Serve(serve) => serve::run(common, &serve),
        Verb::Predict(predict) => predict::run(common, &predict),
        Verb::Models(models) => models::run(common, &models),
        Verb::Keys(keys) => keys::run(common, &keys),
        Verb::Status(status) => status::run(common, &status),
        Verb::Produce(produce) => produce::run(common, &produce),
        Verb::Tail(tail) => tail::run(common, &tail),
        Verb::DeadLetters(dead_letters) => dead_letters::run(common, &dead_letters),
        Verb::Topics(cli::Topics::Init(init)) => topics::run(common, &init),
        Verb::Bench(bench) => bench::run(common, &bench),
        Verb::PassThrough(pass_through) => pass_through::run(common, &pass_through),
        Verb::Completions { shell } => print::bytes(&cli::completions(shell)),
        Verb::Man => print::bytes(&cli::manual().map_err(print::failed)?),
    }
}
