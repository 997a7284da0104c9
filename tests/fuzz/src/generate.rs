//! Artifacts and manifests out of choices: mostly sound, so that the later checks are reached, and damaged here and there.

use std::collections::BTreeMap;

use modelstream::model::artifact::{Evaluation, FORMAT, GoldenRow, GoldenValue};
use modelstream::model::control::{self, Decision};
use modelstream::model::linear::Link;
use modelstream::model::manifest::{Chunks, Compression, Stored};
use modelstream::model::signature::{CategoryRule, Encoding, Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, LEAF};
use modelstream::model::verify::GOLDEN_ROWS_MIN;
use modelstream::model::{Artifact, Control, Digest, Linear, Manifest, NaiveBayes, Predictor, Signature, TreeEnsemble};

use super::choices::Choices;

const FEATURES_MAX: usize = 4;
const CATEGORIES_MAX: usize = 4;
const TREES_MAX: usize = 3;
const NODES_MAX: usize = 12;

pub fn artifact(choices: &mut Choices<'_>) -> Artifact {
    let signature = signature(choices);
    let predictor = match choices.below(3) {
        0 => Predictor::TreeEnsemble(trees(choices, &signature)),
        1 => Predictor::Linear(linear(choices, &signature)),
        _ => Predictor::NaiveBayes(bayes(choices, &signature)),
    };
    let golden_rows = (0..GOLDEN_ROWS_MIN + choices.below(3)).map(|_| golden_row(choices, &signature)).collect();
    Artifact {
        format: if choices.seldom(32) { choices.u32() as i32 } else { FORMAT },
        algorithm: choices.text(4),
        hyper_parameters: texts(choices),
        signature,
        predictor,
        evaluation: evaluation(choices),
        golden_rows,
    }
}

pub fn manifest(choices: &mut Choices<'_>) -> Manifest {
    let count = 1 + choices.below(4) as u32;
    let first_offset = i64::from(choices.byte());
    let mut chunks = Chunks { partition: 0, first_offset, last_offset: first_offset + i64::from(count) - 1, count };
    match choices.below(16) {
        0 => chunks.partition = choices.u32() as i32,
        1 => chunks.first_offset = choices.u64() as i64,
        2 => chunks.last_offset = choices.u64() as i64,
        3 => chunks.count = choices.u32(),
        _ => {}
    }
    Manifest {
        format: 1 + choices.below(2) as i32,
        model: "iris".into(),
        version: 1 + u64::from(choices.byte()),
        digest: Digest::of(&[choices.byte()]),
        artifact_bytes: 1000,
        chunks,
        algorithm: choices.text(4),
        hyper_parameters: texts(choices),
        signature: signature(choices),
        evaluation: evaluation(choices),
        published_at_ms: choices.u64() as i64 >> choices.below(64),
        published_by: choices.text(4),
        note: choices.text(4),
        sequence: choices.u64() >> (1 + choices.below(63)),
        stored: stored(choices),
    }
}

fn stored(choices: &mut Choices<'_>) -> Option<Stored> {
    let digest = Digest::of(&[choices.byte()]);
    (choices.below(2) == 1).then_some(Stored { compression: Compression::Zstd, bytes: 900, digest })
}

/// A decision about a model.
pub fn control(choices: &mut Choices<'_>, model: &str, sequence: u64) -> Control {
    let (alias, version) = (["champion", "a"][choices.below(2)].to_owned(), 1 + choices.below(3) as u64);
    let decision = match choices.below(8) {
        0 => Decision::AliasSet { alias, version },
        1 => Decision::AliasDeleted { alias },
        2 => Decision::RolledBack { alias, version },
        3 => Decision::Pinned { version },
        4 => Decision::Unpinned,
        5 => Decision::Revoked { version },
        6 => Decision::Pruned { version },
        _ => Decision::KeyRevoked { key: choices.text(4) },
    };
    let (decided_by, why) = (choices.text(4), choices.text(4));
    let decided_at_ms = choices.u64() as i64 >> choices.below(64);
    Control { format: control::FORMAT, model: model.to_owned(), sequence, decision, decided_at_ms, decided_by, why }
}

fn texts(choices: &mut Choices<'_>) -> BTreeMap<String, String> {
    (0..choices.below(3)).map(|_| (choices.text(4), choices.text(4))).collect()
}

fn evaluation(choices: &mut Choices<'_>) -> Evaluation {
    let count = |choices: &mut Choices<'_>| choices.u64() >> 1;
    Evaluation {
        train_rows: count(choices),
        test_rows: count(choices),
        metrics: (0..choices.below(3)).map(|_| (choices.text(4), choices.f64())).collect(),
        confusion_matrix: (0..choices.below(3))
            .map(|_| (0..choices.below(3)).map(|_| count(choices)).collect())
            .collect(),
    }
}

