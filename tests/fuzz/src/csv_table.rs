//! Tables as `predict` reads them: a line is worth what the JSON record of the same values is worth.

use std::sync::LazyLock;

use csv::StringRecord;
use modelstream::pipeline::decode::is_missing;
use modelstream::pipeline::{CsvColumns, InputFormat, Scorer, ServedModel};
use serde_json::{Map, Value};

use super::records::{self, Scored};

/// The lines of a table that are looked at.
const LINES_MAX: usize = 16;

static MODEL: LazyLock<ServedModel> = LazyLock::new(|| records::regression(&InputFormat::Json { field: None }));

pub fn check(table: &[u8]) {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(table);
    let Ok(header) = reader.headers().cloned() else { return };
    let columns = match CsvColumns::new(&header, MODEL.model.signature()) {
        Ok(columns) => columns,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let lines: Vec<StringRecord> = reader.records().take(LINES_MAX).filter_map(Result::ok).collect();
    let together = scored(&columns, &lines);
    for (line, outcome) in lines.iter().zip(&together) {
        assert_eq!(scored(&columns, std::slice::from_ref(line)), std::slice::from_ref(outcome), "alone");
        check_by_record(&header, line, outcome);
    }
}

fn scored(columns: &CsvColumns, lines: &[StringRecord]) -> Vec<Scored> {
    let mut scorer = Scorer::new();
    scorer.decode_csv(&MODEL, columns, lines);
    scorer.predict(&MODEL);
    scorer.encode(&MODEL);
    assert_eq!(scorer.outcomes().len(), lines.len(), "each line has exactly one outcome");
    scorer.outcomes().map(|outcome| records::checked(&MODEL, outcome)).collect()
}

fn check_by_record(header: &StringRecord, line: &StringRecord, outcome: &Scored) {
    if line.len() < header.len() {
        assert!(matches!(outcome, Scored::DeadLetter(..)), "{outcome:?}");
        return;
    }
    let mut record = Map::new();
    for (name, cell) in header.iter().map(str::trim).zip(line.iter().map(str::trim)) {
        let number = cell.parse::<f64>().ok().filter(|_| matches!(name, "x" | "y"));
        let value = match number {
            _ if is_missing(cell) => Value::Null,
            // JSON has no word for these.
            Some(number) if !number.is_finite() => return,
            Some(number) => number.into(),
            None => cell.into(),
        };
        record.insert(name.to_owned(), value);
    }
    let record = Value::Object(record).to_string();
    let same = records::scored(&MODEL, &[Some(record.as_bytes())]);
    // Which of two bad cells is named first depends on the order of the columns.
    match (outcome, &same[0]) {
        (Scored::DeadLetter(..), Scored::DeadLetter(..)) => {}
        (one, other) => assert_eq!(one, other, "{record}"),
    }
}
