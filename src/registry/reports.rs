//! Reads the status topic: the last report of each replica, to its end and on.

use std::time::{Duration, Instant};

use crate::kafka::admin::Admin;
use crate::kafka::reader::{LogReader, Read, Start};
use crate::kafka::{self, Connection};

use super::fleet::Fleet;
use super::{Error, REPLAY_TIMEOUT, Topics};

/// How long one wait for the next report lasts while what is there is read.
const POLL: Duration = Duration::from_millis(200);
/// The reports that are taken in at once: then the caller has a look, however fast they come.
const REPORTS_PER_TURN: usize = 10_000;

/// Follows the status topic from its beginning.
pub struct FleetFollower {
    reader: LogReader,
    fleet: Fleet,
    caught_up: bool,
}

impl FleetFollower {
    /// Reads all reports that are there.
    ///
    /// # Errors
    /// When the topic does not exist, no broker answers, or it takes longer than [`REPLAY_TIMEOUT`].
    pub fn start(connection: &Connection, topics: &Topics) -> Result<FleetFollower, Error> {
        let doing = format!("reading {}", topics.status);
        if Admin::new(connection)?.partitions(&topics.status)?.is_none() {
            return Err(kafka::Error::NoTopic { doing }.into());
        }
        let reader = LogReader::open(connection, &topics.status, &[(0, Start::Beginning)])?;
        let mut follower = FleetFollower { reader, fleet: Fleet::default(), caught_up: false };
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        while !follower.caught_up {
            match follower.turn(POLL) {
                // One broker of several, or all for a moment.
                Err(Error::Kafka(kafka::Error::Unreachable { .. })) | Ok(()) if Instant::now() < deadline => {}
                Ok(()) => return Err(kafka::Error::TimedOut { doing, seconds: REPLAY_TIMEOUT.as_secs() }.into()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(follower)
    }

    /// The replicas, as far as they were heard of.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Waits at most `wait` for the next report, and takes in what is there.
    ///
    /// # Errors
    /// What the reader reports; the next call tries again.
    pub fn turn(&mut self, wait: Duration) -> Result<(), Error> {
        let mut wait = wait;
        for _ in 0..REPORTS_PER_TURN {
            match self.reader.next(wait)? {
                Read::Record(record) => {
                    let key = record.key().unwrap_or_default();
                    self.fleet.apply(key, record.payload(), record.timestamp_ms());
                    wait = Duration::ZERO;
                }
                Read::End(_) => {
                    self.caught_up = true;
                    return Ok(());
                }
                Read::Nothing => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The fleet as it is now.
///
/// # Errors
/// As for [`FleetFollower::start`].
pub fn read_fleet(connection: &Connection, topics: &Topics) -> Result<Fleet, Error> {
    Ok(FleetFollower::start(connection, topics)?.fleet)
}
