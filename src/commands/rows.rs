//! Rows of a data file as JSON records: what `produce` sends and `predict` scores.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;

use crate::pipeline::decode::is_missing;

use super::Error;

/// The longest line of a JSON-lines file: a record of more bytes does not fit a Kafka message.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a data file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFormat {
    /// CSV with a header.
    Csv,
    /// One JSON document a line.
    JsonLines,
}

impl DataFormat {
    /// What the user said, or what the file's name says.
    pub fn of(path: &Path, said: Option<&str>) -> DataFormat {
        let by_name = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
        match said {
            Some("jsonl") => DataFormat::JsonLines,
            Some(_) => DataFormat::Csv,
            None if by_name => DataFormat::JsonLines,
            None => DataFormat::Csv,
        }
    }
}

/// One record of a data file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The JSON document.
    pub json: Vec<u8>,
    /// The key column's text.
    pub key: Option<String>,
}

/// Which columns matter.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// Left out.
    pub drop: Vec<String>,
    /// The record's key.
    pub key: Option<String>,
}

/// Hands each row of the file to `visit`, until it says stop (`false`) or the file ends.
///
/// # Errors
/// When the file cannot be read, a column is not there, or a row is broken (with its line); what `visit` returns.
pub fn for_each(
    path: &Path,
    format: DataFormat,
    columns: &Columns,
    visit: impl FnMut(&Row) -> Result<bool, Error>,
) -> Result<(), Error> {
    match format {
        DataFormat::Csv => csv_rows(path, open(path)?, columns, visit),
        DataFormat::JsonLines => json_rows(path, open(path)?, columns, visit),
    }
}

/// Opens a file, or stdin for `-`.
///
/// # Errors
/// When it cannot be opened.
pub fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    match path.to_str() {
        Some("-") => Ok(Box::new(io::stdin().lock())),
        _ => Ok(Box::new(File::open(path).map_err(|source| reading(path, source))?)),
    }
}

fn reading(path: &Path, source: io::Error) -> Error {
    Error::Io { doing: format!("reading {}", path.display()), source }
}

pub(super) fn csv_rows(
    path: &Path,
    input: Box<dyn Read>,
    columns: &Columns,
    mut visit: impl FnMut(&Row) -> Result<bool, Error>,
) -> Result<(), Error> {
    let broken = |error: csv::Error| Error::Data(format!("{}: {error}", path.display()));
    let mut reader = csv::Reader::from_reader(input);
    let header = reader.headers().map_err(broken)?.clone();
    let names: Vec<&str> = header.iter().collect();
    for wanted in columns.drop.iter().chain(&columns.key) {
        if !names.contains(&wanted.as_str()) {
            let (path, known) = (path.display(), names.join(", "));
            return Err(Error::Data(format!("{path} has no column {wanted}; there are: {known}")));
        }
    }
    let kept: Vec<bool> = names.iter().map(|name| !columns.drop.iter().any(|drop| drop == name)).collect();
    let key = names.iter().position(|name| columns.key.as_deref() == Some(*name));
    let quoted: Vec<String> = names.iter().map(|name| serde_json::Value::from(*name).to_string()).collect();
    let (mut record, mut row) = (csv::StringRecord::new(), Row::default());
    while reader.read_record(&mut record).map_err(broken)? {
        row.key = key.and_then(|key| record.get(key)).map(str::to_owned);
        row.json.clear();
        for (index, cell) in record.iter().enumerate().filter(|(index, _)| kept[*index]) {
            let separator = if row.json.is_empty() { "{" } else { "," };
            // Writing to memory does not fail.
            let _ = write!(row.json, "{separator}{}:", quoted[index]);
            write_cell(&mut row.json, cell);
        }
        row.json.extend_from_slice(if row.json.is_empty() { b"{}" } else { b"}" });
        if !visit(&row)? {
            break;
        }
    }
    Ok(())
}

/// A number stays a number to the letter, a missing cell is `null`, the rest is text.
fn write_cell(json: &mut Vec<u8>, cell: &str) {
    let cell = cell.trim();
    if is_missing(cell) {
        json.extend_from_slice(b"null");
    } else if serde_json::from_str::<serde_json::Number>(cell).is_ok() {
        json.extend_from_slice(cell.as_bytes());
    } else {
        json.extend_from_slice(serde_json::Value::from(cell).to_string().as_bytes());
    }
}

