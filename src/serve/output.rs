//! What a lane sends: predictions and dead letters with their headers.

use std::io::Write as _;
use std::time::SystemTime;

use crate::kafka;
use crate::kafka::consumer::Record;
use crate::kafka::producer::{Headers, Outgoing, Sent};
use crate::pipeline::{DeadLetter, Outcome, Reason, ServedModel};

use super::delivery::Delivery;
use super::lane::LaneSettings;

/// Headers of ours start with this; those of the input that do are replaced, not kept.
pub const HEADER_PREFIX: &str = "modelstream-";
/// The headers that a record of ours carries besides the user's.
const OWN_HEADERS: usize = 12;

/// Builds and sends the outputs of one lane.
pub struct Outputs {
    input: String,
    output: String,
    dead_letters: String,
    group: String,
    model: String,
    version: String,
    digest: String,
}

impl Outputs {
    /// Outputs to the topics of `settings`.
    pub fn new(settings: &LaneSettings) -> Outputs {
        Outputs {
            input: settings.input.clone(),
            output: settings.output.clone(),
            dead_letters: settings.dead_letters.clone(),
            group: settings.group.clone(),
            model: String::new(),
            version: String::new(),
            digest: String::new(),
        }
    }

    /// From now on outputs come from `model`.
    pub fn speak_for(&mut self, model: &ServedModel) {
        self.model.clone_from(&model.name);
        self.version = model.version.to_string();
        self.digest = model.digest.to_string();
    }

    /// Sends what became of `record`: one prediction, or one dead letter. Never answers [`Sent::TooLarge`]: a prediction that
    /// is too large becomes a dead letter, a dead letter that is too large becomes a stub with its coordinates.
    ///
    /// # Errors
    /// When the producer is of no use any more.
    pub fn send(
        &self,
        delivery: &mut Delivery,
        record: &Record<'_>,
        outcome: &Outcome<'_>,
    ) -> Result<Sent, kafka::Error> {
        match outcome {
            Outcome::Prediction { bytes, .. } => match delivery.send(self.prediction(record, bytes))? {
                Sent::TooLarge => {
                    let message = format!("the prediction has {} bytes, more than message.max.bytes", bytes.len());
                    let dead = DeadLetter::new(Reason::OutputOversize, message);
                    self.send_dead_letter(delivery, record, &dead)
                }
                sent => Ok(sent),
            },
            Outcome::DeadLetter(dead) => self.send_dead_letter(delivery, record, dead),
        }
    }

    fn prediction<'a>(&'a self, record: &'a Record<'_>, value: &'a [u8]) -> Outgoing<'a> {
        let headers = self.provenance(Headers::with_capacity(OWN_HEADERS), record);
        Outgoing {
            topic: &self.output,
            partition: None,
            key: record.key(),
            value: Some(value),
            timestamp_ms: record.timestamp_ms(),
            headers: headers.with_those_of(record, HEADER_PREFIX),
        }
    }

    fn send_dead_letter(
        &self,
        delivery: &mut Delivery,
        record: &Record<'_>,
        dead: &DeadLetter,
    ) -> Result<Sent, kafka::Error> {
        let whole = self.dead_letter(record, dead);
        match delivery.send(whole)? {
            Sent::TooLarge => {
                let mut stub = self.dead_letter(record, dead);
                stub.headers = stub.headers.with("modelstream-truncated", b"true");
                stub.value = None;
                delivery.send(stub)
            }
            sent => Ok(sent),
        }
    }

    fn dead_letter<'a>(&'a self, record: &'a Record<'_>, dead: &DeadLetter) -> Outgoing<'a> {
        let failed_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let headers = Headers::with_capacity(OWN_HEADERS)
            .with("modelstream-reason", dead.reason().as_str().as_bytes())
            .with("modelstream-message", dead.message().as_bytes())
            .with("modelstream-group", self.group.as_bytes())
            .with("modelstream-failed-at", failed_at.as_bytes());
        Outgoing {
            topic: &self.dead_letters,
            partition: None,
            key: record.key(),
            value: record.payload(),
            timestamp_ms: record.timestamp_ms(),
            headers: self.provenance(headers, record).with_those_of(record, HEADER_PREFIX),
        }
    }

    /// Which model and which record this came from.
    fn provenance(&self, headers: Headers, record: &Record<'_>) -> Headers {
        let (mut partition, mut offset) = (Decimal::default(), Decimal::default());
        headers
            .with("modelstream-model", self.model.as_bytes())
            .with("modelstream-version", self.version.as_bytes())
            .with("modelstream-digest", self.digest.as_bytes())
            .with("modelstream-source-topic", self.input.as_bytes())
            .with("modelstream-source-partition", partition.write(i64::from(record.partition())))
            .with("modelstream-source-offset", offset.write(record.offset()))
    }
}

/// Room for a number's digits without an allocation for each record.
#[derive(Default)]
struct Decimal([u8; 20]);

impl Decimal {
    fn write(&mut self, number: i64) -> &[u8] {
        let room = self.0.len();
        let mut rest = &mut self.0[..];
        // 20 bytes hold every i64 with its sign.
        let _ = write!(rest, "{number}");
        let written = room - rest.len();
        &self.0[..written]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_fits() {
        for number in [0, 7, -1, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::default().write(number), number.to_string().as_bytes());
        }
    }
}
