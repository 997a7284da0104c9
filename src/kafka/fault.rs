//! What an error means and what is to be done about it: decided here, by pure functions, and nowhere else.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Error;
use super::settings::{SESSION_TIMEOUT, TRANSACTION_TIMEOUT};

/// What is to be done about an [`Error`] that a lane meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Abort the transaction and read its input again from the committed offsets.
    Abort,
    /// The outcome is not known, or the producer is of no use: make it anew under the same name, which settles what was
    /// open, and go on from the committed offsets.
    Renew,
    /// The consumer is of no use: join the group as a new member, with a new producer.
    Rejoin,
    /// It would only happen again: end the process and say why.
    Stop,
}

impl Error {
    /// What is to be done about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Abortable { .. } => Remedy::Abort,
            Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Other { fatal: false, .. } => Remedy::Renew,
            Error::Other { fatal: true, .. } => Remedy::Rejoin,
            Error::Setting(_)
            | Error::NotAuthorised { .. }
            | Error::Fenced { .. }
            | Error::NoTransactions { .. }
            | Error::NoTopic { .. }
            | Error::OffsetGone { .. } => Remedy::Stop,
        }
    }

    /// A producer's fence is believed only of a transaction that was younger than its timeout: a coordinator that ends an older
    /// one raises the producer's epoch, and librdkafka cannot tell that from a twin. Brokers that were away for a while are no
    /// reason to end the process. A twin that is real fences again.
    pub fn unless_timed_out(self, transaction_age: Option<Duration>) -> Error {
        match (self, transaction_age) {
            (Error::Fenced { doing, cause }, Some(age)) if age >= TRANSACTION_TIMEOUT => {
                let cause =
                    format!("the broker ended the transaction, which was open for {} s ({cause})", age.as_secs());
                Error::Other { doing, cause, fatal: false }
            }
            (failure, _) => failure,
        }
    }

    /// A static member's fence is believed only where no broker was lost shortly before: a member whose coordinator dies while
    /// it joins repeats its request, and the next coordinator takes the two for twins.
    pub fn unless_disconnected(self, disconnected_for: Option<Duration>) -> Error {
        match (self, disconnected_for) {
            (Error::Fenced { doing, cause }, Some(since)) if since < SESSION_TIMEOUT => {
                let cause = format!("{cause}, {} s after a broker was lost", since.as_secs());
                Error::Other { doing, cause, fatal: true }
            }
            (failure, _) => failure,
        }
    }
}

/// What an error code speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No broker, or not the one that is needed, answers.
    Unreachable,
    /// Credentials or rights.
    NotAuthorised,
    /// Another process has the same transactional id or group.instance.id, and came later.
    Fenced,
    /// The broker does not know the request.
    Unsupported,
    /// There is no such topic or partition.
    NoTopic,
    /// None of these.
    Other,
}

/// Whether the record that was to be read next no longer exists.
pub(super) fn is_offset_gone(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::AutoOffsetReset | Code::OffsetOutOfRange))
}

pub(super) fn kind(code: Code) -> Kind {
    match code {
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::MessageTimedOut
        | Code::TimedOutQueue
        | Code::BrokerNotAvailable
        | Code::NetworkException
        | Code::RequestTimedOut
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress => Kind::Unreachable,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => Kind::NotAuthorised,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId => Kind::Fenced,
        Code::UnsupportedFeature | Code::UnsupportedVersion => Kind::Unsupported,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => Kind::NoTopic,
        _ => Kind::Other,
    }
}

/// A transactional call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `rd_kafka_init_transactions`
    TakeOver,
    /// `rd_kafka_begin_transaction`
    Begin,
    /// `rd_kafka_send_offsets_to_transaction`
    AddOffsets,
    /// `rd_kafka_commit_transaction`
    Commit,
    /// `rd_kafka_abort_transaction`
    Abort,
}

impl Call {
    /// For errors: what was attempted.
    pub(super) fn doing(self) -> &'static str {
        match self {
            Call::TakeOver => "taking over the transactional id",
            Call::Begin => "beginning a transaction",
            Call::AddOffsets => "adding offsets to the transaction",
            Call::Commit => "committing the transaction",
            Call::Abort => "aborting the transaction",
        }
    }
}

/// What librdkafka says of a transactional call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symptom {
    pub(super) code: Code,
    /// `rd_kafka_error_is_retriable`
    pub(super) retriable: bool,
    /// `rd_kafka_error_txn_requires_abort`
    pub(super) abortable: bool,
}

/// What a failed transactional call comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Repeat the very same call.
    Retry,
    /// [`Error::Abortable`]
    Abortable,
    /// The producer must be made anew: its state or the transaction's outcome is not known. Whatever the code says of a topic
    /// or of anything else, it is of that outcome that nothing is known.
    Unsettled,
    /// What the code's [`Kind`] says; no attempt ends otherwise.
    Refused,
}

