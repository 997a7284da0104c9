//! Scores one forest with our kernel and with smartcore, and says how many rows each scores a second.
//!
//! `cargo bench --bench kernels -- FILE [--runs N]` prints a JSON object a line; `tests/bench/kernels.py` writes the file, measures
//! others with the same forest and rows, and makes a table of it. Without a file a small forest is scored once, as a test.

mod forest;

use std::hint::black_box;
use std::time::{Duration, Instant};

use modelstream::model::{Block, Model, Predictions};
use serde_json::json;
use smartcore::linalg::basic::matrix::DenseMatrix;

use forest::{Forest, Smartcore, matrix};

/// The sizes of the blocks that are scored.
const BLOCKS: [usize; 3] = [1, 256, 8_000];
/// How long a run lasts at least.
const RUN: Duration = Duration::from_millis(100);
/// How far a probability may be from scikit-learn's.
const CLOSE: f64 = 1e-6;

/// The rows a second of each run: passes over the blocks, as many as a run lasts, which may end within a pass.
fn measure(name: &str, size: usize, runs: usize, blocks: &[usize], mut score: impl FnMut(usize)) {
    let run = |_| {
        let (start, mut rows) = (Instant::now(), 0);
        for block in (0..blocks.len()).cycle() {
            score(block);
            rows += blocks[block];
            if start.elapsed() >= RUN || runs == 0 {
                break;
            }
        }
        rows as f64 / start.elapsed().as_secs_f64()
    };
    let rates: Vec<f64> = (0..runs.max(1)).map(run).collect();
    println!("{}", json!({"implementation": name, "rows": size, "rows_per_second": rates}));
}

fn check(forest: &Forest, model: &Model, smartcore: &Smartcore) {
    let mut predictions = Predictions::default();
    let blocks = forest.blocks(forest.rows.len());
    model.predict(&blocks[0], &mut predictions);
    let classes = smartcore.predict(&matrix(&blocks[0])).expect("predicted");
    for (row, probabilities) in forest.probabilities.chunks(forest.classes).enumerate() {
        let pairs = predictions.outputs(row).iter().zip(probabilities);
        assert!(pairs.clone().all(|(ours, theirs)| (ours - theirs).abs() < CLOSE), "row {row}: {pairs:?}");
        assert_eq!(predictions.class(row), Some(classes[row] as usize), "row {row}");
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut file, mut runs) = (None, 5);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => runs = arguments.next().and_then(|runs| runs.parse().ok()).expect("a number of runs"),
            _ => file = Some(argument),
        }
    }
    let (forest, runs) = match file {
        Some(file) => (Forest::read(&file), runs),
        None => (Forest::small(), 0),
    };
    let (signature, predictor) = forest.parts();
    let model = Model::new(signature, predictor).expect("a sound forest");
    let smartcore = forest.smartcore();
    check(&forest, &model, &smartcore);
    for size in BLOCKS {
        let blocks = forest.blocks(size);
        let sizes: Vec<usize> = blocks.iter().map(Block::rows).collect();
        let mut predictions = Predictions::default();
        measure("modelstream", size, runs, &sizes, |block| model.predict(black_box(&blocks[block]), &mut predictions));
        let matrices: Vec<DenseMatrix<f64>> = blocks.iter().map(matrix).collect();
        measure("smartcore", size, runs, &sizes, |block| drop(black_box(smartcore.predict(&matrices[block]))));
    }
}
