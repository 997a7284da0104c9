//! Records that fit a model, made before anything is measured.

use apache_avro::Schema;
use apache_avro::types::Value as AvroValue;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::{Value, json};

use crate::config::ConfigError;
use crate::model::artifact::{Artifact, GoldenValue};
use crate::model::signature::FeatureKind;
use crate::train::rng::SplitMix64;

use super::super::Error;

/// Different records: enough that neither compression nor a branch predictor learns them, few enough to stay in cache.
const RECORDS: usize = 4_096;
/// The same records in every run.
const SEED: u64 = 7;

/// Values of records, used in turn.
#[derive(Debug)]
pub struct Ring {
    values: Vec<Vec<u8>>,
    /// The Avro schema that they were written with.
    pub schema: Option<String>,
}

/// What one feature of a record can be.
enum Range {
    /// A number between two of the golden rows, whole where they are.
    Number { low: f64, high: f64, whole: bool },
    /// One of the categories.
    Word(Vec<String>),
}

impl Ring {
    /// Makes records for the model of `artifact`: numbers as in its golden rows, any of its categories, nothing missing.
    ///
    /// # Errors
    /// With Avro, when a feature has a name that Avro does not allow.
    pub fn new(artifact: &Artifact, avro: bool) -> Result<Ring, Error> {
        let features = &artifact.signature.features;
        let names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
        let ranges: Vec<Range> = features
            .iter()
            .enumerate()
            .map(|(index, feature)| {
                Range::new(&feature.kind, artifact.golden_rows.iter().map(|row| &row.inputs[index]))
            })
            .collect();
        let schema = avro.then(|| schema(&names, &ranges)).transpose()?;
        let mut rng = SplitMix64::new(SEED);
        let mut values = Vec::with_capacity(RECORDS);
        for _ in 0..RECORDS {
            let drawn: Vec<Value> = ranges.iter().map(|range| range.draw(&mut rng)).collect();
            values.push(match &schema {
                Some(schema) => avro_datum(schema, &names, drawn)?,
                None => json_object(&names, &drawn),
            });
        }
        Ok(Ring { values, schema: schema.map(|schema| schema.canonical_form()) })
    }

    /// The value of record `index`.
    pub fn value(&self, index: u64) -> &[u8] {
        &self.values[index as usize % RECORDS]
    }

    /// The mean size of a value.
    pub fn mean_bytes(&self) -> usize {
        self.values.iter().map(Vec::len).sum::<usize>() / RECORDS
    }
}

impl Range {
    fn new<'a>(kind: &FeatureKind, golden: impl Iterator<Item = &'a GoldenValue>) -> Range {
        if let FeatureKind::Categorical { categories, .. } = kind {
            return Range::Word(categories.clone());
        }
        let numbers: Vec<f64> = golden
            .filter_map(|value| if let GoldenValue::Number(number) = value { Some(*number) } else { None })
            .filter(|number| number.is_finite())
            .collect();
        match numbers.as_slice() {
            [] => Range::Number { low: 0.0, high: 1.0, whole: false },
            some => Range::Number {
                low: some.iter().copied().fold(f64::INFINITY, f64::min),
                high: some.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                whole: some.iter().all(|number| number.fract() == 0.0),
            },
        }
    }

    fn draw(&self, rng: &mut SplitMix64) -> Value {
        match self {
            Range::Word(words) => match words.len() {
                0 => Value::Null,
                count => Value::from(words[(rng.next_u64() % count as u64) as usize].as_str()),
            },
            Range::Number { low, high, whole } => {
                let share = rng.next_u64() as f64 / u64::MAX as f64;
                let number = low + share * (high - low);
                // As people write numbers: four digits, not seventeen.
                let number = if *whole { number.round() } else { format!("{number:.3e}").parse().unwrap_or(number) };
                if *whole && number.abs() < 1e15 { Value::from(number as i64) } else { Value::from(number) }
            }
        }
    }
}

/// In the signature's order, as a producer that knows the model writes it.
fn json_object(names: &[&str], values: &[Value]) -> Vec<u8> {
    let fields: Vec<String> =
        names.iter().zip(values).map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

fn schema(names: &[&str], ranges: &[Range]) -> Result<Schema, Error> {
    let fields: Vec<Value> = names
        .iter()
        .zip(ranges)
        .map(|(name, range)| {
            let kind = if matches!(range, Range::Word(_)) { "string" } else { "double" };
            json!({"name": name, "type": kind})
        })
        .collect();
    Schema::parse(&json!({"type": "record", "name": "Features", "fields": fields})).map_err(|error| {
        let rule = format!("--format avro: a feature of this model has a name that Avro does not allow ({error})");
        ConfigError::Relation(format!("{rule}; use --format json")).into()
    })
}

fn avro_datum(schema: &Schema, names: &[&str], values: Vec<Value>) -> Result<Vec<u8>, Error> {
    let field = |value: Value| match value {
        Value::String(text) => AvroValue::String(text),
        other => AvroValue::Double(other.as_f64().unwrap_or_default()),
    };
    let fields = names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), field(value))).collect();
    GenericDatumWriter::builder(schema)
        .build()
        .and_then(|writer| writer.write_value_to_vec(AvroValue::Record(fields)))
        .map_err(|error| Error::Data(format!("a record of the benchmark is no Avro: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::decode::AvroFraming;
    use crate::pipeline::{InputFormat, Outcome, OutputFormat, Scorer, ServedModel};

    const PENGUINS: &[u8] = include_bytes!("../../../tests/data/penguins.csv");

    fn every_record_is_scored(avro: bool) {
        let (bytes, _) =
            super::super::super::train::fit_csv(PENGUINS, "species", "decision-tree", None).expect("fitted");
        let artifact = Artifact::decode(&bytes).expect("an artifact");
        let ring = Ring::new(&artifact, avro).expect("names that Avro allows");
        let format = match &ring.schema {
            Some(schema) => InputFormat::avro(schema, AvroFraming::None).expect("a schema"),
            None => InputFormat::Json { field: None },
        };
        let digest = crate::model::Digest::of(&bytes);
        let output = OutputFormat::Json { probabilities: true };
        let model = artifact.into_model().expect("sound");
        let served = ServedModel::new("penguins", 1, model, digest, &format, &output).expect("fits");
        let mut scorer = Scorer::new();
        let mut outcomes = scorer.score(&served, ring.values.iter().map(|value| Some(value.as_slice())));
        assert_eq!(outcomes.len(), RECORDS);
        let dead = outcomes.find(|outcome| matches!(outcome, Outcome::DeadLetter(_)));
        assert!(dead.is_none(), "{}", String::from_utf8_lossy(ring.value(0)));
    }

    #[test]
    fn every_record_fits_the_model() {
        every_record_is_scored(false);
        every_record_is_scored(true);
    }
}
