//! A bad record is a dead letter with its reason, and the records beside it are scored.

use std::time::{Duration, Instant};

use modelstream::model::linear::Link;
use modelstream::model::signature::{CategoryRule, Encoding, Feature, FeatureKind, Target};
use modelstream::model::{Digest, Linear, Model, Predictor, Signature};
use modelstream::pipeline::decode::RECORD_BYTES_MAX;
use modelstream::pipeline::record::DEAD_LETTER_MESSAGE_BYTES_MAX;
use modelstream::pipeline::{AvroFraming, InputFormat, Outcome, OutputFormat, Reason, Scorer, ServedModel};

const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "Flower", "fields": [
    {"name": "length", "type": ["null", "double", "string"]}, {"name": "colour", "type": ["null", "string"]}]}"#;

fn features() -> Vec<Feature> {
    let colour = FeatureKind::Categorical {
        categories: vec!["blue".into(), "red".into()],
        encoding: Encoding::Ordinal,
        missing: CategoryRule::NoCategory,
        unknown: CategoryRule::Refuse,
    };
    vec![
        Feature { name: "length".into(), kind: FeatureKind::Numeric { fill: None } },
        Feature { name: "colour".into(), kind: colour },
    ]
}

/// A regression: the length plus ten times the colour's code.
fn served(input: &InputFormat) -> ServedModel {
    let target = Target { name: "price".into(), classes: Vec::new() };
    let linear = Linear { link: Link::Identity, coefficients: vec![1.0, 10.0], intercepts: vec![0.0] };
    let model = Model::new(Signature { features: features(), target }, Predictor::Linear(linear)).expect("sound");
    let output = OutputFormat::Json { probabilities: true };
    ServedModel::new("flowers", 1, model, Digest::of(b""), input, &output).expect("a model that fits")
}

fn json() -> ServedModel {
    served(&InputFormat::Json { field: None })
}

fn avro(framing: AvroFraming) -> ServedModel {
    served(&InputFormat::avro(AVRO_SCHEMA, framing).expect("a schema of records"))
}

/// A datum of the schema: a union's branch doubled (zigzag), then the value.
fn datum(length: Option<f64>, colour: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match length {
        Some(length) => bytes.extend([&[2], length.to_le_bytes().as_slice()].concat()),
        None => bytes.push(0),
    }
    match colour {
        Some(colour) => bytes.extend([&[2, 2 * colour.len() as u8], colour.as_bytes()].concat()),
        None => bytes.push(0),
    }
    bytes
}

