//! What the tests of this room build models from.

use super::{InputFormat, Outcome, OutputFormat, Reason, Scorer, ServedModel};
use crate::model::linear::Link;
use crate::model::signature::{CategoryRule, Encoding, Feature, FeatureKind, Target};
use crate::model::tree_ensemble::{Aggregation, Node};
use crate::model::{Digest, Linear, Model, Predictor, Signature, TreeEnsemble};

pub(super) const JSON_IN: InputFormat = InputFormat::Json { field: None };
pub(super) const JSON_OUT: OutputFormat = OutputFormat::Json { probabilities: true };

pub(super) fn number(name: &str, fill: Option<f32>) -> Feature {
    Feature { name: name.into(), kind: FeatureKind::Numeric { fill } }
}

/// One-hot; refuses what is missing or unknown.
pub(super) fn category(name: &str, categories: &[&str]) -> Feature {
    let kind = FeatureKind::Categorical {
        categories: categories.iter().map(|word| word.to_string()).collect(),
        encoding: Encoding::OneHot,
        missing: CategoryRule::Refuse,
        unknown: CategoryRule::Refuse,
    };
    Feature { name: name.into(), kind }
}

pub(super) fn signature(features: Vec<Feature>) -> Signature {
    Signature { features, target: Target { name: "target".into(), classes: Vec::new() } }
}

/// A regression that returns its first column, plus 10 times the second, plus 100 times the third, …
pub(super) fn decimal(features: Vec<Feature>) -> Model {
    let signature = signature(features);
    let coefficients = (0..signature.columns()).map(|column| 10f64.powi(column as i32)).collect();
    let linear = Linear { link: Link::Identity, coefficients, intercepts: vec![0.0] };
    Model::new(signature, Predictor::Linear(linear)).expect("a sound model")
}

/// Two trees over one number `x`: below 0 both vote for the first class, below 1 they differ, else for the second.
pub(super) fn votes(classes: [&str; 2]) -> Model {
    let mut trees = TreeEnsemble::new(Aggregation::Vote);
    for threshold in [0.0, 1.0] {
        let split = Node::Split { column: 0, threshold, left: 1, right: 2 };
        trees.push_tree(&[split, Node::Class(0), Node::Class(1)]);
    }
    let mut signature = signature(vec![number("x", None)]);
    signature.target.classes = classes.iter().map(|class| class.to_string()).collect();
    Model::new(signature, Predictor::TreeEnsemble(trees)).expect("a sound model")
}

pub(super) fn served(model: Model, input: &InputFormat, output: OutputFormat) -> ServedModel {
    ServedModel::new("iris", 3, model, Digest::of(b""), input, &output).expect("a model that fits")
}

/// The value of a regression as JSON, or why there is none.
pub(super) fn value(served: &ServedModel, payload: &[u8]) -> Result<f64, Reason> {
    let mut scorer = Scorer::new();
    let mut outcomes = scorer.score(served, [Some(payload)]);
    assert_eq!(outcomes.len(), 1);
    match outcomes.next().expect("one outcome") {
        Outcome::Prediction { bytes, .. } => {
            let document: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
            Ok(document["prediction"].as_f64().expect("a number"))
        }
        Outcome::DeadLetter(dead) => Err(dead.reason()),
    }
}
