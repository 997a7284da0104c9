//! Reads the partitions of a topic to the end and on, without a group and committed records only.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::consumer::Record;
use super::settings::Connection;
use super::{Error, context};

/// Where a partition is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The earliest record.
    Beginning,
    /// Only what comes from now on.
    End,
    /// This offset, or the next one that there is.
    Offset(i64),
}

/// What a [`LogReader::next`] brought.
pub enum Read<'r> {
    /// A record.
    Record(Record<'r>),
    /// All records of this partition that were there have been read; more may come.
    End(i32),
    /// Nothing within the time.
    Nothing,
}

struct ReadContext;

impl ClientContext for ReadContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        context::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::error(&error, reason);
    }

    fn stats_raw(&self, _json: &[u8]) {}
}

impl ConsumerContext for ReadContext {}

/// Reads partitions of one topic.
pub struct LogReader {
    inner: BaseConsumer<ReadContext>,
    topic: String,
    brokers: String,
}

impl LogReader {
    /// Starts to read `starts` of `topic`.
    ///
    /// # Errors
    /// When a setting is not valid. A broker that is away is no error here: librdkafka keeps trying.
    pub fn open(connection: &Connection, topic: &str, starts: &[(i32, Start)]) -> Result<LogReader, Error> {
        let failed = |error: &KafkaError| Error::new(format!("reading {topic}"), connection.brokers(), error);
        let inner =
            BaseConsumer::from_config_and_context(&connection.reader(), ReadContext).map_err(|error| failed(&error))?;
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for (partition, start) in starts {
            let offset = match start {
                Start::Beginning => Offset::Beginning,
                Start::End => Offset::End,
                Start::Offset(offset) => Offset::Offset(*offset),
            };
            list.add_partition_offset(topic, *partition, offset).map_err(|error| failed(&error))?;
        }
        inner.assign(&list).map_err(|error| failed(&error))?;
        Ok(LogReader { inner, topic: topic.to_owned(), brokers: connection.brokers().to_owned() })
    }

    /// The next record or end, waiting at most `wait`.
    ///
    /// # Errors
    /// What the consumer reports; [`Error::Unreachable`] is worth another call.
    pub fn next(&self, wait: Duration) -> Result<Read<'_>, Error> {
        match self.inner.poll(wait) {
            None => Ok(Read::Nothing),
            Some(Ok(message)) => Ok(Read::Record(Record::new(message))),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Read::End(partition)),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    let gap = "records were deleted before they were read".to_owned();
                    Err(Error::OffsetGone { topic: self.topic.clone(), gap })
                }
                _ => Err(Error::new(format!("reading {}", self.topic), &self.brokers, &error)),
            },
        }
    }
}
