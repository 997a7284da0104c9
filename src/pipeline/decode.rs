//! From a record's bytes to one row of features.

mod avro;
mod csv;
mod json;

pub use avro::{AvroFraming, SchemaError};
pub use csv::{CsvColumns, HeaderError, is_missing};

use apache_avro::Schema;

use super::features::{FeaturePlan, Row};
use super::record::{DeadLetter, Reason};
use crate::model::Refusal;

/// The largest record that is read: room for the most features a signature may have, 65,535, at 64 bytes each. Kafka's
/// own default limit is a quarter of it.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

/// How the records of the input topic are written.
#[derive(Debug, Clone)]
pub enum InputFormat {
    /// A JSON object by feature name, or a JSON array by position.
    Json {
        /// The field of the record under which that object or array stands; the record itself when `None`.
        field: Option<String>,
    },
    /// One Avro datum of a schema that is known beforehand.
    Avro {
        /// The schema that the records were written with: a record.
        schema: Schema,
        /// What stands in front of the datum.
        framing: AvroFraming,
    },
}

impl InputFormat {
    /// The format of Avro records that were written with the schema of this JSON text.
    ///
    /// # Errors
    /// When the text is no Avro schema, or its top level is no record.
    pub fn avro(schema: &str, framing: AvroFraming) -> Result<InputFormat, SchemaError> {
        Ok(InputFormat::Avro { schema: avro::parse(schema)?, framing })
    }
}

/// An input format compiled for the features of one version.
#[derive(Debug)]
pub(super) enum Decoder {
    Json { field: Option<String> },
    Avro(avro::AvroPlan),
}

impl Decoder {
    /// # Errors
    /// [`Refusal::Signature`] when records of this format can never carry what the model needs.
    pub(super) fn new(format: &InputFormat, plan: &FeaturePlan) -> Result<Decoder, Refusal> {
        match format {
            InputFormat::Json { field } => Ok(Decoder::Json { field: field.clone() }),
            InputFormat::Avro { schema, framing } => Ok(Decoder::Avro(avro::AvroPlan::new(schema, *framing, plan)?)),
        }
    }

    /// Fills a row from a record's value.
    pub(super) fn decode(&self, payload: Option<&[u8]>, mut row: Row<'_>) -> Result<(), DeadLetter> {
        let payload = readable(payload)?;
        match self {
            Decoder::Json { field } => json::decode(payload, field.as_deref(), &mut row)?,
            Decoder::Avro(plan) => plan.decode(payload, &mut row)?,
        }
        row.finish()
    }
}

/// The bytes of a value that is worth reading: there are some, and not too many.
fn readable(payload: Option<&[u8]>) -> Result<&[u8], DeadLetter> {
    let Some(payload) = payload else {
        return Err(DeadLetter::new(Reason::NullValue, "the record has no value"));
    };
    if payload.len() > RECORD_BYTES_MAX {
        let message = format!("the record has {} bytes, the limit is {RECORD_BYTES_MAX}", payload.len());
        return Err(DeadLetter::new(Reason::Oversize, message));
    }
    if payload.is_empty() {
        return Err(DeadLetter::new(Reason::Undecodable, "the record's value is empty"));
    }
    Ok(payload)
}

/// A field of a record's top level that holds a word.
#[derive(Debug, Clone)]
pub struct WordField {
    name: String,
    reader: WordReader,
}

#[derive(Debug, Clone)]
enum WordReader {
    Json,
    Avro(avro::AvroField),
}

impl WordField {
    /// The field `name` of records of `format`.
    ///
    /// # Errors
    /// When records of that format never have a word there.
    pub fn new(format: &InputFormat, name: &str) -> Result<WordField, String> {
        let reader = match format {
            InputFormat::Json { .. } => WordReader::Json,
            InputFormat::Avro { schema, framing } => WordReader::Avro(avro::AvroField::new(schema, *framing, name)?),
        };
        Ok(WordField { name: name.to_owned(), reader })
    }

    /// The field's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Hands the word to `take`, and returns what that says; `None` where there is no word. Of JSON the whole record is read,
    /// because a field that stands twice is no answer.
    pub(super) fn read<T>(
        &self,
        payload: Option<&[u8]>,
        take: impl FnOnce(&str) -> T,
    ) -> Result<Option<T>, DeadLetter> {
        let payload = readable(payload)?;
        match &self.reader {
            WordReader::Json => json::read_word(payload, &self.name, take),
            WordReader::Avro(field) => Ok(field.read(payload)?.map(take)),
        }
    }
}
