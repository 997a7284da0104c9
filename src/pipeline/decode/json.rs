//! JSON records, read straight into a row: no tree of values stands in between.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::pipeline::features::{Cell, Row};
use crate::pipeline::record::{DeadLetter, Reason};

/// Reads a record: an object by name or an array by position, itself or under `field`.
///
/// serde_json bounds how deep it recurses (128 levels), and skips what is not asked for without recursion.
pub(super) fn decode(payload: &[u8], field: Option<&str>, row: &mut Row<'_>) -> Result<(), DeadLetter> {
    // Checked here, because the strings of skipped fields are not checked later.
    let text = std::str::from_utf8(payload).map_err(|error| {
        let message = format!("not UTF-8: the byte at {} belongs to no character", error.valid_up_to());
        DeadLetter::new(Reason::Undecodable, message)
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut fault = None;
    let features = Features { row, fault: &mut fault };
    let read = match field {
        None => features.deserialize(&mut reader),
        Some(field) => Envelope { field, features }.deserialize(&mut reader),
    };
    read.and_then(|()| reader.end()).map_err(|error| fault.unwrap_or_else(|| classified(&error)))
}

/// What serde_json refused by itself. Only a type error has no fault of ours, and only of the whole: each value has its own.
fn classified(error: &serde_json::Error) -> DeadLetter {
    match error.classify() {
        Category::Data => DeadLetter::new(Reason::WrongShape, "the features are neither an object nor an array"),
        Category::Syntax | Category::Eof | Category::Io => {
            let message = error.to_string();
            // The only sign of a number beyond `f64`; a test holds serde_json to it.
            let beyond = message.starts_with("number out of range");
            let reason = if beyond { Reason::NonFinite } else { Reason::Undecodable };
            DeadLetter::new(reason, format!("not JSON: {message}"))
        }
    }
}

/// Ends the reading; why stands in the fault.
fn stop<E: de::Error>(fault: &mut Option<DeadLetter>, dead: DeadLetter) -> E {
    *fault = Some(dead);
    E::custom("refused")
}

/// The object or array of features.
struct Features<'a, 'r> {
    row: &'a mut Row<'r>,
    fault: &'a mut Option<DeadLetter>,
}

impl<'de> DeserializeSeed<'de> for Features<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Features<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array of features")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name(&mut *self.row))? {
            match name {
                Some(feature) => {
                    map.next_value_seed(OneValue { row: &mut *self.row, fault: &mut *self.fault, feature })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let features = self.row.features();
        for feature in 0..features {
            let one = OneValue { row: &mut *self.row, fault: &mut *self.fault, feature };
            if seq.next_element_seed(one)?.is_none() {
                let message = format!("the array has {feature} values, the model has {features} features");
                return Err(stop(self.fault, DeadLetter::new(Reason::WrongShape, message)));
            }
        }
        if seq.next_element::<IgnoredAny>()?.is_some() {
            let message = format!("the array has more values than the model's {features} features");
            return Err(stop(self.fault, DeadLetter::new(Reason::WrongShape, message)));
        }
        Ok(())
    }
}

/// A key of the object: the feature that it names, if any. No text is copied.
struct Name<'a, 'r>(&'a mut Row<'r>);

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.find(name))
    }
}

/// The value of one feature.
struct OneValue<'a, 'r> {
    row: &'a mut Row<'r>,
    fault: &'a mut Option<DeadLetter>,
    feature: usize,
}

impl OneValue<'_, '_> {
    fn put<E: de::Error>(self, cell: Cell<'_>) -> Result<(), E> {
        self.row.put(self.feature, cell).map_err(|dead| stop(self.fault, dead))
    }
}

impl<'de> DeserializeSeed<'de> for OneValue<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneValue<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a word or null")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.put(Cell::Null)
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<(), E> {
        self.put(Cell::Boolean(truth))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        self.put(Cell::Integer(number.into()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        self.put(Cell::Integer(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        self.put(Cell::Float(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.put(Cell::Text(text))
    }

    /// Refuses at the opening bracket, so what is inside costs nothing.
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.put(Cell::Composite)
    }

    /// As [`Self::visit_seq`].
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.put(Cell::Composite)
    }
}

/// The object around the features.
struct Envelope<'a, 'r> {
    field: &'a str,
    features: Features<'a, 'r>,
}

impl<'de> DeserializeSeed<'de> for Envelope<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Envelope<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the field {}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Features { row, fault } = self.features;
        let mut found = false;
        while let Some(is_field) = map.next_key_seed(IsField(self.field))? {
            if !is_field {
                map.next_value::<IgnoredAny>()?;
            } else if found {
                let message = format!("the field `{}` stands twice", self.field);
                return Err(stop(fault, DeadLetter::new(Reason::Undecodable, message)));
            } else {
                map.next_value_seed(Features { row: &mut *row, fault: &mut *fault })?;
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        let message = format!("the record has no field `{}` with the features", self.field);
        Err(stop(fault, DeadLetter::new(Reason::WrongShape, message)))
    }
}

/// Whether a key of the object around the features is theirs.
struct IsField<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsField<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsField<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}
