//! A producer and the transaction that it has open.

use std::time::{Duration, Instant};

use crate::kafka::fault::Remedy;
use crate::kafka::producer::Producer;
use crate::kafka::settings::TRANSACTION_TIMEOUT;
use crate::kafka::{self, Connection};

/// A transaction that failed after this long failed because it was slow: it is tried again with less.
const SLOW_TRANSACTION: Duration = TRANSACTION_TIMEOUT.checked_div(2).expect("not by zero");

/// One of the producers of a lane; without a transactional id its only one.
pub(super) struct Turn {
    pub(super) producer: Producer,
    transactional_id: Option<String>,
    /// The producer may send: it has taken its transactional id over, where it has one.
    ready: bool,
    /// A transaction was begun then and not ended.
    opened: Option<Instant>,
}

impl Turn {
    pub(super) fn new(connection: &Connection, transactional_id: Option<String>) -> Result<Turn, kafka::Error> {
        let producer = match &transactional_id {
            None => Producer::idempotent(connection),
            Some(id) => Producer::transactional_later(connection, id, TRANSACTION_TIMEOUT),
        };
        Ok(Turn { producer: producer?, transactional_id, ready: false, opened: None })
    }

    /// Makes the producer anew, with the same id. Its transaction ends when that is taken over.
    pub(super) fn renew(&mut self, connection: &Connection) -> Result<(), kafka::Error> {
        *self = Turn::new(connection, self.transactional_id.clone())?;
        Ok(())
    }

    /// Waits up to `wait` until the producer may send.
    pub(super) fn prepare(&mut self, connection: &Connection, wait: Duration) -> Result<(), kafka::Error> {
        if !self.ready && self.transactional_id.is_some() {
            match self.producer.take_over(wait) {
                Err(failure @ kafka::Error::Other { .. }) if failure.remedy() == Remedy::Renew => {
                    self.renew(connection)?;
                    return Err(failure);
                }
                other => other?,
            }
        }
        self.ready = true;
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    pub(super) fn begin(&mut self) -> Result<(), kafka::Error> {
        self.producer.begin_transaction()?;
        self.opened = Some(Instant::now());
        Ok(())
    }

    pub(super) fn committed(&mut self) {
        self.opened = None;
    }

    /// Aborts the transaction, where one is open. One whose records are not all delivered is left to the next producer, which is
    /// needed then in any case: it takes over sooner than a broker that is away can be asked to abort.
    pub(super) fn abort(&mut self) -> Result<(), kafka::Error> {
        if !self.is_open() {
            return Ok(());
        }
        self.producer.check_delivered().map_err(|failure| self.doubt(failure))?;
        self.producer.abort_transaction()?;
        self.opened = None;
        Ok(())
    }

    /// A fence is believed only of a young transaction.
    pub(super) fn doubt(&self, failure: kafka::Error) -> kafka::Error {
        failure.unless_timed_out(self.opened.map(|opened| opened.elapsed()))
    }

    pub(super) fn is_slow(&self) -> bool {
        self.opened.is_some_and(|opened| opened.elapsed() >= SLOW_TRANSACTION)
    }
}
