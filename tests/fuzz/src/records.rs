//! What holds for every record, whatever its bytes are; and the models that the records are for.

use modelstream::model::linear::Link;
use modelstream::model::signature::{CategoryRule, Encoding, Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, Node};
use modelstream::model::{Digest, Linear, Model, Predictor, Signature, TreeEnsemble};
use modelstream::pipeline::record::DEAD_LETTER_MESSAGE_BYTES_MAX;
use modelstream::pipeline::{InputFormat, Outcome, OutputFormat, Reason, Scorer, ServedModel};

use super::allocations;

/// What scoring one record may hold beside the record: a row, an outcome, messages, and serde_json's copy of a string
/// with escapes, which grows by doubling.
const BYTES_A_RECORD: usize = 64 << 10;
const TIMES_THE_RECORD: usize = 4;

/// A record's outcome, taken out of the scorer.
#[derive(Debug, Clone, PartialEq)]
pub enum Scored {
    Prediction(Vec<u8>),
    DeadLetter(Reason, String),
}

/// The features of the models: every kind, with and without a rule for what is missing.
pub fn features() -> Vec<Feature> {
    let number = |name: &str, fill| Feature { name: name.into(), kind: FeatureKind::Numeric { fill } };
    let words = |name: &str, words: &[&str], encoding, rule| {
        let categories = words.iter().map(|word| word.to_string()).collect();
        Feature {
            name: name.into(),
            kind: FeatureKind::Categorical { categories, encoding, missing: rule, unknown: rule },
        }
    };
    vec![
        number("x", None),
        number("y", Some(7.0)),
        words("grade", &["1", "2.0", "true", "ä"], Encoding::OneHot, CategoryRule::Refuse),
        words("colour", &["red", "blue"], Encoding::Ordinal, CategoryRule::NoCategory),
    ]
}

/// The weight of each column in [`regression`].
pub const WEIGHTS: [f64; 7] = [1.0, 10.0, 100.0, 200.0, 300.0, 400.0, 1000.0];

/// A weighted sum of all columns, so that a prediction tells which row was read.
pub fn regression(input: &InputFormat) -> ServedModel {
    let signature = Signature { features: features(), target: Target { name: "z".into(), classes: Vec::new() } };
    let linear = Linear { link: Link::Identity, coefficients: WEIGHTS.to_vec(), intercepts: vec![0.0] };
    served(signature, Predictor::Linear(linear), input)
}

/// A forest that votes, with class names that JSON has to escape.
pub fn classification(input: &InputFormat) -> ServedModel {
    let classes = vec!["no".into(), "y\"es\n".into()];
    let signature = Signature { features: features(), target: Target { name: "z".into(), classes } };
    let mut trees = TreeEnsemble::new(Aggregation::Vote);
    for (column, threshold) in [(0, 0.5), (1, 7.0), (6, -0.5)] {
        let split = Node::Split { column, threshold, left: 1, right: 2 };
        trees.push_tree(&[split, Node::Class(0), Node::Class(1)]);
    }
    served(signature, Predictor::TreeEnsemble(trees), input)
}

fn served(signature: Signature, predictor: Predictor, input: &InputFormat) -> ServedModel {
    let model = Model::new(signature, predictor).expect("a sound model");
    let output = OutputFormat::Json { probabilities: true };
    ServedModel::new("iris", 3, model, Digest::of(b""), input, &output).expect("a model that fits its input")
}

/// Scores a record alone and in company, and checks what holds for each: one outcome, the same one wherever it stands,
/// none of it too long, nothing taken from or given to its neighbours. `good` is a record that is predicted.
pub fn score(served: &ServedModel, record: &[u8], good: &[u8]) -> Scored {
    let cap = BYTES_A_RECORD + TIMES_THE_RECORD * record.len();
    let alone = allocations::within(cap, || scored(served, &[Some(record)]));
    let [alone] = &alone[..] else { panic!("one record has {} outcomes", alone.len()) };
    let company = scored(served, &[Some(good), Some(record), None, Some(record), Some(good)]);
    assert_eq!(company.len(), 5);
    assert_eq!((&company[1], &company[3]), (alone, alone), "a record's neighbours change its outcome");
    assert!(matches!(&company[2], Scored::DeadLetter(Reason::NullValue, _)));
    assert!(matches!(&company[0], Scored::Prediction(_)), "{:?}", company[0]);
    assert_eq!(company[0], company[4], "a record changes the outcome of its neighbours");
    alone.clone()
}

