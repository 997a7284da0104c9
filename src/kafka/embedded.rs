//! librdkafka's in-process broker, for the demo and quick tests.
//!
//! It speaks the real protocol to any client, starts in milliseconds and needs nothing installed. It also forgets: it keeps
//! about 5 MiB a partition and drops older records without a word, has nothing on disk, does not hide the records of open
//! or aborted transactions, and has no admin API: topics are created through [`EmbeddedBroker::create_topic`].

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::Error;
use super::settings::{Connection, PropertyError};

/// Once a group is formed, a further member is let in only when the session timeout is nearly over: a lane that comes a moment
/// late would keep its siblings waiting for the usual three quarters of a minute.
const SESSION_TIMEOUT: &str = "session.timeout.ms=6000";

/// A broker inside this process; it ends when this is dropped.
pub struct EmbeddedBroker(MockCluster<'static, DefaultProducerContext>);

impl EmbeddedBroker {
    /// Starts one.
    ///
    /// # Errors
    /// When no port of the loopback interface is free.
    pub fn start() -> Result<EmbeddedBroker, Error> {
        let cluster =
            MockCluster::new(1).map_err(|error| Error::new("starting the embedded broker", "127.0.0.1", &error))?;
        Ok(EmbeddedBroker(cluster))
    }

    /// How to reach it, with the user's `KEY=VALUE` properties.
    ///
    /// # Errors
    /// As [`Connection::new`].
    pub fn connection(&self, properties: &[String]) -> Result<Connection, PropertyError> {
        let properties = [&[SESSION_TIMEOUT.to_owned()], properties].concat();
        Connection::new(&self.0.bootstrap_servers(), &properties)
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// When it exists already.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        self.0
            .create_topic(name, partitions, 1)
            .map_err(|error| Error::new(format!("creating topic {name}"), "the embedded broker", &error))
    }
}
