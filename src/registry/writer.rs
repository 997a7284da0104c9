//! Who writes to the model log: one at a time for each model, signed, all or nothing.
//!
//! The transactional id is that of the model in its model log, so a second writer of the same model fences the first. What is
//! known of the model is read after the fencing, when nobody else can commit any more; so two writers never take the same
//! version or the same place in the order of decisions, and the one who lost is told.

use std::time::{Duration, Instant};

use crate::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use crate::kafka::{self, Connection};

use super::follow::{replay, require_topics};
use super::record::NEEDS_HEADER;
use super::state::State;
use super::trust::{SIGNATURE_HEADER, SigningKey};
use super::{Error, Topics};

/// What reads everything that this binary writes: raised with each new format.
const NEEDS: &str = "0.1.0";
/// How long a writer has for some small records.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Who writes.
#[derive(Debug, Clone)]
pub struct Author {
    /// `user@host`.
    pub name: String,
    /// What the records are signed with.
    pub key: Option<SigningKey>,
}

/// The one who may write about a model, until another one comes.
pub(super) struct Writer<'a> {
    pub(super) producer: Producer,
    topics: &'a Topics,
    author: &'a Author,
    model: &'a str,
    timeout: Duration,
}

impl<'a> Writer<'a> {
    /// Takes over from whoever else writes about `model`, with `timeout` for everything; what the model log says then.
    ///
    /// # Errors
    /// [`Error::Unsigned`] when nobody would believe this author; when the model log does not exist or cannot be read.
    pub(super) fn take_over(
        connection: &Connection,
        topics: &'a Topics,
        author: &'a Author,
        model: &'a str,
        timeout: Duration,
    ) -> Result<(Writer<'a>, State), Error> {
        let trusted = author.key.as_ref().is_some_and(|key| topics.trust.contains(&key.public()));
        if topics.trust.is_required() && !trusted {
            let key = author.key.as_ref().map(|key| key.public().id().to_string());
            return Err(Error::Unsigned(key.map_or("without a key".to_owned(), |id| format!("with key {id}"))));
        }
        require_topics(connection, topics)?;
        let transactional_id = format!("modelstream.publish.{}.{model}", topics.models);
        let producer = Producer::transactional(connection, &transactional_id, timeout)?;
        let state = replay(connection, topics)?.into_state();
        Ok((Writer { producer, topics, author, model, timeout }, state))
    }

    /// Writes what `write` writes, or nothing.
    ///
    /// # Errors
    /// [`Error::Outrun`] when another writer came after this one; what `write` or Kafka reports. Nothing was written then, save
    /// where Kafka did not answer the commit.
    pub(super) fn transact<T>(&self, write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.producer.begin_transaction()?;
        let result = write().and_then(|written| {
            self.producer.commit_transaction()?;
            Ok(written)
        });
        result.map_err(|error| {
            // What a fenced producer reports of its records says less than why it was fenced.
            let cause = self.producer.fatal_error("writing to the model log");
            // Best effort: what is left open, the broker aborts itself.
            let _ = self.producer.abort_transaction();
            match cause.map_or(error, Error::Kafka) {
                Error::Kafka(kafka::Error::Fenced { .. }) => Error::Outrun(self.model.to_owned()),
                error => error,
            }
        })
    }

    /// Hands a record of the models topic over; no value is a tombstone.
    ///
    /// # Errors
    /// When it cannot be sent in time.
    pub(super) fn put(&self, key: &str, value: Option<&[u8]>) -> Result<(), Error> {
        let signature = self.author.key.as_ref().map(|signer| signer.sign(&self.topics.models, key, value));
        let make = || {
            let mut headers = Headers::with_capacity(2);
            if value.is_some() {
                headers = headers.with(NEEDS_HEADER, NEEDS.as_bytes());
            }
            if let Some(signature) = &signature {
                headers = headers.with(SIGNATURE_HEADER, signature.as_bytes());
            }
            let topic = &self.topics.models;
            Outgoing { topic, partition: Some(0), key: Some(key.as_bytes()), value, timestamp_ms: None, headers }
        };
        Ok(self.producer.send_waiting(make, UNTAGGED, Instant::now() + self.timeout)?)
    }

    /// Hands a chunk over; no value is a tombstone. A tag other than [`UNTAGGED`] tells where it ended up.
    ///
    /// # Errors
    /// When it cannot be sent in time.
    pub(super) fn put_chunk(
        &self,
        partition: i32,
        key: &str,
        value: Option<&[u8]>,
        tag: u32,
        deadline: Instant,
    ) -> Result<(), Error> {
        let make = || Outgoing {
            topic: &self.topics.artifacts,
            partition: Some(partition),
            key: Some(key.as_bytes()),
            value,
            timestamp_ms: None,
            headers: Headers::default(),
        };
        Ok(self.producer.send_waiting(make, tag, deadline)?)
    }
}
