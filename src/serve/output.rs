//! What a lane sends: predictions and dead letters with their headers.

pub mod headers;

use std::time::SystemTime;

use crate::kafka;
use crate::kafka::consumer::Record;
use crate::kafka::producer::{Headers, Outgoing, Sent};
use crate::pipeline::{DeadLetter, Outcome, Reason, ServedModel};
use crate::telemetry;

use super::delivery::Delivery;
use super::settings::LaneSettings;
use headers::{Convention, Failure, History};

/// Headers of ours start with this; those of the input that do are replaced, not kept.
pub const HEADER_PREFIX: &str = "modelstream-";
/// The headers that a record of ours carries besides the user's.
const OWN_HEADERS: usize = 16;

/// How much of its record a dead letter carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Everything.
    Whole,
    /// A stub: key and headers.
    WithoutValue,
    /// A stub of what cannot even do that: only where the record is.
    Coordinates,
}

/// Builds and sends the outputs of one lane.
pub struct Outputs {
    input: String,
    output: String,
    dead_letters: String,
    group: String,
    convention: Option<Convention>,
}

/// The version that an output comes from, as its headers say it.
#[derive(Debug, Default)]
pub struct Provenance {
    model: String,
    version: String,
    digest: String,
}

impl Provenance {
    /// From `model`.
    pub fn of(model: &ServedModel) -> Provenance {
        let (version, digest) = (model.version.to_string(), model.digest.to_string());
        Provenance { model: model.name.clone(), version, digest }
    }
}

impl Outputs {
    /// Outputs to the topics of `settings`.
    pub fn new(settings: &LaneSettings) -> Outputs {
        Outputs {
            input: settings.input.clone(),
            output: settings.output.clone(),
            dead_letters: settings.dead_letters.clone(),
            group: settings.group.clone(),
            convention: settings.dead_letter_headers,
        }
    }

    /// Sends what became of `record` by the version of `provenance`: one prediction, or one dead letter; a dead letter without a
    /// provenance was for no model. Never answers [`Sent::TooLarge`]: a prediction that is too large becomes a dead letter, a dead
    /// letter that is too large becomes a stub with its coordinates.
    ///
    /// # Errors
    /// When the producer is of no use any more, or takes not even a stub.
    pub fn send(
        &self,
        delivery: &mut Delivery,
        record: &Record<'_>,
        provenance: Option<&Provenance>,
        outcome: &Outcome<'_>,
    ) -> Result<Sent, kafka::Error> {
        let sent = match outcome {
            Outcome::Prediction { bytes, .. } => match delivery.send(self.prediction(record, provenance, bytes))? {
                Sent::TooLarge => {
                    let message = format!("the prediction has {} bytes, more than message.max.bytes", bytes.len());
                    let dead = DeadLetter::new(Reason::OutputOversize, message);
                    self.send_dead_letter(delivery, record, provenance, &dead)?
                }
                sent => sent,
            },
            Outcome::DeadLetter(dead) => self.send_dead_letter(delivery, record, provenance, dead)?,
        };
        if sent == Sent::Accepted && History::of(record.headers()).is_some() {
            telemetry::replayed_record();
        }
        Ok(sent)
    }

    fn prediction<'a>(
        &'a self,
        record: &'a Record<'_>,
        provenance: Option<&Provenance>,
        value: &'a [u8],
    ) -> Outgoing<'a> {
        let headers = self.origin(Headers::with_capacity(OWN_HEADERS), record, provenance);
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
        provenance: Option<&Provenance>,
        dead: &DeadLetter,
    ) -> Result<Sent, kafka::Error> {
        for extent in [Extent::Whole, Extent::WithoutValue, Extent::Coordinates] {
            match delivery.send(self.dead_letter(record, provenance, dead, extent))? {
                Sent::TooLarge => {}
                sent => return Ok(sent),
            }
        }
        Err(kafka::Error::Other {
            doing: format!("sending a dead letter to {}", self.dead_letters),
            cause:
                "even without the record's bytes it is larger than message.max.bytes (-X message.max.bytes=… raises it)"
                    .to_owned(),
            fatal: false,
        })
    }

    fn dead_letter<'a>(
        &'a self,
        record: &'a Record<'_>,
        provenance: Option<&Provenance>,
        dead: &DeadLetter,
        extent: Extent,
    ) -> Outgoing<'a> {
        let now = SystemTime::now();
        let history = History::of(record.headers());
        let attempt = history.map_or(1, |history| history.next_attempt());
        let first_failed_at = history.and_then(|history| history.first_failed_at).unwrap_or(now);
        let mut headers = Headers::with_capacity(OWN_HEADERS)
            .with(headers::REASON, dead.reason().as_str().as_bytes())
            .with(headers::MESSAGE, dead.message().as_bytes())
            .with(headers::GROUP, self.group.as_bytes())
            .with(headers::FAILED_AT, headers::format_time(now).as_bytes())
            .with(headers::FIRST_FAILED_AT, headers::format_time(first_failed_at).as_bytes())
            .with(headers::ATTEMPT, itoa::Buffer::new().format(attempt).as_bytes());
        headers = self.origin(headers, record, provenance);
        if extent != Extent::Whole {
            headers = headers.with(headers::TRUNCATED, b"true");
        }
        if extent != Extent::Coordinates {
            headers = headers.with_those_of(record, HEADER_PREFIX);
        }
        Outgoing {
            topic: &self.dead_letters,
            partition: None,
            key: record.key().filter(|_| extent != Extent::Coordinates),
            value: record.payload().filter(|_| extent == Extent::Whole),
            timestamp_ms: record.timestamp_ms(),
            headers: self.conventional(headers, record, dead),
        }
    }

    /// Appends the headers of the convention that was asked for, if any.
    fn conventional(&self, mut headers: Headers, record: &Record<'_>, dead: &DeadLetter) -> Headers {
        let Some(convention) = self.convention else { return headers };
        let failure = Failure {
            topic: &self.input,
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            group: &self.group,
            reason: dead.reason(),
            message: dead.message(),
        };
        headers = headers.with(headers::CONVENTION, convention.name().as_bytes());
        convention.headers(&failure).iter().fold(headers, |headers, (name, value)| headers.with(name, value))
    }

    /// Which model and which record this came from.
    fn origin(&self, mut headers: Headers, record: &Record<'_>, provenance: Option<&Provenance>) -> Headers {
        let (mut partition, mut offset) = (itoa::Buffer::new(), itoa::Buffer::new());
        if let Some(Provenance { model, version, digest }) = provenance {
            headers = headers
                .with(headers::MODEL, model.as_bytes())
                .with(headers::VERSION, version.as_bytes())
                .with(headers::DIGEST, digest.as_bytes());
        }
        headers
            .with(headers::SOURCE_TOPIC, self.input.as_bytes())
            .with(headers::SOURCE_PARTITION, partition.format(record.partition()).as_bytes())
            .with(headers::SOURCE_OFFSET, offset.format(record.offset()).as_bytes())
    }
}
