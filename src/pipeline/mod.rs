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
//! [`Scorer::outcomes`] has exactly one outcome for each record, in the records' order.

pub mod decode;
pub mod encode;
mod features;
pub mod record;

pub use decode::{AvroFraming, CsvColumns, InputFormat};
pub use encode::OutputFormat;
pub use record::{DeadLetter, Reason};

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

    /// The most bytes that one prediction of this version takes; at most [`encode::PREDICTION_BYTES_MAX`].
    pub fn prediction_bytes_max(&self) -> usize {
        self.encoder.bytes_max()
    }
}

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

/// Scores batches of records; owned by one lane. Its buffers stay from batch to batch, so that a record costs no allocation.
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
    /// A panic of the model passes through; after it, [`Scorer::fail_rows`] ends the batch or [`Scorer::reset`] drops it.
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

    /// Makes each record that is a row of the block a dead letter, instead of scoring it: what is left to do after a panic
    /// of the model. Scoring the records one by one first finds those that do not panic.
    pub fn fail_rows(&mut self, message: &str) {
        for place in self.places.iter_mut().filter(|place| matches!(place, Place::Row)) {
            *place = Place::DeadLetter(DeadLetter::new(Reason::ModelError, message));
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
