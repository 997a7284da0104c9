//! From what a model said about a row to the bytes of a prediction.

use crate::model::{Digest, Refusal, Signature};

/// The Avro schema of predictions: a plain datum of it, without a frame.
pub const PREDICTION_SCHEMA: &str = include_str!("../../schemas/prediction.avsc");
/// The largest prediction that a version may make: with its key and headers it stays below Kafka's default limit of a
/// million bytes. Checked when a version is loaded, so no record meets it.
pub const PREDICTION_BYTES_MAX: usize = 900_000;
/// The longest text of an `f64` in JSON, `-2.2250738585072014e-308`, is 24 bytes; in Avro it has 8.
const NUMBER_BYTES_MAX: usize = 24;

/// How predictions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// `{"prediction":"setosa","probabilities":{"setosa":0.98,…},"model":"iris","version":3,"digest":"…"}`
    Json {
        /// Whether the classes' probabilities are part of it.
        probabilities: bool,
    },
    /// A datum of [`PREDICTION_SCHEMA`].
    Avro {
        /// Whether the classes' probabilities are part of it.
        probabilities: bool,
    },
}

/// Everything of a version's predictions but the numbers, as bytes that are ready to be copied.
///
/// A prediction is: the head of its class, then before each probability its class's key, then the tail. A regression is
/// the one head, the value, the tail. JSON and Avro differ in these bytes and in how a number is written, in nothing else.
#[derive(Debug)]
pub(super) struct Encoder {
    heads: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
    tail: Vec<u8>,
    number: fn(f64, &mut Vec<u8>),
}

impl Encoder {
    /// # Errors
    /// [`Refusal::TooLarge`] when a prediction could exceed [`PREDICTION_BYTES_MAX`].
    pub(super) fn new(
        format: OutputFormat,
        signature: &Signature,
        name: &str,
        version: u64,
        digest: &Digest,
    ) -> Result<Encoder, Refusal> {
        let classes = &signature.target.classes;
        let encoder = match format {
            OutputFormat::Json { probabilities } => json(classes, probabilities, name, version, digest),
            OutputFormat::Avro { probabilities } => avro(classes, probabilities, name, version, digest),
        };
        let actual = encoder.bytes_max();
        if actual > PREDICTION_BYTES_MAX {
            let what = "the longest prediction's number of bytes";
            return Err(Refusal::TooLarge { what, actual: actual as u64, limit: PREDICTION_BYTES_MAX as u64 });
        }
        Ok(encoder)
    }

    /// The most bytes that one prediction takes.
    pub(super) fn bytes_max(&self) -> usize {
        let head = self.heads.iter().map(Vec::len).max().unwrap_or(0);
        let keys: usize = self.keys.iter().map(|key| key.len() + NUMBER_BYTES_MAX).sum();
        head + NUMBER_BYTES_MAX + keys + self.tail.len()
    }

    /// Appends the prediction of one row, whose `outputs` are finite.
    pub(super) fn encode(&self, class: Option<usize>, outputs: &[f64], bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.heads[class.unwrap_or(0)]);
        if class.is_none() {
            (self.number)(outputs[0], bytes);
        }
        for (key, probability) in self.keys.iter().zip(outputs) {
            bytes.extend_from_slice(key);
            (self.number)(*probability, bytes);
        }
        bytes.extend_from_slice(&self.tail);
    }
}

