//! The record's way: bytes in, predictions out. Pure: no I/O, no clock, no logging.
//!
//! A lane owns one [`Scorer`] and scores batch after batch with it; all lanes share one [`ServedModel`], which carries
//! what was compiled once for a version. The steps of a batch are separate, so that a lane can time each:
//!
//! ```text
//! decode    each record's bytes -> its features by name or position -> one row of the block   (decode.rs, features.rs)
//! predict   the block -> a prediction for each row                                            (the model)
//! encode    each prediction -> its bytes                                                      (encode.rs)
//! ```
//!
//! A record that fails a step is a dead letter with its reason (record.rs); the others of its batch go on. Afterwards
//! [`Scorer::outcomes`] has exactly one outcome for each record, in the records' order. Where several models are served,
//! [`Route`] says which one a record is for.

pub mod decode;
pub mod encode;
mod features;
pub mod record;
pub mod route;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use decode::{AvroFraming, CsvColumns, InputFormat, WordField};
pub use encode::OutputFormat;
pub use record::{DeadLetter, Reason};
pub use route::Route;

use crate::model::{Block, Digest, Model, Predictions, Refusal};
use decode::Decoder;
use encode::Encoder;
use features::{FeaturePlan, Row, RowMemory};

/// A version of a model with what was compiled for it: how its records are read and how its predictions are written.
///
/// Made once, off the lanes; lanes share it.
#[derive(Debug)]
pub struct ServedModel {
    /// The model's name.
    pub name: String,
    /// The model's version: 1, 2, 3 …; 0 for an artifact that was never published.
    pub version: u64,
    /// Of the version's artifact.
    pub digest: Digest,
    /// What scores.
    pub model: Model,
    plan: FeaturePlan,
    decoder: Decoder,
    encoder: Encoder,
}

impl ServedModel {
    /// Compiles a verified model for records of `input` and predictions of `output`.
    ///
    /// # Errors
    /// [`Refusal::Signature`] when records of `input` can never carry what the model needs; [`Refusal::TooLarge`] when
    /// its predictions would not fit a record.
    pub fn new(
        name: impl Into<String>,
        version: u64,
        model: Model,
        digest: Digest,
        input: &InputFormat,
        output: &OutputFormat,
    ) -> Result<ServedModel, Refusal> {
        let name = name.into();
        let plan = FeaturePlan::new(model.signature());
        if plan.columns() == 0 {
            return Err(Refusal::Signature("the model has no features".into()));
        }
        let decoder = Decoder::new(input, &plan)?;
        let encoder = Encoder::new(*output, model.signature(), &name, version, &digest)?;
        Ok(ServedModel { name, version, digest, model, plan, decoder, encoder })
    }

    /// The most bytes that one record takes while a batch is scored: its row of features, the model's answers, its prediction.
    pub fn scored_bytes_max(&self) -> usize {
        let answers = self.model.signature().target.classes.len().max(1);
        self.plan.columns() * size_of::<f32>()
            + answers * size_of::<f64>()
            + self.prediction_bytes_max()
            + size_of::<Place>()
    }

    /// The most bytes that one prediction of this version takes; at most [`encode::PREDICTION_BYTES_MAX`].
    pub fn prediction_bytes_max(&self) -> usize {
        self.encoder.bytes_max()
    }
}

/// The message of a dead letter whose record made the scoring panic.
const PANICKED: &str = "scoring this record panicked";

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// It was scored.
    Prediction {
        /// The prediction in the output format.
        bytes: &'a [u8],
        /// The predicted class, as an index into the signature's classes; `None` for a regression.
        class: Option<usize>,
    },
    /// It could not be scored.
    DeadLetter(&'a DeadLetter),
}

/// How far a record has come.
#[derive(Debug)]
enum Place {
    /// It is the block's next row.
    Row,
    /// Its prediction ends here in the output; it begins where the one before ends.
    Prediction {
        end: usize,
        class: Option<usize>,
    },
    DeadLetter(DeadLetter),
}

/// Scores batches of records; owned by one lane.
///
/// Its buffers stay from batch to batch, so that a good record costs no allocation (serde_json takes a small one for a
/// string with escapes, a number of more digits than `u64` holds, and an object or array that is skipped).
#[derive(Debug, Default)]
pub struct Scorer {
    memory: RowMemory,
    block: Block,
    predictions: Predictions,
    places: Vec<Place>,
    output: Vec<u8>,
}

impl Scorer {
    /// A scorer with empty buffers.
    pub fn new() -> Scorer {
        Scorer::default()
    }

