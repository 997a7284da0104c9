//! JSON records through the whole scorer, held against a reading of the same bytes as a tree of values.

use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

use modelstream::pipeline::{InputFormat, Route, ServedModel, WordField};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::records::{self, Field, Scored};

const GOOD: &[u8] = br#"{"x":1,"grade":"1"}"#;
const GOOD_INSIDE: &[u8] = br#"{"f":{"x":1,"grade":"1"}}"#;

struct Models {
    regression: ServedModel,
    inside: ServedModel,
    classification: ServedModel,
}

static MODELS: LazyLock<Models> = LazyLock::new(|| Models {
    regression: records::regression(&InputFormat::Json { field: None }),
    inside: records::regression(&InputFormat::Json { field: Some("f".into()) }),
    classification: records::classification(&InputFormat::Json { field: None }),
});

pub fn check(record: &[u8]) {
    let models = &*MODELS;
    let outcome = records::score(&models.regression, record, GOOD);
    check_by_tree(record, &outcome, |tree| Some(tree));
    let inside = records::score(&models.inside, record, GOOD_INSIDE);
    check_by_tree(record, &inside, |tree| tree.as_object()?.get("f"));
    let class = records::score(&models.classification, record, GOOD);
    // The one answer that is not finite apart, both models take the same records.
    if let Scored::Prediction(_) = outcome {
        assert!(matches!(class, Scored::Prediction(_)), "{class:?}");
    }
    check_route(record);
}

/// Where a field says which model a record is for, it is the one that a tree of values has there.
fn check_route(record: &[u8]) {
    let models = ["red", "blue"].map(str::to_owned);
    let field = WordField::new(&InputFormat::Json { field: None }, "colour").expect("a field of an object");
    let found = Route::Field(field).find(&models, Some(record), std::iter::empty());
    let Ok(tree) = serde_json::from_slice::<Value>(record) else {
        assert!(found.is_err() || serde_json::from_slice::<IgnoredAny>(record).is_ok(), "{found:?}");
        return;
    };
    if serde_json::from_slice::<NoRepeat>(record).is_ok() {
        let named = tree.get("colour").and_then(Value::as_str);
        assert_eq!(found.ok(), models.iter().position(|model| Some(model.as_str()) == named), "{tree}");
    }
}

fn check_by_tree(record: &[u8], outcome: &Scored, features: impl Fn(&Value) -> Option<&Value>) {
    let Ok(tree) = serde_json::from_slice::<Value>(record) else {
        // What is skipped is not looked into: its numbers may be too large for `f64`, its escapes halves of a pair, and it
        // may nest deeper. JSON it is all the same.
        let skipped = std::str::from_utf8(record).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        assert!(skipped || matches!(outcome, Scored::DeadLetter(..)), "{outcome:?}");
        return;
    };
    // A tree keeps the last of two fields of one name; a record that has a feature twice is a dead letter.
    if serde_json::from_slice::<NoRepeat>(record).is_err() {
        return;
    }
    records::compare(outcome, features(&tree).and_then(fields).and_then(records::expected), record);
}

fn fields(features: &Value) -> Option<[Field; 4]> {
    match features {
        Value::Array(values) => {
            let values: [Value; 4] = values.clone().try_into().ok()?;
            Some(values.map(|value| field(&value)))
        }
        Value::Object(object) => {
            Some(["x", "y", "grade", "colour"].map(|name| object.get(name).map_or(Field::Missing, field)))
        }
        _ => None,
    }
}

fn field(value: &Value) -> Field {
    match value {
        Value::Null => Field::Missing,
        Value::Bool(truth) => Field::Truth(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => Field::Integer(integer.into()),
            (_, Some(integer), _) => Field::Integer(integer.into()),
            (_, _, float) => Field::Float(float.unwrap_or(f64::NAN)),
        },
        Value::String(text) => Field::Word(text.clone()),
        Value::Array(_) | Value::Object(_) => Field::Composite,
    }
}

/// JSON whose objects have each name once; an error for any other.
struct NoRepeat;

impl<'de> Deserialize<'de> for NoRepeat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NoRepeat, D::Error> {
        deserializer.deserialize_any(NoRepeat)
    }
}

impl<'de> Visitor<'de> for NoRepeat {
    type Value = NoRepeat;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a repeated name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NoRepeat, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, NoRepeat)) = map.next_entry::<String, NoRepeat>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(NoRepeat)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NoRepeat, A::Error> {
        while seq.next_element::<NoRepeat>()?.is_some() {}
        Ok(NoRepeat)
    }

    fn visit_unit<E: Error>(self) -> Result<NoRepeat, E> {
        Ok(NoRepeat)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<NoRepeat, E> {
        Ok(NoRepeat)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<NoRepeat, E> {
        Ok(NoRepeat)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<NoRepeat, E> {
        Ok(NoRepeat)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<NoRepeat, E> {
        Ok(NoRepeat)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<NoRepeat, E> {
        Ok(NoRepeat)
    }
}
