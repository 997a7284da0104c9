//! Writes and reads one model in our format, as JSON, and as smartcore's serde has it: how many bytes, how long.
//!
//! `cargo bench --bench formats -- FILE [--runs N]` prints a JSON object for each format; `tests/bench/formats` writes the file,
//! measures pickle and ONNX with the same model, and makes a table of it. Without a file a small forest and a small logistic
//! regression are written and read once, as a test.

mod forest;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use modelstream::model::artifact::{Evaluation, FORMAT, GoldenRow, GoldenValue};
use modelstream::model::linear::Link;
use modelstream::model::tree_ensemble::Aggregation;
use modelstream::model::{
    Artifact, Block, Digest, Linear, Model, Pieces, Predictions, Predictor, Signature, TreeEnsemble,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::logistic_regression::LogisticRegression;

use forest::{Forest, matrix, signature};

/// How long a run lasts at least.
const RUN: Duration = Duration::from_millis(100);
/// How far a probability may be from scikit-learn's.
const CLOSE: f64 = 1e-6;
/// As many as a trainer puts beside a model of such a table.
const GOLDEN_ROWS: usize = 16;

type Regression = LogisticRegression<f64, u32, DenseMatrix<f64>, Vec<u32>>;

/// A logistic regression that scikit-learn fitted, as `tests/bench/formats` exports it.
#[derive(Deserialize)]
struct Fitted {
    columns: usize,
    classes: usize,
    coefficients: Vec<f64>,
    intercepts: Vec<f64>,
    rows: Vec<f32>,
    /// What scikit-learn says about each row.
    probabilities: Vec<f64>,
}

impl Fitted {
    /// Three classes of two columns, of which the rows are undecided.
    fn small() -> Fitted {
        Fitted {
            columns: 2,
            classes: 3,
            coefficients: vec![1.0, 0.0, 0.0, 1.0, 0.5, 0.5],
            intercepts: vec![0.0; 3],
            rows: vec![0.0, 0.0, 1.0, 1.0],
            probabilities: vec![1.0 / 3.0; 6],
        }
    }

    fn smartcore(&self) -> Regression {
        let matrix = |values: &[f64], columns: usize| json!({"ncols": columns, "nrows": values.len() / columns, "values": values, "column_major": false});
        let regression = json!({
            "coefficients": matrix(&self.coefficients, self.columns), "intercept": matrix(&self.intercepts, 1),
            "classes": (0..self.classes).collect::<Vec<usize>>(), "num_attributes": self.columns,
            "num_classes": self.classes, "_phantom_tx": null, "_phantom_y": null,
        });
        serde_json::from_value(regression).expect("smartcore's fields")
    }
}

/// An artifact as JSON would have it: numbers are lists of numbers.
#[derive(Serialize, Deserialize)]
struct Document {
    format: i32,
    algorithm: String,
    hyper_parameters: BTreeMap<String, String>,
    signature: Signature,
    predictor: Lists,
    evaluation: Evaluation,
    golden_rows: Vec<GoldenRow>,
}

#[derive(Serialize, Deserialize)]
enum Lists {
    Vote { tree_sizes: Vec<u32>, features: Vec<u16>, thresholds: Vec<f32>, children: Vec<u32> },
    Linear { link: Link, coefficients: Vec<f64>, intercepts: Vec<f64> },
}

impl Document {
    fn new(artifact: Artifact) -> Document {
        let Artifact { format, algorithm, hyper_parameters, signature, predictor, evaluation, golden_rows } = artifact;
        let predictor = match predictor {
            Predictor::TreeEnsemble(TreeEnsemble { tree_sizes, features, thresholds, children, .. }) => {
                let features = features.into_iter().collect();
                let (thresholds, children) = (thresholds.into_iter().collect(), children.into_iter().collect());
                Lists::Vote { tree_sizes, features, thresholds, children }
            }
            Predictor::Linear(Linear { link, coefficients, intercepts }) => {
                Lists::Linear { link, coefficients, intercepts }
            }
            Predictor::NaiveBayes(_) => unreachable!("none is exported"),
        };
        Document { format, algorithm, hyper_parameters, signature, predictor, evaluation, golden_rows }
    }

    fn into_artifact(self) -> Artifact {
        let Document { format, algorithm, hyper_parameters, signature, predictor, evaluation, golden_rows } = self;
        let predictor = match predictor {
            Lists::Vote { tree_sizes, features, thresholds, children } => {
                let (aggregation, leaf_values) = (Aggregation::Vote, Pieces::default());
                let features = features.into_iter().collect();
                let (thresholds, children) = (thresholds.into_iter().collect(), children.into_iter().collect());
                let trees = TreeEnsemble { aggregation, tree_sizes, features, thresholds, children, leaf_values };
                Predictor::TreeEnsemble(trees)
            }
            Lists::Linear { link, coefficients, intercepts } => {
                Predictor::Linear(Linear { link, coefficients, intercepts })
            }
        };
        Artifact { format, algorithm, hyper_parameters, signature, predictor, evaluation, golden_rows }
    }
}

/// What scikit-learn says about rows.
struct Expected {
    block: Block,
    classes: usize,
    probabilities: Vec<f64>,
}

impl Expected {
    /// The probabilities of each row.
    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.probabilities.chunks(self.classes)
    }

    fn check(&self, model: &Model) {
        let mut predictions = Predictions::default();
        model.predict(&self.block, &mut predictions);
        for (row, probabilities) in self.rows().enumerate() {
            let pairs = predictions.outputs(row).iter().zip(probabilities);
            assert!(pairs.clone().all(|(ours, theirs)| (ours - theirs).abs() < CLOSE), "row {row}: {pairs:?}");
        }
    }

    /// Each class is one of the likeliest.
    fn check_classes(&self, classes: &[u32]) {
        assert_eq!(classes.len(), self.block.rows());
        for (row, (class, probabilities)) in classes.iter().zip(self.rows()).enumerate() {
            let chosen = probabilities[*class as usize];
            assert!(
                probabilities.iter().all(|other| *other < chosen + CLOSE),
                "row {row}: {class} of {probabilities:?}"
            );
        }
    }
}