    /// Scores one batch: all the steps in a row. Returns the outcomes, one for each record in the records' order.
    pub fn score<'a>(
        &mut self,
        served: &ServedModel,
        payloads: impl IntoIterator<Item = Option<&'a [u8]>>,
    ) -> impl ExactSizeIterator<Item = Outcome<'_>> {
        self.decode(served, payloads);
        self.predict(served);
        self.encode(served);
        self.outcomes()
    }

    /// Begins a batch: reads each record's value into a row of the block. `None` is a record without a value.
    pub fn decode<'a>(&mut self, served: &ServedModel, payloads: impl IntoIterator<Item = Option<&'a [u8]>>) {
        self.begin(served);
        for payload in payloads {
            self.push(served, |row| served.decoder.decode(payload, row));
        }
    }

    /// Begins a batch as [`Scorer::decode`] does, from the lines of a table.
    pub fn decode_csv<'a, Line>(
        &mut self,
        served: &ServedModel,
        columns: &CsvColumns,
        lines: impl IntoIterator<Item = Line>,
    ) where
        Line: IntoIterator<Item = &'a str>,
    {
        self.begin(served);
        for line in lines {
            self.push(served, |row| columns.decode(line, row));
        }
    }

    /// Scores the rows of the block.
    ///
    /// A panic of the model passes through; after it, [`Scorer::isolate`] begins the batch anew, [`Scorer::fail_rows`] ends it,
    /// or [`Scorer::reset`] drops it.
    pub fn predict(&mut self, served: &ServedModel) {
        served.model.predict(&self.block, &mut self.predictions);
    }

    /// Writes the predictions of the block's rows, and so ends the batch.
    ///
    /// # Panics
    /// When [`Scorer::predict`] was not called after [`Scorer::decode`].
    pub fn encode(&mut self, served: &ServedModel) {
        assert_eq!(self.predictions.len(), self.block.rows(), "predict comes before encode");
        let rows = self.places.iter_mut().filter(|place| matches!(place, Place::Row));
        for (row, place) in rows.enumerate() {
            let outputs = self.predictions.outputs(row);
            if let Some(output) = outputs.iter().find(|output| !output.is_finite()) {
                let message = format!("the model's answer is {output}, which is not finite");
                *place = Place::DeadLetter(DeadLetter::new(Reason::ModelError, message));
                continue;
            }
            let class = self.predictions.class(row);
            served.encoder.encode(class, outputs, &mut self.output);
            *place = Place::Prediction { end: self.output.len(), class };
        }
    }

    /// Makes each record that is a row of the block a dead letter, instead of scoring it.
    pub fn fail_rows(&mut self, message: &str) {
        for place in self.places.iter_mut().filter(|place| matches!(place, Place::Row)) {
            *place = Place::DeadLetter(DeadLetter::new(Reason::ModelError, message));
        }
    }

    /// Begins a batch anew whose scoring panicked, and ends it: each record is tried alone, those that panic are dead letters,
    /// the others are scored together.
    pub fn isolate<'a>(&mut self, served: &ServedModel, payloads: impl IntoIterator<Item = Option<&'a [u8]>> + Clone) {
        let panics: Vec<bool> = payloads
            .clone()
            .into_iter()
            .map(|payload| {
                let alone = || drop(Scorer::new().score(served, [payload]));
                catch_unwind(AssertUnwindSafe(alone)).is_err()
            })
            .collect();
        self.reset();
        self.begin(served);
        for (payload, panics) in payloads.into_iter().zip(panics) {
            match panics {
                true => self.places.push(Place::DeadLetter(DeadLetter::new(Reason::ModelError, PANICKED))),
                false => self.push(served, |row| served.decoder.decode(payload, row)),
            }
        }
        let together = catch_unwind(AssertUnwindSafe(|| {
            self.predict(served);
            self.encode(served);
        }));
        if together.is_err() {
            self.fail_rows(PANICKED);
        }
    }

    /// One outcome for each record of the batch, in the records' order.
    ///
    /// # Panics
    /// When neither [`Scorer::encode`] nor [`Scorer::fail_rows`] ended the batch.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = Outcome<'_>> {
        let mut start = 0;
        self.places.iter().map(move |place| match place {
            Place::Prediction { end, class } => {
                let bytes = &self.output[start..*end];
                start = *end;
                Outcome::Prediction { bytes, class: *class }
            }
            Place::DeadLetter(dead) => Outcome::DeadLetter(dead),
            Place::Row => panic!("encode comes before outcomes"),
        })
    }

    /// The number of records of the batch.
    pub fn records(&self) -> usize {
        self.places.len()
    }

    /// The number of records of the batch that became rows of the block.
    pub fn rows(&self) -> usize {
        self.block.rows()
    }

    /// Drops the batch, whatever state it is in; the memory is given back.
    pub fn reset(&mut self) {
        *self = Scorer::new();
    }

    fn begin(&mut self, served: &ServedModel) {
        self.memory.fit(&served.plan);
        self.block.reset(served.plan.columns());
        self.places.clear();
        self.output.clear();
    }

    fn push(&mut self, served: &ServedModel, decode: impl FnOnce(Row<'_>) -> Result<(), DeadLetter>) {
        let row = Row::new(&served.plan, &mut self.memory, self.block.push_row());
        let place = match decode(row) {
            Ok(()) => Place::Row,
            Err(dead) => {
                self.block.pop_row();
                Place::DeadLetter(dead)
            }
        };
        self.places.push(place);
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{JSON_IN, JSON_OUT, decimal, number, served, votes};
    use super::*;

    fn reason(outcome: Outcome<'_>) -> Option<Reason> {
        match outcome {
            Outcome::Prediction { .. } => None,
            Outcome::DeadLetter(dead) => Some(dead.reason()),
        }
    }

    #[test]
    fn each_record_has_its_own_outcome_in_its_place() {
        let served = served(votes(["no", "yes"]), &JSON_IN, JSON_OUT);
        let mut scorer = Scorer::new();
        let batch: [Option<&[u8]>; 5] = [Some(b"[2]"), None, Some(b"[-1]"), Some(b"[true]"), Some(b"[3]")];
        for _ in 0..2 {
            let outcomes: Vec<Outcome<'_>> = scorer.score(&served, batch).collect();
            let classes = outcomes.iter().map(|outcome| match outcome {
                Outcome::Prediction { class, bytes } => {
                    let document: serde_json::Value = serde_json::from_slice(bytes).expect("one whole document");
                    assert_eq!(document["prediction"], ["no", "yes"][class.expect("a class")]);
                    Ok(class.expect("a class"))
                }
                Outcome::DeadLetter(dead) => Err(dead.reason()),
            });
            let expected = [Ok(1), Err(Reason::NullValue), Ok(0), Err(Reason::WrongType), Ok(1)];
            assert_eq!(classes.collect::<Vec<_>>(), expected);
            assert_eq!((scorer.records(), scorer.rows()), (5, 3));
        }
    }

    #[test]
    fn an_empty_batch_and_one_without_rows_are_batches_too() {
        let served = served(votes(["no", "yes"]), &JSON_IN, JSON_OUT);
        let mut scorer = Scorer::new();
        assert_eq!(scorer.score(&served, []).len(), 0);
        assert_eq!(scorer.score(&served, [None, Some(b"".as_slice())]).len(), 2);
    }

    #[test]
    fn an_answer_that_is_not_finite_is_a_dead_letter() {
        let mut model = vec![number("x", None)];
        model.extend((0..300).map(|index| number(&format!("x{index}"), Some(0.0))));
        let served = served(decimal(model), &JSON_IN, JSON_OUT);
        // The last weight is 1e300: with 3e38 the sum leaves f64.
        let batch = [br#"{"x":1}"#.as_slice(), br#"{"x":1,"x299":3e38}"#, br#"{"x":2}"#];
        let mut scorer = Scorer::new();
        let reasons: Vec<_> = scorer.score(&served, batch.map(Some)).map(reason).collect();
        assert_eq!(reasons, [None, Some(Reason::ModelError), None]);
    }

    #[test]
    fn another_version_may_come_between_two_batches() {
        let first = served(votes(["no", "yes"]), &JSON_IN, JSON_OUT);
        let second = served(decimal(vec![number("a", None), number("x", None)]), &JSON_IN, JSON_OUT);
        let mut scorer = Scorer::new();
        for _ in 0..2 {
            assert_eq!(scorer.score(&first, [Some(br#"{"x":1,"a":2}"#.as_slice())]).map(reason).next(), Some(None));
            assert_eq!(scorer.score(&second, [Some(br#"{"x":1,"a":2}"#.as_slice())]).map(reason).next(), Some(None));
        }
    }

    #[test]
    fn after_a_panic_the_batch_fails_or_is_dropped() {
        let narrow = served(votes(["no", "yes"]), &JSON_IN, JSON_OUT);
        let wide = served(decimal(vec![number("a", None), number("b", None)]), &JSON_IN, JSON_OUT);
        let mut scorer = Scorer::new();
        scorer.decode(&narrow, [Some(b"[1]".as_slice()), None]);
        catch_unwind(AssertUnwindSafe(|| scorer.predict(&wide))).expect_err("a block of another width");
        scorer.fail_rows("the model panicked");
        let reasons: Vec<_> = scorer.outcomes().map(reason).collect();
        assert_eq!(reasons, [Some(Reason::ModelError), Some(Reason::NullValue)]);
        scorer.reset();
        assert_eq!(scorer.score(&wide, [Some(b"[1,2]".as_slice())]).map(reason).next(), Some(None));
    }

    proptest! {
        #[test]
        fn any_records_have_exactly_one_outcome_each(
            records in proptest::collection::vec(
                proptest::option::of(prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..32),
                    (-2f32..2.0).prop_map(|x| format!("{{\"x\":{x}}}").into_bytes()),
                ]),
                0..8,
            )
        ) {
            let served = served(votes(["no", "yes"]), &JSON_IN, JSON_OUT);
            let mut scorer = Scorer::new();
            let payloads = records.iter().map(|record| record.as_deref());
            let outcomes: Vec<_> = scorer.score(&served, payloads).map(reason).collect();
            prop_assert_eq!(outcomes.len(), records.len());
            for (record, reason) in records.iter().zip(outcomes) {
                prop_assert_eq!(record.is_none(), reason == Some(Reason::NullValue));
            }
        }
    }
}
