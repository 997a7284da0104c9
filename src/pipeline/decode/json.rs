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
    let mut reader = serde_json::Deserializer::from_str(text(payload)?);
    let mut fault = None;
    let features = Features { row, fault: &mut fault };
    let read = match field {
        None => features.deserialize(&mut reader),
        Some(field) => Envelope { field, features }.deserialize(&mut reader),
    };
    read.and_then(|()| reader.end()).map_err(|error| fault.unwrap_or_else(|| classified(&error)))
}

/// Checked before anything is read, because the strings of skipped fields are not checked later.
fn text(payload: &[u8]) -> Result<&str, DeadLetter> {
    std::str::from_utf8(payload).map_err(|error| {
        let message = format!("not UTF-8: the byte at {} belongs to no character", error.valid_up_to());
        DeadLetter::new(Reason::Undecodable, message)
    })
}

/// Hands the word in the object's field `field` to `take`; `None` where the record is no object, or has no word there.
pub(super) fn read_word<T>(payload: &[u8], field: &str, take: impl FnOnce(&str) -> T) -> Result<Option<T>, DeadLetter> {
    let mut reader = serde_json::Deserializer::from_str(text(payload)?);
    let mut fault = None;
    let read = WordIn { field, fault: &mut fault, take }.deserialize(&mut reader);
    match read.and_then(|word| reader.end().map(|()| word)) {
        Ok(word) => Ok(word),
        Err(error) => match (fault, error.classify()) {
            (Some(dead), _) => Err(dead),
            (None, Category::Data) => Ok(None),
            (None, _) => Err(classified(&error)),
        },
    }
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
                return Err(stop(fault, twice(self.field)));
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

fn twice(field: &str) -> DeadLetter {
    DeadLetter::new(Reason::Undecodable, format!("the field `{field}` stands twice"))
}

/// The object with a word in a field.
struct WordIn<'a, F> {
    field: &'a str,
    fault: &'a mut Option<DeadLetter>,
    take: F,
}

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for WordIn<'_, F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for WordIn<'_, F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a word in the field {}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
        let (mut take, mut word) = (Some(self.take), None);
        while let Some(is_field) = map.next_key_seed(IsField(self.field))? {
            if !is_field {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match take.take() {
                Some(take) => word = Some(map.next_value_seed(Word(take))?),
                None => return Err(stop(self.fault, twice(self.field))),
            }
        }
        Ok(word)
    }
}

/// A word, which is handed on.
struct Word<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Word<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Word<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<T, E> {
        Ok((self.0)(word))
    }
}

