//! The only folder naming rdkafka. Bytes and positions; knows no model, no schema.
//!
//! - [`settings`]: how to reach the cluster, and what every client of ours is configured with
//! - [`consumer`]: a lane's member of the consumer group
//! - [`producer`]: a polled producer, with flush and commit that do not wait longer than they must
//! - [`reader`]: reads the partitions of a topic to the end and on, without a group
//! - [`admin`]: topics and their sizes
//! - [`embedded`]: librdkafka's in-process broker, for the demo and quick tests

pub mod admin;
pub mod consumer;
pub mod embedded;
pub mod producer;
pub mod reader;
pub mod settings;

mod context;

pub use context::Statistics;
pub use settings::Connection;

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
    /// Another producer took over the transactional id.
    #[error("{doing}: another process with the same transactional id took over ({cause})")]
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
    /// A topic that is not there.
    #[error("{doing}: the topic does not exist; create it, for example with `modelstream topics init`")]
    NoTopic {
        /// What was attempted.
        doing: String,
    },
    /// A committed offset whose record was deleted.
    #[error(
        "a committed offset of {topic} no longer exists: records were deleted before they were read; --offset-reset earliest or latest says where to go on"
    )]
    OffsetGone {
        /// The topic.
        topic: String,
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
        use RDKafkaErrorCode as Code;
        let doing = doing.into();
        let cause = error.to_string();
        if let KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) = error {
            return Error::Setting(cause);
        }
        match error.rdkafka_error_code() {
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::MessageTimedOut
                | Code::BrokerNotAvailable
                | Code::NetworkException
                | Code::RequestTimedOut
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress,
            ) => Error::Unreachable { doing, brokers: brokers.to_owned(), cause },
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::Authentication,
            ) => Error::NotAuthorised { doing, cause },
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId) => {
                Error::Fenced { doing, cause }
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Error::NoTopic { doing }
            }
            _ => Error::Other { doing, cause, fatal: matches!(error, KafkaError::MessageConsumptionFatal(_)) },
        }
    }
}