/// Judges a failed transactional call, as librdkafka's introduction demands ("Transactional producer API"): retriable errors
/// are repeated, with the same arguments, as long as the transaction may live; abortable ones end the transaction; all others
/// end the producer. `in_time` tells whether the transaction's deadline is still ahead.
pub(super) fn judge(call: Call, symptom: Symptom, in_time: bool) -> Verdict {
    // The broker ended a transaction that took too long: librdkafka offers to abort and goes on with a new epoch (KIP-360).
    let timed_out = symptom.code == Code::InvalidProducerEpoch && symptom.abortable;
    // Of its own member the consumer is told too, and knows whether to believe it.
    let of_the_member = symptom.code == Code::FencedInstanceId && symptom.abortable;
    match kind(symptom.code) {
        Kind::Fenced if !timed_out && !of_the_member => Verdict::Refused,
        Kind::NotAuthorised | Kind::Unsupported => Verdict::Refused,
        _ if symptom.retriable && in_time => Verdict::Retry,
        _ if symptom.abortable && call != Call::Abort => Verdict::Abortable,
        _ => Verdict::Unsettled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_call_has_its_verdict() {
        use Verdict::{Abortable, Refused, Retry, Unsettled};
        const RETRIABLE: (bool, bool) = (true, false);
        const ABORTABLE: (bool, bool) = (false, true);
        const NEITHER: (bool, bool) = (false, false);
        let table = [
            // A twin is not fought, in whatever call it shows.
            (Call::AddOffsets, Code::Fenced, NEITHER, true, Refused),
            (Call::Commit, Code::ProducerFenced, NEITHER, true, Refused),
            (Call::TakeOver, Code::InvalidProducerEpoch, NEITHER, true, Refused),
            // Another static member is the consumer's to judge.
            (Call::AddOffsets, Code::FencedInstanceId, ABORTABLE, true, Abortable),
            // The broker's own abort after the transaction's timeout is no twin.
            (Call::AddOffsets, Code::InvalidProducerEpoch, ABORTABLE, true, Abortable),
            // Rights do not come back by trying.
            (Call::AddOffsets, Code::GroupAuthorizationFailed, ABORTABLE, true, Refused),
            (Call::TakeOver, Code::TransactionalIdAuthorizationFailed, NEITHER, true, Refused),
            // A broker without transactions.
            (Call::TakeOver, Code::UnsupportedFeature, NEITHER, true, Refused),
            // "You were rebalanced": another member may have the partitions.
            (Call::AddOffsets, Code::IllegalGeneration, ABORTABLE, true, Abortable),
            (Call::AddOffsets, Code::UnknownMemberId, ABORTABLE, true, Abortable),
            // A delivery failed, or a topic is gone.
            (Call::Commit, Code::MessageTimedOut, ABORTABLE, true, Abortable),
            (Call::Commit, Code::UnknownTopicOrPartition, ABORTABLE, false, Abortable),
            // The coordinator is away: the same call again, until nobody knows what became of it.
            (Call::TakeOver, Code::OperationTimedOut, RETRIABLE, true, Retry),
            (Call::AddOffsets, Code::CoordinatorNotAvailable, RETRIABLE, true, Retry),
            (Call::Commit, Code::OperationTimedOut, RETRIABLE, true, Retry),
            (Call::Commit, Code::OperationTimedOut, RETRIABLE, false, Unsettled),
            (Call::Abort, Code::OperationTimedOut, RETRIABLE, true, Retry),
            (Call::Abort, Code::OperationTimedOut, RETRIABLE, false, Unsettled),
            // An abort that cannot abort (librdkafka #4849), a state that should not be, whatever is in neither class.
            (Call::Abort, Code::InvalidTransactionalState, ABORTABLE, true, Unsettled),
            (Call::Begin, Code::State, NEITHER, true, Unsettled),
            (Call::Commit, Code::InvalidTransactionalState, NEITHER, true, Unsettled),
        ];
        for (call, code, (retriable, abortable), in_time, expected) in table {
            let verdict = judge(call, Symptom { code, retriable, abortable }, in_time);
            assert_eq!(verdict, expected, "{call:?} {code:?} in time: {in_time}");
        }
    }

    #[test]
    fn a_fence_that_an_outage_explains_does_not_end_the_process() {
        let fenced = || Error::Fenced { doing: String::new(), cause: String::new() };
        let moment = Duration::from_millis(1);
        assert_eq!(fenced().unless_timed_out(Some(TRANSACTION_TIMEOUT)).remedy(), Remedy::Renew);
        assert_eq!(fenced().unless_timed_out(Some(TRANSACTION_TIMEOUT - moment)).remedy(), Remedy::Stop);
        assert_eq!(fenced().unless_timed_out(None).remedy(), Remedy::Stop);
        assert_eq!(fenced().unless_disconnected(Some(moment)).remedy(), Remedy::Rejoin);
        assert_eq!(fenced().unless_disconnected(Some(SESSION_TIMEOUT)).remedy(), Remedy::Stop);
        assert_eq!(fenced().unless_disconnected(None).remedy(), Remedy::Stop);
        let other = Error::NoTopic { doing: String::new() };
        assert_eq!(other.unless_timed_out(Some(TRANSACTION_TIMEOUT)).remedy(), Remedy::Stop);
    }

    #[test]
    fn every_error_has_its_remedy() {
        let (doing, brokers, cause) = (String::new, String::new, String::new);
        let table = [
            (Error::Abortable { doing: doing(), cause: cause() }, Remedy::Abort),
            (Error::Unreachable { doing: doing(), brokers: brokers(), cause: cause() }, Remedy::Renew),
            (Error::TimedOut { doing: doing(), seconds: 1 }, Remedy::Renew),
            (Error::Other { doing: doing(), cause: cause(), fatal: false }, Remedy::Renew),
            (Error::Other { doing: doing(), cause: cause(), fatal: true }, Remedy::Rejoin),
            (Error::Fenced { doing: doing(), cause: cause() }, Remedy::Stop),
            (Error::NotAuthorised { doing: doing(), cause: cause() }, Remedy::Stop),
            (Error::NoTransactions { cause: cause() }, Remedy::Stop),
            (Error::NoTopic { doing: doing() }, Remedy::Stop),
            (Error::OffsetGone { topic: String::new(), gap: String::new() }, Remedy::Stop),
            (Error::Setting(String::new()), Remedy::Stop),
        ];
        for (error, remedy) in table {
            assert_eq!(error.remedy(), remedy, "{error:?}");
        }
    }
}