fn json_rows(
    path: &Path,
    input: Box<dyn Read>,
    columns: &Columns,
    mut visit: impl FnMut(&Row) -> Result<bool, Error>,
) -> Result<(), Error> {
    if !columns.drop.is_empty() {
        return Err(Error::Data("--drop goes with CSV: JSON lines are sent as they are".to_owned()));
    }
    let mut input = BufReader::new(input);
    let mut row = Row::default();
    for line in 1.. {
        row.json.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut row.json);
        if read.map_err(|source| reading(path, source))? == 0 {
            break;
        }
        let trimmed = row.json.trim_ascii_end().len();
        if row.json.len() as u64 == LINE_BYTES_MAX {
            let path = path.display();
            return Err(Error::Data(format!("{path}: line {line} is longer than {LINE_BYTES_MAX} bytes")));
        }
        row.json.truncate(trimmed);
        if row.json.is_empty() {
            continue;
        }
        row.key = key_of(path, line, &row.json, columns.key.as_deref())?;
        if !visit(&row)? {
            break;
        }
    }
    Ok(())
}

fn key_of(path: &Path, line: u64, json: &[u8], column: Option<&str>) -> Result<Option<String>, Error> {
    let Some(column) = column else { return Ok(None) };
    let document: serde_json::Value = serde_json::from_slice(json)
        .map_err(|error| Error::Data(format!("{}: line {line} is not JSON: {error}", path.display())))?;
    match document.get(column) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Ok(Some(other.to_string())),
    }
}

/// stdin can be read once only.
///
/// # Errors
/// When `path` is stdin and `repeat` is not 1.
pub fn check_repeat(path: &Path, repeat: u64) -> Result<(), Error> {
    if path.as_os_str() == "-" && repeat != 1 {
        return Err(Error::Data("stdin can be sent once: --repeat needs a file".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(format: DataFormat, text: &'static str, columns: &Columns) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        let visit = |row: &Row| {
            rows.push(row.clone());
            Ok(true)
        };
        let input = Box::new(text.as_bytes());
        match format {
            DataFormat::Csv => csv_rows(Path::new("x.csv"), input, columns, visit)?,
            DataFormat::JsonLines => json_rows(Path::new("x.jsonl"), input, columns, visit)?,
        }
        Ok(rows)
    }

    #[test]
    fn cells_become_json_by_what_they_are() {
        let rows = rows_of(DataFormat::Csv, "a,b,c,d\n5.10,NA,\"x \"\"y\",1e3\n", &Columns::default()).expect("valid");
        assert_eq!(String::from_utf8_lossy(&rows[0].json), r#"{"a":5.10,"b":null,"c":"x \"y","d":1e3}"#);
    }

    #[test]
    fn columns_are_dropped_and_one_is_the_key() {
        let columns = Columns { drop: vec!["b".into()], key: Some("a".into()) };
        let rows = rows_of(DataFormat::Csv, "a,b\n7,x\n", &columns).expect("valid");
        assert_eq!(rows, [Row { json: br#"{"a":7}"#.to_vec(), key: Some("7".into()) }]);
        let missing = Columns { drop: vec!["z".into()], key: None };
        let error = rows_of(DataFormat::Csv, "a,b\n7,x\n", &missing).expect_err("no such column");
        assert_eq!(error.to_string(), "x.csv has no column z; there are: a, b");
    }

    #[test]
    fn a_broken_row_is_named_by_its_line() {
        let error = rows_of(DataFormat::Csv, "a,b\n1,2\n3\n", &Columns::default()).expect_err("a cell is missing");
        assert!(error.to_string().contains("line: 3"), "{error}");
    }

    #[test]
    fn json_lines_pass_as_they_are() {
        let columns = Columns { drop: Vec::new(), key: Some("id".into()) };
        let rows = rows_of(DataFormat::JsonLines, "{\"id\":1, \"x\":2}\n\n{\"id\":\"b\"}", &columns).expect("valid");
        assert_eq!(rows[0], Row { json: b"{\"id\":1, \"x\":2}".to_vec(), key: Some("1".into()) });
        assert_eq!(rows[1].key.as_deref(), Some("b"));
    }
}
