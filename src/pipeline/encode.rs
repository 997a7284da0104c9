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