/// Scores a batch, with the checks of each outcome by itself.
pub fn scored(served: &ServedModel, payloads: &[Option<&[u8]>]) -> Vec<Scored> {
    let mut scorer = Scorer::new();
    let outcomes = scorer.score(served, payloads.iter().copied());
    assert_eq!(outcomes.len(), payloads.len(), "each record has exactly one outcome");
    outcomes.map(|outcome| checked(served, outcome)).collect()
}

/// An outcome, after what holds for every one was checked.
pub fn checked(served: &ServedModel, outcome: Outcome<'_>) -> Scored {
    match outcome {
        Outcome::Prediction { bytes, class } => {
            assert!(bytes.len() <= served.prediction_bytes_max(), "{} bytes", bytes.len());
            check_prediction(served, bytes, class);
            Scored::Prediction(bytes.to_vec())
        }
        Outcome::DeadLetter(dead) => {
            let message = dead.message();
            assert!(!message.is_empty() && message.len() <= DEAD_LETTER_MESSAGE_BYTES_MAX, "{message}");
            Scored::DeadLetter(dead.reason(), message.to_owned())
        }
    }
}

fn check_prediction(served: &ServedModel, bytes: &[u8], class: Option<usize>) {
    let document: serde_json::Value = serde_json::from_slice(bytes).expect("a prediction is one JSON document");
    assert_eq!((&document["model"], &document["version"]), (&served.name.clone().into(), &served.version.into()));
    let classes = &served.model.signature().target.classes;
    let Some(class) = class else {
        assert!(classes.is_empty() && document["prediction"].as_f64().is_some_and(f64::is_finite), "{document}");
        return;
    };
    assert_eq!(document["prediction"], classes[class]);
    let shares = document["probabilities"].as_object().expect("an object");
    let share = |class: &String| shares[class].as_f64().expect("a number");
    assert_eq!(shares.len(), classes.len());
    assert!(classes.iter().all(|class| (0.0..=1.0).contains(&share(class))), "{document}");
    assert!((classes.iter().map(share).sum::<f64>() - 1.0).abs() < 1e-9, "{document}");
    assert!(classes.iter().all(|other| share(other) <= share(&classes[class])), "{document}");
}

/// A field's value as a format's own reader says it.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    Missing,
    Integer(i128),
    Float(f64),
    Truth(bool),
    Word(String),
    Composite,
}

/// What a record with these fields is worth to [`regression`], by the rules as the documentation has them and written
/// without the pipeline; `None` when it is a dead letter.
pub fn expected(fields: [Field; 4]) -> Option<f64> {
    let [x, y, grade, colour] = fields;
    let number = |field: Field, fill: Option<f32>| match field {
        Field::Missing => fill,
        Field::Float(value) if value.is_nan() => fill,
        Field::Integer(value) => Some(value as f64 as f32).filter(|value| value.is_finite()),
        Field::Float(value) => Some(value as f32).filter(|value| value.is_finite()),
        Field::Truth(_) | Field::Word(_) | Field::Composite => None,
    };
    let (x, y) = (number(x, None)?, number(y, Some(7.0))?);
    let grade = code(&["1", "2.0", "true", "ä"], grade)??;
    let colour = code(&["red", "blue"], colour)?;
    let value =
        f64::from(x) + 10.0 * f64::from(y) + WEIGHTS[2 + grade] + 1000.0 * colour.map_or(-1.0, |code| code as f64);
    value.is_finite().then_some(value)
}

/// A field's place among its words, `Some(None)` where it has none, `None` where it never can have one.
fn code(words: &[&str], field: Field) -> Option<Option<usize>> {
    let place = |word: &str| words.iter().position(|known| *known == word);
    Some(match field {
        Field::Missing => None,
        Field::Float(value) if value.is_nan() => None,
        Field::Word(word) => place(&word),
        Field::Truth(truth) => place(&truth.to_string()),
        Field::Integer(value) => place(&value.to_string()),
        Field::Float(value) => {
            let text = format!("{value:?}");
            place(&text).or_else(|| place(text.strip_suffix(".0").unwrap_or(&text)))
        }
        Field::Composite => return None,
    })
}

/// Holds an outcome of [`regression`] against what was [`expected`].
pub fn compare(outcome: &Scored, expected: Option<f64>, record: &[u8]) {
    let record = record.escape_ascii();
    match (outcome, expected) {
        (Scored::Prediction(bytes), Some(expected)) => {
            let document: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
            let actual = document["prediction"].as_f64().expect("a number");
            assert!((actual - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{actual}, not {expected}: {record}");
        }
        (Scored::DeadLetter(..), None) => {}
        _ => panic!("{outcome:?}, expected {expected:?}: {record}"),
    }
}