/// An artifact as a trainer makes one, with golden rows.
fn artifact(algorithm: &str, signature: Signature, predictor: Predictor, expected: &Expected) -> Artifact {
    let golden = |(row, probabilities): (&[f32], &[f64])| GoldenRow {
        inputs: row.iter().map(|value| GoldenValue::Number(f64::from(*value))).collect(),
        outputs: probabilities.to_vec(),
    };
    let golden_rows: Vec<GoldenRow> =
        expected.block.iter().zip(expected.rows()).map(golden).take(GOLDEN_ROWS).collect();
    Artifact {
        format: FORMAT,
        algorithm: algorithm.to_owned(),
        hyper_parameters: BTreeMap::new(),
        signature,
        predictor,
        evaluation: Evaluation::default(),
        // Of a few rows each stands there more than once.
        golden_rows: golden_rows.iter().cycle().take(GOLDEN_ROWS).cloned().collect(),
    }
}

/// The seconds of one call, in each run: calls until the run has lasted long enough.
fn seconds<T>(runs: usize, mut call: impl FnMut() -> T) -> Vec<f64> {
    let run = |_| {
        let (start, mut calls) = (Instant::now(), 0);
        loop {
            black_box(call());
            calls += 1;
            if start.elapsed() >= RUN || runs == 0 {
                break start.elapsed().as_secs_f64() / f64::from(calls);
            }
        }
    };
    (0..runs.max(1)).map(run).collect()
}

/// Writes and reads a model; `read` gives what can score, which `check` proves.
fn measure<M>(name: &str, runs: usize, write: impl Fn() -> Vec<u8>, read: impl Fn(&[u8]) -> M, check: impl FnOnce(&M)) {
    let bytes = write();
    check(&read(&bytes));
    let (writing, reading) = (seconds(runs, &write), seconds(runs, || read(black_box(&bytes))));
    let line = json!({"format": name, "bytes": bytes.len(), "write_seconds": writing, "read_seconds": reading});
    println!("{line}");
}

/// Ours and JSON, read with all that a server checks: digest, structure, golden rows.
fn measure_artifact(artifact: Artifact, expected: &Expected, runs: usize) {
    let digest = Digest::of(&artifact.encode().expect("below the limit"));
    let read = |bytes: &[u8]| {
        assert!(Digest::of(bytes) == digest);
        Artifact::decode(bytes).and_then(Artifact::into_model).expect("what was written")
    };
    measure("modelstream", runs, || artifact.encode().expect("below the limit"), read, |model| expected.check(model));
    let document = Document::new(artifact);
    let write = || serde_json::to_vec(&document).expect("a document");
    let digest = Digest::of(&write());
    let read = |bytes: &[u8]| {
        assert!(Digest::of(bytes) == digest);
        let document: Document = serde_json::from_slice(bytes).expect("what was written");
        document.into_artifact().into_model().expect("sound")
    };
    measure("JSON", runs, write, read, |model| expected.check(model));
}

/// smartcore's own fields, as JSON, read without any check: it has none.
fn measure_smartcore<M: Serialize + DeserializeOwned>(
    model: &M,
    expected: &Expected,
    runs: usize,
    predict: impl Fn(&M, &DenseMatrix<f64>) -> Vec<u32>,
) {
    let rows = matrix(&expected.block);
    let write = || serde_json::to_vec(model).expect("smartcore's fields");
    let read = |bytes: &[u8]| serde_json::from_slice::<M>(bytes).expect("what was written");
    measure("smartcore", runs, write, read, |model| expected.check_classes(&predict(model, &rows)));
}

fn measure_forest(forest: &Forest, runs: usize) {
    let block = forest.blocks(forest.rows.len()).swap_remove(0);
    let expected = Expected { block, classes: forest.classes, probabilities: forest.probabilities.clone() };
    let (signature, predictor) = forest.parts();
    measure_artifact(artifact("random-forest", signature, predictor, &expected), &expected, runs);
    let predict = |model: &forest::Smartcore, rows: &DenseMatrix<f64>| model.predict(rows).expect("predicted");
    measure_smartcore(&forest.smartcore(), &expected, runs, predict);
}

fn measure_regression(fitted: &Fitted, runs: usize) {
    let block = forest::block(&fitted.rows, fitted.columns);
    let expected = Expected { block, classes: fitted.classes, probabilities: fitted.probabilities.clone() };
    let (coefficients, intercepts) = (fitted.coefficients.clone(), fitted.intercepts.clone());
    let predictor = Predictor::Linear(Linear { link: Link::Softmax, coefficients, intercepts });
    let signature = signature(fitted.columns, fitted.classes);
    measure_artifact(artifact("logistic-regression", signature, predictor, &expected), &expected, runs);
    let predict = |model: &Regression, rows: &DenseMatrix<f64>| model.predict(rows).expect("predicted");
    measure_smartcore(&fitted.smartcore(), &expected, runs, predict);
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
    match file {
        Some(file) if file.ends_with(".forest") => measure_forest(&Forest::read(&file), runs),
        Some(file) => {
            let text = std::fs::read_to_string(file).expect("the file that tests/bench/formats writes");
            measure_regression(&serde_json::from_str(&text).expect("its fields"), runs);
        }
        None => {
            measure_forest(&Forest::small(), 0);
            measure_regression(&Fitted::small(), 0);
        }
    }
}
