//! Artifacts: whatever is accepted is written again as the same, and scores every row in few steps and little memory.

use std::sync::LazyLock;

use modelstream::model::artifact::{GoldenRow, SCHEMA};
use modelstream::model::tree_ensemble::{Aggregation, LEAF};
use modelstream::model::{Artifact, Block, Digest, Model, Predictions, Predictor, TreeEnsemble};
use modelstream::pipeline::{InputFormat, OutputFormat, Scorer, ServedModel};

use super::choices::Choices;
use super::{allocations, frame, generate, records};

static FRAME: LazyLock<Vec<u8>> = LazyLock::new(|| frame(SCHEMA));

/// What reading and verifying an artifact may hold: its lists, whose items are larger in memory than in a datum, and a
/// block of golden rows.
fn memory_cap(bytes: usize) -> usize {
    (4 << 20) + 128 * bytes
}

pub fn check(bytes: &[u8]) {
    check_decoding(bytes);
    check_decoding(&[&FRAME[..], bytes].concat());
    let mut made = generate::artifact(&mut Choices::new(bytes));
    let proven = prove(&mut made);
    if let Ok(bytes) = made.encode() {
        check_decoding(&bytes);
        let read = Artifact::decode(&bytes);
        // What a trainer computed with a sound model, a server accepts.
        if let (true, Ok(artifact)) = (proven, read) {
            artifact.into_model().expect("its golden rows are its own answers");
        }
    }
}

/// Puts what the model says into its golden rows, because random outputs are never right. True when all rows have finite ones.
fn prove(artifact: &mut Artifact) -> bool {
    let Ok(model) = Model::new(artifact.signature.clone(), artifact.predictor.clone()) else { return false };
    let mut proven = true;
    for row in &mut artifact.golden_rows {
        match answer(&model, row) {
            Some(outputs) => {
                proven &= outputs.iter().all(|output| output.is_finite());
                row.outputs = outputs;
            }
            None => proven = false,
        }
    }
    proven
}

fn answer(model: &Model, row: &GoldenRow) -> Option<Vec<f64>> {
    let mut block = Block::new(model.signature().columns());
    modelstream::model::verify::encode_golden(model.signature(), row, block.push_row()).ok()?;
    let mut predictions = Predictions::default();
    model.predict(&block, &mut predictions);
    Some(predictions.outputs(0).to_vec())
}

fn check_decoding(bytes: &[u8]) {
    let decoded = allocations::within(memory_cap(bytes.len()), || Artifact::decode(bytes));
    let Ok(artifact) = decoded else { return };
    let written = artifact.encode().expect("what was read can be written");
    let again = Artifact::decode(&written).expect("what was written can be read");
    // By its text, because numbers may be NaN, which differs from itself.
    assert_eq!(format!("{again:?}"), format!("{artifact:?}"));
    assert_eq!(again.encode().expect("as before"), written);
    let predictor = artifact.predictor.clone();
    let Ok(model) = allocations::within(memory_cap(bytes.len()), || artifact.into_model()) else { return };
    check_predictions(&model, &predictor);
    check_serving(model);
}

fn check_predictions(model: &Model, predictor: &Predictor) {
    let columns = model.signature().columns();
    let mut block = Block::new(columns);
    for value in [0.0, -0.0, 1.0, -1e30, f32::MAX, f32::MIN] {
        block.push_row().fill(value);
    }
    for (index, value) in block.push_row().iter_mut().enumerate() {
        *value = index as f32;
    }
    let mut predictions = Predictions::default();
    model.predict(&block, &mut predictions);
    assert_eq!(predictions.len(), block.rows());
    for (index, row) in block.iter().enumerate() {
        let outputs = predictions.outputs(index);
        assert_eq!(outputs.len(), model.signature().outputs());
        if let Predictor::TreeEnsemble(trees) = predictor {
            let walked = walk(trees, row, outputs.len());
            assert_eq!(format!("{outputs:?}"), format!("{walked:?}"), "the kernel walks the trees as they are");
        }
        check_class(model, predictions.class(index), outputs);
    }
}

fn check_class(model: &Model, class: Option<usize>, outputs: &[f64]) {
    assert_eq!(class.is_some(), model.signature().is_classification());
    // Weights near the end of `f64` overflow; the pipeline makes a dead letter of that.
    let Some(class) = class.filter(|_| outputs.iter().all(|output| output.is_finite())) else { return };
    assert!((outputs.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{outputs:?}");
    assert!(outputs.iter().all(|output| *output >= 0.0 && *output <= outputs[class]), "{class} of {outputs:?}");
}

/// Walks the trees as `schemas/artifact.avsc` describes them; no walk visits more nodes than its tree has.
fn walk(trees: &TreeEnsemble, row: &[f32], outputs: usize) -> Vec<f64> {
    let mut leaves = Vec::new();
    let mut start = 0;
    for size in trees.tree_sizes.iter().map(|size| *size as usize) {
        let (mut node, mut visits) = (start, 1);
        while trees.features[node] != LEAF {
            let right = row[usize::from(trees.features[node])] > trees.thresholds[node];
            node = start + trees.children[node] as usize + usize::from(right);
            visits += 1;
            assert!(visits <= size && node < start + size, "a walk leaves its tree, or does not end");
        }
        leaves.push(trees.children[node] as usize);
        start += size;
    }
    let values = || leaves.iter().map(|leaf| trees.leaf_values[*leaf]);
    match trees.aggregation {
        Aggregation::Vote => {
            let share = |class| leaves.iter().filter(|leaf| **leaf == class).count() as f64 / leaves.len() as f64;
            (0..outputs).map(share).collect()
        }
        // In the trees' order, as a sum of `f64` depends on it.
        Aggregation::Mean => vec![values().fold(0.0, |sum, value| sum + value) / leaves.len() as f64],
        Aggregation::Sum { base } => vec![values().fold(base, |sum, value| sum + value)],
    }
}

/// Records of an accepted model have one outcome each, as those of any other.
fn check_serving(model: Model) {
    let input = InputFormat::Json { field: None };
    let output = OutputFormat::Json { probabilities: true };
    let features = model.signature().features.len();
    let Ok(served) = ServedModel::new("iris", 3, model, Digest::of(b""), &input, &output) else { return };
    let nulls = format!("[{}]", vec!["null"; features].join(","));
    let numbers = format!("[{}]", vec!["1"; features].join(","));
    let batch: [Option<&[u8]>; 4] = [Some(b"{}"), Some(nulls.as_bytes()), None, Some(numbers.as_bytes())];
    let mut scorer = Scorer::new();
    let outcomes = scorer.score(&served, batch);
    assert_eq!(outcomes.len(), batch.len());
    outcomes.for_each(|outcome| drop(records::checked(&served, outcome)));
}
