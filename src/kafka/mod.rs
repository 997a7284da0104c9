//! The only folder naming rdkafka. Bytes and positions; knows no model, no schema.
//!
//! - [`settings`]: how to reach the cluster, and what every client of ours is configured with
//! - [`consumer`]: a lane's member of the consumer group
//! - `record`, `queue`: records in librdkafka's memory, and how they are taken in batches
//! - `bell`: wakes who waits for a queue of librdkafka's
//! - [`producer`]: a polled producer, with flush and commit that do not wait longer than they must
//! - [`reader`]: reads the partitions of a topic to the end and on, without a group
//! - [`admin`]: topics and their sizes
//! - [`fault`]: what an error means, and what is to be done about it
//! - [`memory`]: how much memory the clients of a lane may take
//! - [`passthrough`]: one topic into another as it is: the yardstick of `bench`
//! - [`embedded`]: librdkafka's in-process broker, for the demo and quick tests

pub mod admin;
pub mod consumer;
pub mod embedded;
pub mod fault;
pub mod memory;
pub mod passthrough;
pub mod producer;
pub mod reader;
pub mod settings;

mod bell;
mod context;
mod queue;
mod record;

pub use context::{PartitionStatistics, Statistics};
pub use settings::Connection;

use fault::Kind;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What went wrong with Kafka, as far as a caller can act on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that librdkafka does not take.
    #[error("the Kafka setting is not valid: {0}")]
    Setting(String),
    /// No broker answers.
    #[error("{doing}: no broker answers at {brokers} ({cause}); check --brokers and that the cluster is up")]
    Unreachable {
        /// What was attempted.
        doing: String,
        /// The bootstrap addresses.
        brokers: String,
        /// librdkafka's words.
        cause: String,
    },
    /// The cluster refuses this client's credentials or rights.
    #[error("{doing}: the cluster refuses it ({cause}); check the credentials (-X sasl.…) and the ACLs")]
    NotAuthorised {
        /// What was attempted.
        doing: String,
        /// librdkafka's words.
        cause: String,
    },
    /// A twin took over: another producer with the transactional id, or another static member with the instance id.
    #[error(
        "{doing}: another process with the same name took over ({cause}); give each its own --instance, or let one of them stay stopped"
    )]
    Fenced {
        /// What was attempted.
        doing: String,
        /// librdkafka's words.
        cause: String,
    },
    /// The transaction cannot be committed any more: abort it, and read its input again.
    #[error("{doing}: the transaction must be aborted ({cause})")]
    Abortable {
        /// What was attempted.
        doing: String,
        /// librdkafka's words.
        cause: String,
    },
    /// The cluster has no transactions, or not those that a consumer group needs (Kafka 2.5).
    #[error(
        "the brokers have no transactions that commit a group's offsets ({cause}); serve with --delivery at-least-once"
    )]
    NoTransactions {
        /// librdkafka's words.
        cause: String,
    },
    /// A topic that is not there.
    #[error("{doing}: the topic does not exist; create it, for example with `modelstream topics init`")]
    NoTopic {
        /// What was attempted.
        doing: String,
    },
    /// A committed offset whose record was deleted.
    #[error(
        "a committed offset of {topic} no longer exists ({gap}); --offset-reset earliest or latest says where to go on"
    )]
    OffsetGone {
        /// The topic.
        topic: String,
        /// In words, what is missing.
        gap: String,
    },
    /// It did not end in time.
    #[error("{doing}: not finished within {seconds} s")]
    TimedOut {
        /// What was attempted.
        doing: String,
        /// The deadline.
        seconds: u64,
    },
    /// Anything else that Kafka or librdkafka reports.
    #[error("{doing}: {cause}")]
    Other {
        /// What was attempted.
        doing: String,
        /// librdkafka's words.
        cause: String,
        /// Whether the client is of no use any more.
        fatal: bool,
    },
}

impl Error {
    /// Sorts an rdkafka error by what a caller can do about it.
    fn new(doing: impl Into<String>, brokers: &str, error: &KafkaError) -> Error {
        let doing = doing.into();
        let cause = error.to_string();
        if let KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) = error {
            return Error::Setting(cause);
        }
        match error.rdkafka_error_code() {
            Some(code) if fault::kind(code) != Kind::Other => Error::of_code(doing, brokers, code, cause),
            _ => Error::Other { doing, cause, fatal: matches!(error, KafkaError::MessageConsumptionFatal(_)) },
        }
    }

    /// The error that a code stands for, with librdkafka's words for it.
    fn of_code(doing: String, brokers: &str, code: RDKafkaErrorCode, cause: String) -> Error {
        match fault::kind(code) {
            Kind::Unreachable => Error::Unreachable { doing, brokers: brokers.to_owned(), cause },
            Kind::NotAuthorised => Error::NotAuthorised { doing, cause },
            Kind::Fenced => Error::Fenced { doing, cause },
            Kind::NoTopic => Error::NoTopic { doing },
            Kind::Unsupported | Kind::Other => Error::Other { doing, cause, fatal: false },
        }
    }
}
