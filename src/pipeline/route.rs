//! Which model a record is for, where a process serves several.

use super::decode::WordField;
use super::record::{DeadLetter, Excerpt, Reason};

/// Where a record says which model it is for.
#[derive(Debug, Clone)]
pub enum Route {
    /// In the header of this name.
    Header(String),
    /// In a field of its value.
    Field(WordField),
}

impl Route {
    /// Which of `models` the record is for, as a position there. Of several headers with one name the last counts, as with
    /// Kafka's clients.
    ///
    /// # Errors
    /// The dead letter of a record that names no model, or another one, or that cannot be read.
    pub fn find<'h>(
        &self,
        models: &[String],
        payload: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Result<usize, DeadLetter> {
        match self {
            Route::Header(name) => {
                let value = headers.filter(|(header, _)| header == name).last().and_then(|(_, value)| value);
                match value.map(std::str::from_utf8) {
                    Some(Ok(model)) => served(models, model),
                    Some(Err(_)) => Err(unknown(format!("the header {name} is not UTF-8"))),
                    None => Err(unknown(format!("the record has no header {name} with the name of its model"))),
                }
            }
            Route::Field(field) => field.read(payload, |model| served(models, model))?.unwrap_or_else(|| {
                Err(unknown(format!("the record has no field `{}` with the name of its model", field.name())))
            }),
        }
    }
}

fn served(models: &[String], name: &str) -> Result<usize, DeadLetter> {
    let found = models.iter().position(|model| model == name);
    found.ok_or_else(|| unknown(format!("the record is for the model {}, which is not served here", Excerpt(name))))
}

fn unknown(message: String) -> DeadLetter {
    DeadLetter::new(Reason::UnknownModel, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::decode::{AvroFraming, InputFormat, RECORD_BYTES_MAX};

    fn models() -> Vec<String> {
        ["iris", "wine"].map(str::to_owned).to_vec()
    }

    fn by_header(headers: &[(&str, Option<&[u8]>)]) -> Result<usize, Reason> {
        let found = Route::Header("to".to_owned()).find(&models(), None, headers.iter().copied());
        found.map_err(|dead| dead.reason())
    }

    fn by_field(format: &InputFormat, payload: Option<&[u8]>) -> Result<usize, Reason> {
        let field = WordField::new(format, "to").expect("a field with a word");
        Route::Field(field).find(&models(), payload, std::iter::empty()).map_err(|dead| dead.reason())
    }

    fn by_json(text: &str) -> Result<usize, Reason> {
        by_field(&InputFormat::Json { field: None }, Some(text.as_bytes()))
    }

    #[test]
    fn the_last_header_of_the_name_says_it() {
        let iris = ("to", Some(&b"iris"[..]));
        let wine = ("to", Some(&b"wine"[..]));
        assert_eq!(by_header(&[iris, ("other", Some(b"wine"))]), Ok(0));
        assert_eq!(by_header(&[iris, wine]), Ok(1));
        let unknown = |headers: &[(&str, Option<&[u8]>)]| assert_eq!(by_header(headers), Err(Reason::UnknownModel));
        unknown(&[]);
        unknown(&[("To", Some(b"iris"))]);
        unknown(&[iris, ("to", None)]);
        unknown(&[("to", Some(b"\xff"))]);
        unknown(&[("to", Some(b"iris "))]);
    }

    #[test]
    fn a_field_of_the_object_says_it_wherever_it_stands() {
        assert_eq!(by_json(r#"{"to":"wine","x":1}"#), Ok(1));
        assert_eq!(by_json(r#" {"x":{"to":"wine"},"t\u006f":"\u0069ris"} "#), Ok(0));
        for unknown in
            [r#"{"x":1}"#, r#"{"to":1}"#, r#"{"to":null}"#, r#"{"to":["iris"]}"#, r#"{"to":"oak"}"#, "[1]", "7"]
        {
            assert_eq!(by_json(unknown), Err(Reason::UnknownModel), "{unknown}");
        }
        for broken in [r#"{"to":"iris""#, r#"{"to":"iris"}}"#, r#"{"to":"iris","to":"iris"}"#, "", "iris"] {
            assert_eq!(by_json(broken), Err(Reason::Undecodable), "{broken}");
        }
        assert_eq!(by_field(&InputFormat::Json { field: None }, None), Err(Reason::NullValue));
        assert_eq!(by_json(&" ".repeat(RECORD_BYTES_MAX + 1)), Err(Reason::Oversize));
    }

    #[test]
    fn a_field_of_an_avro_record_says_it() {
        let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "array", "items": "int"}},
            {"name": "to", "type": ["null", "string", {"type": "enum", "name": "E", "symbols": ["wine"]}, "int"]},
            {"name": "y", "type": "double"}]}"#;
        let format = InputFormat::avro(schema, AvroFraming::None).expect("a schema of records");
        let datum = |to: &[u8]| by_field(&format, Some(&[&[2, 2, 0], to, &[0; 8]].concat()));
        assert_eq!(datum(b"\x02\x08iris"), Ok(0));
        assert_eq!(datum(b"\x04\x00"), Ok(1));
        assert_eq!(datum(b"\x00"), Err(Reason::UnknownModel));
        assert_eq!(datum(b"\x06\x02"), Err(Reason::UnknownModel));
        assert_eq!(datum(b"\x02\x06oak"), Err(Reason::UnknownModel));
        assert_eq!(by_field(&format, Some(&[2])), Err(Reason::Undecodable));
        let refused = |name| WordField::new(&format, name).expect_err("never a word");
        assert!(refused("y").contains("never is a word"), "{}", refused("y"));
        assert!(refused("z").contains("it has: x, to, y"), "{}", refused("z"));
    }

    #[test]
    fn a_message_shows_little_of_a_name() {
        let name = "\u{1b}[31m".repeat(1_000);
        let headers = [("to", Some(name.as_bytes()))];
        let dead = Route::Header("to".to_owned()).find(&models(), None, headers.into_iter()).expect_err("not served");
        assert!(dead.message().len() < 600 && !dead.message().contains('\u{1b}'), "{}", dead.message());
    }

    proptest! {
        #[test]
        fn any_bytes_are_for_one_model_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = by_field(&InputFormat::Json { field: None }, Some(&bytes));
            let _ = by_header(&[("to", Some(&bytes))]);
        }
    }
}