/// Scores the record between two good ones, which must come out whatever stands between them.
fn reason_between(served: &ServedModel, good: &[u8], record: Option<&[u8]>) -> Option<Reason> {
    let mut scorer = Scorer::new();
    let outcomes: Vec<Outcome<'_>> = scorer.score(served, [Some(good), record, Some(good)]).collect();
    assert_eq!(outcomes.len(), 3);
    for neighbour in [outcomes[0], outcomes[2]] {
        let Outcome::Prediction { bytes, .. } = neighbour else { panic!("a good record: {neighbour:?}") };
        assert!(bytes.starts_with(br#"{"prediction":11.5,"model":"flowers","version":1,"#));
    }
    match outcomes[1] {
        Outcome::Prediction { .. } => None,
        Outcome::DeadLetter(dead) => {
            assert!(!dead.message().is_empty() && dead.message().len() <= DEAD_LETTER_MESSAGE_BYTES_MAX);
            Some(dead.reason())
        }
    }
}

fn json_reason(record: impl AsRef<[u8]>) -> Option<Reason> {
    reason_between(&json(), br#"{"length":1.5,"colour":"red"}"#, Some(record.as_ref()))
}

fn avro_reason(record: &[u8]) -> Option<Reason> {
    reason_between(&avro(AvroFraming::None), &datum(Some(1.5), Some("red")), Some(record))
}

/// The same bytes on every run, of every value.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn good_json_is_scored() {
    for record in [
        r#"{"colour":"blue","length":2}"#,
        r#"{"length":2e0,"id":{"nested":[1,{"length":"x"}]}}"#,
        "[2,null]",
        "\t[ 2.0 , \"r\\u0065d\" ]\n",
    ] {
        assert_eq!(json_reason(record), None, "{record}");
    }
}

#[test]
fn bad_json_has_its_reason() {
    let deep = "[".repeat(200_000);
    let table: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("empty", "".into(), Reason::Undecodable),
        ("blanks", " \n".into(), Reason::Undecodable),
        ("truncated", r#"{"length":1.5,"colour":"re"#.into(), Reason::Undecodable),
        ("truncated at the end", r#"{"length":1.5,"colour":"red""#.into(), Reason::Undecodable),
        ("trailing garbage", r#"{"length":1.5} x"#.into(), Reason::Undecodable),
        ("two documents", "[1,null][1,null]".into(), Reason::Undecodable),
        ("random bytes", noise(512), Reason::Undecodable),
        ("invalid UTF-8", b"{\"length\":1.5,\"colour\":\"\xff\"}".into(), Reason::Undecodable),
        ("invalid UTF-8 in a field of no interest", b"{\"length\":1.5,\"x\":\"\xff\"}".into(), Reason::Undecodable),
        ("half a surrogate", r#"{"length":1.5,"colour":"\ud800"}"#.into(), Reason::Undecodable),
        ("NaN", r#"{"length":NaN}"#.into(), Reason::Undecodable),
        ("Infinity", r#"{"length":-Infinity}"#.into(), Reason::Undecodable),
        ("a feature twice", r#"{"length":1.5,"length":1.5}"#.into(), Reason::Undecodable),
        ("a feature twice, escaped", r#"{"length":1.5,"lengt\u0068":1.5}"#.into(), Reason::Undecodable),
        ("deep and open, of no interest", format!(r#"{{"x":{deep}"#).into(), Reason::Undecodable),
        ("a comment", "/* */ [1,null]".into(), Reason::Undecodable),
        ("a number", "1".into(), Reason::WrongShape),
        ("a string", r#""length""#.into(), Reason::WrongShape),
        ("null", "null".into(), Reason::WrongShape),
        ("too few values", "[1.5]".into(), Reason::WrongShape),
        ("too many values", r#"[1.5,"red",0]"#.into(), Reason::WrongShape),
        ("no feature", "{}".into(), Reason::MissingFeature),
        ("a missing feature", r#"{"colour":"red"}"#.into(), Reason::MissingFeature),
        ("a null feature", r#"{"length":null,"colour":"red"}"#.into(), Reason::MissingFeature),
        ("another case", r#"{"Length":1.5}"#.into(), Reason::MissingFeature),
        ("a string for a number", r#"{"length":"1.5"}"#.into(), Reason::WrongType),
        ("a truth for a number", r#"{"length":true}"#.into(), Reason::WrongType),
        ("an object for a number", r#"{"length":{"value":1.5}}"#.into(), Reason::WrongType),
        ("an array for a word", r#"{"length":1.5,"colour":["red"]}"#.into(), Reason::WrongType),
        ("deep", format!(r#"{{"length":{deep}"#).into(), Reason::WrongType),
        ("deep array", deep.clone().into(), Reason::WrongType),
        ("beyond f64", r#"{"length":1e999}"#.into(), Reason::NonFinite),
        ("beyond f32", r#"{"length":1e39}"#.into(), Reason::NonFinite),
        ("a long integer", format!("[{},null]", "9".repeat(60)).into(), Reason::NonFinite),
        ("an unknown word", r#"{"length":1.5,"colour":"green"}"#.into(), Reason::UnknownCategory),
        ("a number that is no word", r#"{"length":1.5,"colour":1}"#.into(), Reason::UnknownCategory),
    ];
    for (what, record, reason) in table {
        assert_eq!(json_reason(record), Some(reason), "{what}");
    }
}

#[test]
fn bad_avro_has_its_reason() {
    let good = datum(Some(1.5), Some("red"));
    let table: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("empty", Vec::new(), Reason::Undecodable),
        ("truncated", good[..good.len() - 1].into(), Reason::Undecodable),
        ("trailing bytes", [&good[..], b"x"].concat(), Reason::Undecodable),
        ("random bytes", noise(512), Reason::Undecodable),
        ("JSON", br#"{"length":1.5,"colour":"red"}"#.into(), Reason::Undecodable),
        ("no such branch", vec![8, 0], Reason::Undecodable),
        (
            "a string of 2^62 bytes",
            [&datum(Some(1.5), None)[..9], &[2], &[0xff; 9], &[1]].concat(),
            Reason::Undecodable,
        ),
        ("invalid UTF-8", [&datum(Some(1.5), None)[..9], &[2, 2, 0xff]].concat(), Reason::Undecodable),
        ("a null feature", datum(None, Some("red")), Reason::MissingFeature),
        ("a string for a number", vec![4, 2, b'1', 0], Reason::WrongType),
        ("NaN", datum(Some(f64::NAN), None), Reason::NonFinite),
        ("infinite", datum(Some(f64::INFINITY), None), Reason::NonFinite),
        ("beyond f32", datum(Some(-1e300), None), Reason::NonFinite),
        ("an unknown word", datum(Some(1.5), Some("green")), Reason::UnknownCategory),
    ];
    for (what, record, reason) in table {
        assert_eq!(avro_reason(&record), Some(reason), "{what}");
    }
}

#[test]
fn a_record_without_a_value_is_a_dead_letter() {
    let json_good = br#"{"length":1.5,"colour":"red"}"#;
    assert_eq!(reason_between(&json(), json_good, None), Some(Reason::NullValue));
    let avro_good = datum(Some(1.5), Some("red"));
    assert_eq!(reason_between(&avro(AvroFraming::None), &avro_good, None), Some(Reason::NullValue));
}

#[test]
fn a_foreign_frame_is_told_from_a_broken_datum() {
    let framed = |frame: &[u8]| [frame, &datum(Some(1.5), Some("red"))].concat();
    let reason = |record: &[u8]| reason_between(&avro(AvroFraming::Confluent), &framed(&[0, 0, 0, 0, 7]), Some(record));
    assert_eq!(reason(&framed(&[0, 9, 9, 9, 9])), None);
    assert_eq!(reason(&framed(&[])), Some(Reason::UnknownSchema));
    assert_eq!(reason(&[0, 0, 0]), Some(Reason::UnknownSchema));
    assert_eq!(reason(&framed(&[0, 0, 0, 0, 7, 1])), Some(Reason::Undecodable));
}

/// Fault 45. The schema is pinned: what was written with another one is a dead letter, or means the same. Only fields of the same
/// type that traded places cannot be told without the schema's id.
#[test]
fn what_another_schema_wrote_is_a_dead_letter_or_means_the_same() {
    let text = |text: &str| [&[2 * text.len() as u8], text.as_bytes()].concat();
    let good = datum(Some(1.5), Some("red"));
    let (length, colour) = good.split_at(9);
    let table: Vec<(&str, Vec<u8>, Option<Reason>)> = vec![
        ("fields renamed", good.clone(), None),
        ("a field added behind", [&good[..], &text("x")].concat(), Some(Reason::Undecodable)),
        ("a field added in front", [&text("new")[..], &good].concat(), Some(Reason::Undecodable)),
        ("the last field removed", length.to_vec(), Some(Reason::Undecodable)),
        ("the first field removed", colour.to_vec(), Some(Reason::Undecodable)),
        ("fields of two types traded", [colour, length].concat(), Some(Reason::Undecodable)),
        ("optional no more", [&length[1..], &text("red")].concat(), Some(Reason::MissingFeature)),
        ("double to float", [&[2][..], &1.5_f32.to_le_bytes(), colour].concat(), Some(Reason::NonFinite)),
        ("double to int", [&[2, 2][..], colour].concat(), Some(Reason::Undecodable)),
        ("null moved behind in the union", [&[0][..], &length[1..], colour].concat(), Some(Reason::MissingFeature)),
        ("another branch of the union", [&[4][..], &text("1.5"), colour].concat(), Some(Reason::WrongType)),
    ];
    for (what, record, reason) in table {
        assert_eq!(avro_reason(&record), reason, "{what}");
    }
}

#[test]
fn ten_megabytes_end_quickly_as_a_dead_letter() {
    let started = Instant::now();
    let served = json();
    let good = br#"{"length":1.5,"colour":"red"}"#.as_slice();
    for junk in [noise(10_000_000), vec![b'['; 10_000_000], vec![b' '; RECORD_BYTES_MAX + 1]] {
        assert_eq!(reason_between(&served, good, Some(&junk)), Some(Reason::Oversize));
    }
    let mut largest = good.to_vec();
    largest.resize(RECORD_BYTES_MAX, b' ');
    assert_eq!(reason_between(&served, good, Some(&largest)), None);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