fn signature(choices: &mut Choices<'_>) -> Signature {
    let features = (0..1 + choices.below(FEATURES_MAX)).map(|index| feature(choices, index)).collect();
    let classes = [0, 2, 3, 1][choices.below(4)];
    let classes = (0..classes).map(|index| name(choices, "class", index)).collect();
    Signature { features, target: Target { name: choices.text(4), classes } }
}

fn name(choices: &mut Choices<'_>, what: &str, index: usize) -> String {
    if choices.seldom(16) { choices.text(8) } else { format!("{what}{index}") }
}

fn feature(choices: &mut Choices<'_>, index: usize) -> Feature {
    let rule = |choices: &mut Choices<'_>| [CategoryRule::NoCategory, CategoryRule::Refuse][choices.below(2)];
    let kind = match choices.below(3) {
        0 => FeatureKind::Numeric { fill: Some(choices.f32()) },
        1 => FeatureKind::Numeric { fill: None },
        _ => FeatureKind::Categorical {
            categories: (0..1 + choices.below(CATEGORIES_MAX)).map(|index| name(choices, "word", index)).collect(),
            encoding: [Encoding::OneHot, Encoding::Ordinal][choices.below(2)],
            missing: rule(choices),
            unknown: rule(choices),
        },
    };
    Feature { name: name(choices, "feature", index), kind }
}

fn golden_row(choices: &mut Choices<'_>, signature: &Signature) -> GoldenRow {
    let value = |choices: &mut Choices<'_>, feature: &Feature| match (&feature.kind, choices.below(8)) {
        (_, 0) => GoldenValue::Missing,
        (_, 1) => GoldenValue::Category(choices.text(4)),
        (FeatureKind::Categorical { categories, .. }, _) => GoldenValue::Category(categories[0].clone()),
        (FeatureKind::Numeric { .. }, _) => GoldenValue::Number(choices.f64()),
    };
    let inputs = signature.features.iter().map(|feature| value(choices, feature)).collect();
    let outputs = (0..signature.outputs()).map(|_| choices.f64()).collect();
    GoldenRow { inputs, outputs }
}

/// Trees whose children stand behind their parents, unless a choice is otherwise.
fn trees(choices: &mut Choices<'_>, signature: &Signature) -> TreeEnsemble {
    let (columns, classes) = (signature.columns(), signature.target.classes.len());
    let mut trees = TreeEnsemble::new(match (classes, choices.below(2)) {
        (0, 0) => Aggregation::Mean,
        (0, _) => Aggregation::Sum { base: choices.f64() },
        _ => Aggregation::Vote,
    });
    for _ in 0..1 + choices.below(TREES_MAX) {
        let size = 1 + choices.below(NODES_MAX);
        for node in 0..size {
            let split = node + 2 < size && !choices.seldom(4);
            let leaf = if classes > 0 { choices.below(classes) } else { trees.leaf_values.len() };
            let (feature, threshold, child) = match split {
                true => (choices.below(columns) as u16, choices.f32(), node + 1 + choices.below(size - node - 2)),
                false => (LEAF, 0.0, leaf),
            };
            if !split && classes == 0 {
                trees.leaf_values.push(choices.f64());
            }
            trees.features.push(if choices.seldom(64) { choices.u32() as u16 } else { feature });
            trees.thresholds.push(threshold);
            trees.children.push(if choices.seldom(64) { choices.u32() } else { child as u32 });
        }
        trees.tree_sizes.push(if choices.seldom(64) { choices.u32() } else { size as u32 });
    }
    trees
}

fn linear(choices: &mut Choices<'_>, signature: &Signature) -> Linear {
    let (link, scores) = match (signature.target.classes.len(), choices.below(2)) {
        (0, _) => (Link::Identity, 1),
        (2, 0) => (Link::Logistic, 1),
        (classes, _) => (Link::Softmax, classes),
    };
    let damage = usize::from(choices.seldom(16));
    let coefficients = (0..scores * signature.columns() + damage).map(|_| choices.f64()).collect();
    Linear { link, coefficients, intercepts: (0..scores).map(|_| choices.f64()).collect() }
}

fn bayes(choices: &mut Choices<'_>, signature: &Signature) -> NaiveBayes {
    let classes = signature.target.classes.len();
    let numbers = classes * signature.columns() + usize::from(choices.seldom(16));
    NaiveBayes {
        log_priors: (0..classes).map(|_| choices.f64()).collect(),
        means: (0..numbers).map(|_| choices.f64()).collect(),
        variances: (0..numbers).map(|_| choices.f64().abs()).collect(),
    }
}
