//! Golden rows: inputs with the outputs that the trainer computed, which every loader must reproduce.

use std::collections::BTreeSet;

use crate::model::artifact::{GoldenRow, GoldenValue};
use crate::model::signature::{FeatureKind, Value};
use crate::model::verify::{GOLDEN_ROWS_MIN, encode_golden};
use crate::model::{Block, Model, Predictions};

use super::dataset::{Dataset, Targets};

/// The rows that are taken where nothing special asks for one.
const PLAIN_ROWS: usize = 8;
/// The most rows: each costs every loader a prediction.
const ROWS_MAX: usize = 64;

/// Chooses rows that cover each class and each column's extremes, and adds one whose values are all missing and one with
/// unknown categories where the rules allow them; computes their outputs.
pub fn choose(data: &Dataset, model: &Model, rows: &[usize]) -> Vec<GoldenRow> {
    let mut chosen = BTreeSet::new();
    chosen.extend(rows.iter().step_by((rows.len() / PLAIN_ROWS).max(1)).take(PLAIN_ROWS));
    chosen.extend(of_each_class(data.targets(), rows));
    chosen.extend(extremes(data, model, rows));
    let mut inputs: Vec<Vec<GoldenValue>> =
        chosen.into_iter().take(ROWS_MAX).map(|row| inputs_of(data, model, row)).collect();
    if let Some(first) = rows.first() {
        let plain = inputs_of(data, model, *first);
        inputs.push(with_missing(model, &plain));
        inputs.push(with_unknown(model, &plain));
    }
    let chosen: Vec<GoldenRow> = inputs.into_iter().filter_map(|inputs| golden_row(model, inputs)).collect();
    // Of a table with fewer rows than a proof needs, each counts more than once.
    let needed = chosen.len().max(GOLDEN_ROWS_MIN);
    chosen.iter().cycle().take(needed).cloned().collect()
}

fn of_each_class(targets: &Targets, rows: &[usize]) -> Vec<usize> {
    let Targets::Classes { codes, .. } = targets else { return Vec::new() };
    let mut seen = BTreeSet::new();
    rows.iter().copied().filter(|row| seen.insert(codes[*row])).take(ROWS_MAX / 2).collect()
}

/// The rows with the smallest and largest number of each column.
fn extremes(data: &Dataset, model: &Model, rows: &[usize]) -> Vec<usize> {
    let number = |row: usize, feature: usize| match data.value(row, feature) {
        Value::Number(number) => Some(number),
        Value::Missing | Value::Category(_) => None,
    };
    let mut extremes = Vec::new();
    for feature in 0..model.signature().features.len().min(ROWS_MAX / 4) {
        let present = || rows.iter().copied().filter_map(|row| Some((row, number(row, feature)?)));
        extremes.extend(present().min_by(|one, other| one.1.total_cmp(&other.1)).map(|(row, _)| row));
        extremes.extend(present().max_by(|one, other| one.1.total_cmp(&other.1)).map(|(row, _)| row));
    }
    extremes
}

fn inputs_of(data: &Dataset, model: &Model, row: usize) -> Vec<GoldenValue> {
    let value = |feature| match data.value(row, feature) {
        Value::Missing => GoldenValue::Missing,
        Value::Number(number) => GoldenValue::Number(number),
        Value::Category(word) => GoldenValue::Category(word.to_owned()),
    };
    (0..model.signature().features.len()).map(value).collect()
}

/// Every value missing that may be.
fn with_missing(model: &Model, plain: &[GoldenValue]) -> Vec<GoldenValue> {
    let features = model.signature().features.iter().zip(plain);
    let value = |(feature, value): (&crate::model::signature::Feature, &GoldenValue)| {
        let mut columns = vec![0.0; feature.columns()];
        match feature.encode(Value::Missing, &mut columns) {
            Ok(()) => GoldenValue::Missing,
            Err(_) => value.clone(),
        }
    };
    features.map(value).collect()
}

/// Every word unknown; the row is dropped later where a rule refuses that.
fn with_unknown(model: &Model, plain: &[GoldenValue]) -> Vec<GoldenValue> {
    let features = model.signature().features.iter().zip(plain);
    let value = |(feature, value): (&crate::model::signature::Feature, &GoldenValue)| match &feature.kind {
        FeatureKind::Categorical { .. } => GoldenValue::Category("no category of this table".to_owned()),
        FeatureKind::Numeric { .. } => value.clone(),
    };
    features.map(value).collect()
}

/// `None` where the signature refuses the inputs, as it may refuse missing or unknown ones.
fn golden_row(model: &Model, inputs: Vec<GoldenValue>) -> Option<GoldenRow> {
    let mut row = GoldenRow { inputs, outputs: Vec::new() };
    let mut block = Block::new(model.signature().columns());
    encode_golden(model.signature(), &row, block.push_row()).ok()?;
    let mut predictions = Predictions::default();
    model.predict(&block, &mut predictions);
    row.outputs = predictions.outputs(0).to_vec();
    Some(row)
}
