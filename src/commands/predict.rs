//! `modelstream predict`

use std::io::{BufWriter, Write as _};
use std::path::Path;

use csv::StringRecord;
use serde_json::json;

use crate::cli;
use crate::config;
use crate::pipeline::{CsvColumns, InputFormat, Outcome, OutputFormat, Scorer, ServedModel};

use super::models;
use super::publish::read_artifact;
use super::rows::{self, Columns, DataFormat};
use super::{Error, print};

/// Rows that are scored together.
const BATCH_ROWS: usize = 1_000;

/// Scores a data file; one JSON line a row on stdout, in the input's order. A row that cannot be scored is a line with its
/// reason.
///
/// # Errors
/// When the model or the file cannot be read; after the last row, when a row could not be scored (exit code 8).
pub fn run(common: &cli::Common, predict: &cli::Predict) -> Result<(), Error> {
    let input = InputFormat::Json { field: predict.features_field.clone() };
    let served = load(common, predict, &input)?;
    let mut output = Output::new(served);
    match DataFormat::of(&predict.data, predict.format.as_deref()) {
        DataFormat::Csv => score_table(&predict.data, &mut output)?,
        DataFormat::JsonLines => score_lines(&predict.data, &mut output)?,
    }
    output.finish()
}

fn score_lines(path: &Path, output: &mut Output) -> Result<(), Error> {
    let mut batch: Vec<Vec<u8>> = Vec::with_capacity(BATCH_ROWS);
    rows::for_each(path, DataFormat::JsonLines, &Columns::default(), |row| {
        batch.push(row.json.clone());
        if batch.len() < BATCH_ROWS {
            return Ok(true);
        }
        let open = output.score_json(&batch)?;
        batch.clear();
        Ok(open)
    })?;
    output.score_json(&batch).map(|_| ())
}

fn score_table(path: &Path, output: &mut Output) -> Result<(), Error> {
    let broken = |error: csv::Error| Error::Data(format!("{}: {error}", path.display()));
    let mut reader = csv::Reader::from_reader(rows::open(path)?);
    let header = reader.headers().map_err(broken)?.clone();
    let columns = CsvColumns::new(&header, output.served.model.signature())
        .map_err(|error| Error::Data(format!("{}: {error}", path.display())))?;
    let mut batch: Vec<StringRecord> = Vec::with_capacity(BATCH_ROWS);
    for record in reader.into_records() {
        batch.push(record.map_err(broken)?);
        if batch.len() == BATCH_ROWS {
            if !output.score_table(&columns, &batch)? {
                return Ok(());
            }
            batch.clear();
        }
    }
    output.score_table(&columns, &batch).map(|_| ())
}

fn load(common: &cli::Common, predict: &cli::Predict, input: &InputFormat) -> Result<ServedModel, Error> {
    let refused = |what: &str| {
        let what = what.to_owned();
        move |refusal| Error::Refused { what, refusal }
    };
    let (name, version, digest, artifact) = match (&predict.artifact, &predict.model) {
        (Some(path), _) => {
            let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            let (digest, artifact) = read_artifact(path, &name)?;
            (name, 0, digest, artifact)
        }
        (None, model) => {
            let (connection, topics) = (config::connection(common)?, config::topics(common)?);
            let manifest = models::find(&connection, &topics, model.as_deref().unwrap_or_default())?;
            let artifact =
                models::fetch(&connection, &topics, &manifest)?.into_artifact().map_err(refused(&manifest.model))?;
            (manifest.model, manifest.version, manifest.digest, artifact)
        }
    };
    let model = artifact.into_model().map_err(refused(&name))?;
    let output = OutputFormat::Json { probabilities: true };
    ServedModel::new(name.as_str(), version, model, digest, input, &output).map_err(refused(&name))
}

/// Scores batches onto stdout.
struct Output {
    served: ServedModel,
    scorer: Scorer,
    stdout: BufWriter<std::io::Stdout>,
    rows: u64,
    refused: u64,
}

impl Output {
    fn new(served: ServedModel) -> Output {
        let stdout = BufWriter::new(std::io::stdout());
        Output { served, scorer: Scorer::new(), stdout, rows: 0, refused: 0 }
    }

    /// Scores JSON records; whether stdout still has a reader.
    fn score_json(&mut self, batch: &[Vec<u8>]) -> Result<bool, Error> {
        self.scorer.decode(&self.served, batch.iter().map(|row| Some(row.as_slice())));
        self.write()
    }

    /// Scores lines of a table; whether stdout still has a reader.
    fn score_table(&mut self, columns: &CsvColumns, batch: &[StringRecord]) -> Result<bool, Error> {
        self.scorer.decode_csv(&self.served, columns, batch);
        self.write()
    }

    fn write(&mut self) -> Result<bool, Error> {
        self.scorer.predict(&self.served);
        self.scorer.encode(&self.served);
        for outcome in self.scorer.outcomes() {
            self.rows += 1;
            let written = match outcome {
                Outcome::Prediction { bytes, .. } => self.stdout.write_all(bytes),
                Outcome::DeadLetter(dead) => {
                    self.refused += 1;
                    let document =
                        json!({"error": dead.reason().as_str(), "message": dead.message(), "row": self.rows});
                    write!(self.stdout, "{document}")
                }
            };
            match written.and_then(|()| self.stdout.write_all(b"\n")) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
                other => other.map_err(print::failed)?,
            }
        }
        Ok(true)
    }

    fn finish(mut self) -> Result<(), Error> {
        match self.stdout.flush() {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(print::failed)?,
        }
        match self.refused {
            0 => Ok(()),
            refused => Err(Error::CheckFailed(format!("{refused} of {} rows could not be scored", self.rows))),
        }
    }
}