fn json(classes: &[String], probabilities: bool, name: &str, version: u64, digest: &Digest) -> Encoder {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut heads: Vec<String> = classes.iter().map(|class| format!(r#"{{"prediction":{}"#, quoted(class))).collect();
    if heads.is_empty() {
        heads.push(r#"{"prediction":"#.into());
    }
    let mut keys: Vec<String> = Vec::new();
    let mut tail = format!(r#","model":{},"version":{version},"digest":"{digest}"}}"#, quoted(name));
    if probabilities && !classes.is_empty() {
        let opening = |index| if index == 0 { r#","probabilities":{"# } else { "," };
        keys.extend(classes.iter().enumerate().map(|(index, class)| format!("{}{}:", opening(index), quoted(class))));
        tail.insert(0, '}');
    }
    let bytes = |texts: Vec<String>| texts.into_iter().map(String::into_bytes).collect();
    Encoder { heads: bytes(heads), keys: bytes(keys), tail: tail.into_bytes(), number: json_number }
}

fn json_number(number: f64, bytes: &mut Vec<u8>) {
    serde_json::to_writer(bytes, &number).expect("a number written to memory does not fail");
}

/// Avro's binary form: a union is its branch's index and the value, a map is blocks of a count and pairs that a count of 0
/// ends, an integer is zigzag with seven bits a byte, a string its length and its bytes, a double eight bytes little-endian.
fn avro(classes: &[String], probabilities: bool, name: &str, version: u64, digest: &Digest) -> Encoder {
    const STRING_BRANCH: i64 = 0;
    const DOUBLE_BRANCH: i64 = 1;
    const NULL_BRANCH: i64 = 0;
    const MAP_BRANCH: i64 = 1;
    let mut heads = Vec::new();
    for class in classes {
        let mut head = Vec::new();
        avro_long(STRING_BRANCH, &mut head);
        avro_string(class, &mut head);
        heads.push(head);
    }
    if heads.is_empty() {
        heads.push(Vec::new());
        avro_long(DOUBLE_BRANCH, &mut heads[0]);
    }
    let mut keys = Vec::new();
    let mut tail = Vec::new();
    if probabilities && !classes.is_empty() {
        for (index, class) in classes.iter().enumerate() {
            let mut key = Vec::new();
            if index == 0 {
                avro_long(MAP_BRANCH, &mut key);
                avro_long(classes.len() as i64, &mut key);
            }
            avro_string(class, &mut key);
            keys.push(key);
        }
        avro_long(0, &mut tail);
    } else {
        avro_long(NULL_BRANCH, &mut tail);
    }
    avro_string(name, &mut tail);
    avro_long(version as i64, &mut tail);
    avro_string(&digest.to_string(), &mut tail);
    Encoder { heads, keys, tail, number: |number, bytes| bytes.extend_from_slice(&number.to_le_bytes()) }
}

fn avro_long(number: i64, bytes: &mut Vec<u8>) {
    let mut zigzag = ((number << 1) ^ (number >> 63)) as u64;
    while zigzag >= 0x80 {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
}

fn avro_string(text: &str, bytes: &mut Vec<u8>) {
    avro_long(text.len() as i64, bytes);
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::types::Value;

    use super::*;
    use crate::pipeline::testing::{JSON_IN, decimal, number, served, votes};
    use crate::pipeline::{Outcome, Scorer, ServedModel};

    const EMPTY_DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn scored(served: &ServedModel, payload: &str) -> Vec<u8> {
        let mut scorer = Scorer::new();
        let outcome = scorer.score(served, [Some(payload.as_bytes())]).next();
        let Some(Outcome::Prediction { bytes, .. }) = outcome else { panic!("a prediction") };
        assert!(bytes.len() <= served.prediction_bytes_max());
        bytes.to_vec()
    }

    fn scored_text(served: &ServedModel, payload: &str) -> String {
        String::from_utf8(scored(served, payload)).expect("text")
    }

    fn scored_avro(served: &ServedModel, payload: &str) -> Vec<(String, Value)> {
        let schema = Schema::parse_str(PREDICTION_SCHEMA).expect("the schema of predictions");
        let reader = GenericDatumReader::builder(&schema).build().expect("a schema that resolves");
        let bytes = scored(served, payload);
        let mut rest = bytes.as_slice();
        let Value::Record(fields) = reader.read_value(&mut rest).expect("a datum") else { panic!("a record") };
        assert!(rest.is_empty());
        fields
    }

    fn branch(index: u32, value: Value) -> Value {
        Value::Union(index, Box::new(value))
    }

    #[test]
    fn a_class_as_json() {
        let served = served(votes(["1", "a \"b\""]), &JSON_IN, OutputFormat::Json { probabilities: true });
        let end = format!(r#""model":"iris","version":3,"digest":"{EMPTY_DIGEST}"}}"#);
        let first = format!(r#"{{"prediction":"1","probabilities":{{"1":1.0,"a \"b\"":0.0}},{end}"#);
        assert_eq!(scored_text(&served, "[0]"), first);
        let tie = format!(r#"{{"prediction":"1","probabilities":{{"1":0.5,"a \"b\"":0.5}},{end}"#);
        assert_eq!(scored_text(&served, "[0.5]"), tie);
        let second = format!(r#"{{"prediction":"a \"b\"","probabilities":{{"1":0.0,"a \"b\"":1.0}},{end}"#);
        assert_eq!(scored_text(&served, "[2]"), second);
    }

    #[test]
    fn without_probabilities_and_of_a_regression() {
        let plain = served(votes(["no", "yes"]), &JSON_IN, OutputFormat::Json { probabilities: false });
        assert!(scored_text(&plain, "[2]").starts_with(r#"{"prediction":"yes","model":"iris","version":3,"#));
        let model = decimal(vec![number("x", None)]);
        let value = served(model, &JSON_IN, OutputFormat::Json { probabilities: true });
        assert!(scored_text(&value, "[1.25]").starts_with(r#"{"prediction":1.25,"model":"iris","version":3,"#));
        let document: serde_json::Value = serde_json::from_str(&scored_text(&value, "[1e-40]")).expect("JSON");
        assert_eq!(document["prediction"].as_f64(), Some(f64::from(1e-40f32)));
    }

    #[test]
    fn avro_is_read_by_apache_avro() {
        let class = served(votes(["nö", "yes"]), &JSON_IN, OutputFormat::Avro { probabilities: true });
        let shares = [("nö".to_string(), Value::Double(0.5)), ("yes".to_string(), Value::Double(0.5))];
        let expected = [
            branch(0, Value::String("nö".into())),
            branch(1, Value::Map(shares.into())),
            Value::String("iris".into()),
            Value::Long(3),
            Value::String(EMPTY_DIGEST.into()),
        ];
        let fields: Vec<Value> = scored_avro(&class, "[0.5]").into_iter().map(|(_, value)| value).collect();
        assert_eq!(fields, expected);
        let plain = served(votes(["no", "yes"]), &JSON_IN, OutputFormat::Avro { probabilities: false });
        assert_eq!(scored_avro(&plain, "[0.5]")[1].1, branch(0, Value::Null));
        let value = served(decimal(vec![number("x", None)]), &JSON_IN, OutputFormat::Avro { probabilities: true });
        let fields = scored_avro(&value, "[-1.5]");
        assert_eq!((&fields[0].1, &fields[1].1), (&branch(1, Value::Double(-1.5)), &branch(0, Value::Null)));
    }

    #[test]
    fn a_model_whose_predictions_fit_no_record_is_refused() {
        let mut wide = votes(["a", "b"]).signature().clone();
        wide.target.classes[0] = "x".repeat(PREDICTION_BYTES_MAX / 2);
        for format in [OutputFormat::Json { probabilities: true }, OutputFormat::Avro { probabilities: true }] {
            let refused = Encoder::new(format, &wide, "m", 1, &Digest::of(b"")).expect_err("too long");
            assert_eq!(refused.reason(), "too_large");
        }
        let spare = OutputFormat::Json { probabilities: false };
        assert!(Encoder::new(spare, &wide, "m", 1, &Digest::of(b"")).is_ok());
    }
}
