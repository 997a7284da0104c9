//! `modelstream tail`

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli;
use crate::config;
use crate::kafka;
use crate::kafka::admin::Admin;
use crate::kafka::consumer::Record;
use crate::kafka::reader::{LogReader, Read, Start};

use super::{Error, print};

/// How long one wait for a record lasts.
const POLL: Duration = Duration::from_millis(500);

/// Prints the records of a topic as they come.
///
/// # Errors
/// When the topic is not there, or it cannot be read.
pub fn run(common: &cli::Common, tail: &cli::Tail) -> Result<(), Error> {
    let connection = config::connection(common)?;
    let partitions = Admin::new(&connection)?
        .partitions(&tail.topic)?
        .ok_or_else(|| kafka::Error::NoTopic { doing: format!("reading {}", tail.topic) })?;
    let start = if tail.from_beginning { Start::Beginning } else { Start::End };
    let starts: Vec<(i32, Start)> = (0..partitions).map(|partition| (partition, start)).collect();
    let reader = LogReader::open(&connection, &tail.topic, &starts)?;
    let mut unfinished: BTreeSet<i32> = (0..partitions).collect();
    let mut left = tail.records.unwrap_or(u64::MAX);
    while left > 0 && !(tail.exit_at_end && unfinished.is_empty()) {
        match reader.next(POLL) {
            Ok(Read::Record(record)) => {
                if common.json {
                    print::json(&document(&record))?
                } else {
                    print::line(&text(&record))?
                }
                left -= 1;
            }
            Ok(Read::End(partition)) => {
                unfinished.remove(&partition);
            }
            Ok(Read::Nothing) => {}
            // librdkafka connects again by itself; the person sees why nothing comes.
            Err(error @ kafka::Error::Unreachable { .. }) => print::say(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `partition:offset key value`, then the headers that explain it.
fn text(record: &Record<'_>) -> String {
    let shown = |bytes: Option<&[u8]>| bytes.map_or("-".into(), |bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut line = format!("{}:{} {} ", record.partition(), record.offset(), shown(record.key()));
    line += &shown(record.payload());
    for (name, value) in record.headers() {
        line += &format!(" {name}={}", shown(value));
    }
    line
}

fn document(record: &Record<'_>) -> Value {
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let headers: Map<String, Value> =
        record.headers().map(|(name, value)| (name.to_owned(), value.map_or(Value::Null, text))).collect();
    let value = record.payload().map(|bytes| serde_json::from_slice(bytes).unwrap_or_else(|_| text(bytes)));
    json!({
        "partition": record.partition(),
        "offset": record.offset(),
        "timestamp": record.timestamp_ms(),
        "key": record.key().map(text),
        "value": value,
        "headers": headers,
    })
}
