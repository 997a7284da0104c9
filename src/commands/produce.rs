//! `modelstream produce`

use std::path::Path;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::json;

use crate::cli;
use crate::config;
use crate::kafka;
use crate::kafka::admin::Admin;
use crate::kafka::producer::{Headers, Outgoing, Producer, UNTAGGED};
use crate::kafka::settings::REQUEST_TIMEOUT;

use super::rows::{self, Columns, DataFormat, Row};
use super::{Error, print};

/// How long the last records may take to be delivered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a data file to a topic.
///
/// # Errors
/// When the file is broken, the topic is not there, or a record is not delivered.
pub fn run(common: &cli::Common, produce: &cli::Produce) -> Result<(), Error> {
    rows::check_repeat(&produce.data, produce.repeat)?;
    let connection = config::connection(common)?;
    if Admin::new(&connection)?.partitions(&produce.topic)?.is_none() {
        return Err(kafka::Error::NoTopic { doing: format!("sending to {}", produce.topic) }.into());
    }
    let encoding = Encoding::new(produce)?;
    let format = DataFormat::of(&produce.data, produce.data_format.as_deref());
    let columns = Columns { drop: produce.drop.clone(), key: produce.key_column.clone() };
    let mut sender = Sender::new(Producer::idempotent(&connection)?, &produce.topic, produce.rate);
    let mut round = 0;
    while produce.repeat == 0 || round < produce.repeat {
        let before = sender.sent;
        rows::for_each(&produce.data, format, &columns, |row| {
            sender.send(row, &encoding)?;
            Ok(true)
        })?;
        if sender.sent == before {
            return Err(Error::Data(format!("{} has no rows", produce.data.display())));
        }
        round += 1;
    }
    let (sent, seconds) = sender.finish()?;
    if common.json {
        return print::json(&json!({"topic": produce.topic, "records": sent, "seconds": seconds}));
    }
    print::say(&format!("{sent} records to {} in {seconds:.1} s", produce.topic));
    Ok(())
}

enum Encoding {
    Json,
    Avro(Box<Schema>),
}

impl Encoding {
    fn new(produce: &cli::Produce) -> Result<Encoding, Error> {
        match (produce.format.as_str(), &produce.schema) {
            ("avro", Some(path)) => Ok(Encoding::Avro(Box::new(parse_schema(path)?))),
            ("avro", None) => {
                Err(config::ConfigError::Relation("--format avro needs --schema FILE.avsc".to_owned()).into())
            }
            (_, Some(_)) => Err(config::ConfigError::Relation("--schema goes with --format avro".to_owned()).into()),
            (_, None) => Ok(Encoding::Json),
        }
    }

    fn encode(&self, row: &Row) -> Result<Vec<u8>, Error> {
        let Encoding::Avro(schema) = self else { return Ok(row.json.clone()) };
        let broken = |reason: String| {
            Error::Data(format!("the row {} does not fit the schema: {reason}", String::from_utf8_lossy(&row.json)))
        };
        let document: serde_json::Value =
            serde_json::from_slice(&row.json).map_err(|error| broken(error.to_string()))?;
        let value = Value::try_from(document).and_then(|value| value.resolve(schema));
        let writer = GenericDatumWriter::builder(schema).build();
        value.and_then(|value| writer?.write_value_to_vec(value)).map_err(|error| broken(error.to_string()))
    }
}

fn parse_schema(path: &Path) -> Result<Schema, Error> {
    Schema::parse_str(&config::read_schema(path)?)
        .map_err(|error| config::ConfigError::Schema { path: path.to_owned(), reason: error.to_string() }.into())
}

/// Sends rows at a rate and counts them.
struct Sender<'a> {
    producer: Producer,
    topic: &'a str,
    rate: Option<u32>,
    started: Instant,
    sent: u64,
    bar: indicatif::ProgressBar,
}

impl<'a> Sender<'a> {
    fn new(producer: Producer, topic: &'a str, rate: Option<u32>) -> Sender<'a> {
        let bar = print::progress(None, "records");
        Sender { producer, topic, rate, started: Instant::now(), sent: 0, bar }
    }

    fn send(&mut self, row: &Row, encoding: &Encoding) -> Result<(), Error> {
        if let Some(rate) = self.rate {
            let due = self.started + Duration::from_secs_f64(self.sent as f64 / f64::from(rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let value = encoding.encode(row)?;
        let make = || Outgoing {
            topic: self.topic,
            partition: None,
            key: row.key.as_deref().map(str::as_bytes),
            value: Some(&value),
            timestamp_ms: None,
            headers: Headers::default(),
        };
        self.producer.send_waiting(make, UNTAGGED, Instant::now() + REQUEST_TIMEOUT)?;
        if let Some(failure) = self.producer.take_failure() {
            return Err(failure.into());
        }
        self.sent += 1;
        self.bar.inc(1);
        Ok(())
    }

    fn finish(self) -> Result<(u64, f64), Error> {
        let delivered = self.producer.flush(FLUSH_TIMEOUT);
        self.bar.finish_and_clear();
        if let Some(failure) = self.producer.take_failure() {
            return Err(failure.into());
        }
        if !delivered {
            let doing = format!("delivering the last {} records", self.producer.in_flight());
            return Err(kafka::Error::TimedOut { doing, seconds: FLUSH_TIMEOUT.as_secs() }.into());
        }
        Ok((self.sent, self.started.elapsed().as_secs_f64()))
    }
}