/// Whether a key of an object is this field.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::decode::InputFormat;
    use crate::pipeline::testing::{JSON_IN, JSON_OUT, category, decimal, number, served, value};
    use crate::pipeline::{Scorer, ServedModel};

    fn abc() -> ServedModel {
        served(decimal(vec![number("a", None), number("b", Some(9.0)), number("c", None)]), &JSON_IN, JSON_OUT)
    }

    fn one(name: &str) -> ServedModel {
        served(decimal(vec![number(name, None)]), &JSON_IN, JSON_OUT)
    }

    #[test]
    fn an_object_in_any_order_and_an_array_by_position_agree() {
        let served = abc();
        assert_eq!(value(&served, br#"{"a":1,"b":2,"c":3}"#), Ok(321.0));
        assert_eq!(value(&served, br#" {"c":3.0 ,"x":{"a":[7]}, "a":1e0,"b":2} "#), Ok(321.0));
        assert_eq!(value(&served, b"[1,2,3]"), Ok(321.0));
        assert_eq!(value(&served, br#"{"a":1,"c":3}"#), Ok(391.0));
        assert_eq!(value(&served, b"[1,null,3]"), Ok(391.0));
    }

    #[test]
    fn names_and_words_may_be_written_with_escapes() {
        let features = vec![number("ä \"\n", None), category("colour", &["blue", "réd"])];
        let served = served(decimal(features), &JSON_IN, JSON_OUT);
        assert_eq!(value(&served, br#"{"\u00e4 \"\n":1,"c\u006flour":"r\u00e9d"}"#), Ok(101.0));
    }

    #[test]
    fn features_may_be_nested_under_a_field() {
        let nested = InputFormat::Json { field: Some("features".into()) };
        let served = served(decimal(vec![number("a", None), number("features", None)]), &nested, JSON_OUT);
        assert_eq!(value(&served, br#"{"a":7,"features":{"a":1,"features":2},"id":{"a":1}}"#), Ok(21.0));
        assert_eq!(value(&served, br#"{"features":[1,2]}"#), Ok(21.0));
        assert_eq!(value(&served, br#"{"a":1,"b":2}"#), Err(Reason::WrongShape));
        assert_eq!(value(&served, br#"{"features":null}"#), Err(Reason::WrongShape));
        assert_eq!(value(&served, b"[[1,2]]"), Err(Reason::WrongShape));
        assert_eq!(value(&served, br#"{"features":[1,2],"features":[1,2]}"#), Err(Reason::Undecodable));
    }

    #[test]
    fn a_number_beyond_f64_is_told_apart_from_broken_json() {
        assert_eq!(value(&one("a"), br#"{"a":1e999}"#), Err(Reason::NonFinite));
        assert_eq!(value(&one("a"), br#"{"a":-1e999}"#), Err(Reason::NonFinite));
        assert_eq!(value(&one("a"), br#"{"a":1e-999}"#), Ok(0.0));
        assert_eq!(value(&one("a"), br#"{"a":1e300}"#), Err(Reason::NonFinite));
        assert_eq!(value(&one("a"), br#"{"a":Infinity}"#), Err(Reason::Undecodable));
    }

    #[test]
    fn depth_is_bounded_also_where_a_value_is_skipped() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(value(&one("a"), deep.as_bytes()), Err(Reason::WrongType));
        assert_eq!(value(&one("a"), format!(r#"{{"x":{deep}"#).as_bytes()), Err(Reason::Undecodable));
        let closed = format!(r#"{{"x":{deep}{},"a":5}}"#, "]".repeat(1_000_000));
        assert_eq!(value(&one("a"), closed.as_bytes()), Ok(5.0));
    }

    #[test]
    fn a_message_does_not_carry_the_record() {
        let secret = "secret ".repeat(1_000);
        for record in [format!(r#"{{"a":"{secret}"}}"#), format!(r#""{secret}""#), format!(r#"{{"{secret}":tru"#)] {
            let mut scorer = Scorer::new();
            let served = one("a");
            let outcome = scorer.score(&served, [Some(record.as_bytes())]).next();
            let Some(crate::pipeline::Outcome::DeadLetter(dead)) = outcome else { panic!("a dead letter") };
            assert!(dead.message().matches("secret").count() < 12, "{}", dead.message());
        }
    }

    proptest! {
        #[test]
        fn any_text_has_one_outcome(text in r#"[\[\]{}",:0-9a-c.eE+\- \\ntrufalse]{0,48}"#) {
            let _ = value(&abc(), text.as_bytes());
        }

        #[test]
        fn any_order_of_fields_gives_the_same_row(order in Just(vec!["a", "b", "c", "other"]).prop_shuffle()) {
            let number_of = |name| match name { "a" => 1, "b" => 2, _ => 3 };
            let fields: Vec<String> = order.iter().map(|name| format!("\"{name}\":{}", number_of(*name))).collect();
            prop_assert_eq!(value(&abc(), format!("{{{}}}", fields.join(",")).as_bytes()), Ok(321.0));
        }

        #[test]
        fn a_number_is_what_serde_json_says_rounded_to_f32(text in r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+\-]?[0-9]{1,2})?") {
            let said: serde_json::Value = serde_json::from_str(&text).expect("a number");
            let rounded = said.as_f64().expect("a number") as f32;
            let expected = if rounded.is_finite() { Ok(f64::from(rounded)) } else { Err(Reason::NonFinite) };
            prop_assert_eq!(value(&one("a"), format!("[{text}]").as_bytes()), expected);
            prop_assert_eq!(value(&one("a"), format!("{{\"a\":{text}}}").as_bytes()), expected);
        }

        #[test]
        fn any_name_is_found(name in "(?s).{1,40}", number_value in -1e6f32..1e6) {
            let record = serde_json::json!({ name.clone(): number_value }).to_string();
            prop_assert_eq!(value(&one(&name), record.as_bytes()), Ok(f64::from(number_value)));
        }
    }
}
