//! Scores one forest with our kernel and with smartcore, and says how many rows each scores a second.
//!
//! `cargo bench --bench kernels -- FILE [--runs N]` prints a JSON object a line; `tests/bench/kernels.py` writes the file, measures
//! others with the same forest and rows, and makes a table of it. Without a file a small forest is scored once, as a test.

use std::hint::black_box;
use std::time::{Duration, Instant};

use modelstream::model::signature::{Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, LEAF, Node};
use modelstream::model::{Block, Model, Predictions, Predictor, Signature, TreeEnsemble};
use serde_json::{Value, json};
use smartcore::ensemble::random_forest_classifier::RandomForestClassifier;
use smartcore::linalg::basic::matrix::DenseMatrix;

/// The sizes of the blocks that are scored.
const BLOCKS: [usize; 3] = [1, 256, 8_000];
/// How long a run lasts at least.
const RUN: Duration = Duration::from_millis(100);
/// How far a probability may be from scikit-learn's.
const CLOSE: f64 = 1e-6;

type Smartcore = RandomForestClassifier<f64, u32, DenseMatrix<f64>, Vec<u32>>;

/// What the file holds: a line of JSON with the counts, then little-endian arrays in this order.
struct Forest {
    columns: usize,
    classes: usize,
    /// Nodes of each tree.
    sizes: Vec<u32>,
    left: Vec<u32>,
    right: Vec<u32>,
    features: Vec<u16>,
    thresholds: Vec<f64>,
    /// The classes of leaves.
    leaves: Vec<u32>,
    rows: Vec<f32>,
    /// What scikit-learn says about each row.
    probabilities: Vec<f64>,
}

impl Forest {
    fn read(path: &str) -> Forest {
        let bytes = std::fs::read(path).expect("the file that kernels.py writes");
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line of JSON");
        let header: Value = serde_json::from_slice(&bytes[..end]).expect("a line of JSON");
        let count = |name: &str| header[name].as_u64().expect("a count") as usize;
        let (columns, classes, rows, nodes) = (count("columns"), count("classes"), count("rows"), count("nodes"));
        let mut rest = &bytes[end + 1..];
        let mut take = |bytes: usize| {
            let (taken, behind) = rest.split_at(bytes);
            rest = behind;
            taken
        };
        let mut u32s =
            |count: usize| take(4 * count).as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let (sizes, left, right, leaves): (Vec<u32>, Vec<u32>, Vec<u32>, Vec<u32>) =
            (u32s(count("trees")), u32s(nodes), u32s(nodes), u32s(nodes));
        let rows_bits: Vec<u32> = u32s(rows * columns);
        let mut f64s =
            |count: usize| take(8 * count).as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        let (thresholds, probabilities) = (f64s(nodes), f64s(rows * classes));
        let features = take(2 * nodes).as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
        let rows = rows_bits.into_iter().map(f32::from_bits).collect();
        Forest { columns, classes, sizes, left, right, features, thresholds, leaves, rows, probabilities }
    }

    /// Two trees of one split each.
    fn small() -> Forest {
        Forest {
            columns: 2,
            classes: 2,
            sizes: vec![3, 3],
            left: vec![1, 0, 0, 1, 0, 0],
            right: vec![2, 0, 0, 2, 0, 0],
            features: vec![0, LEAF, LEAF, 1, LEAF, LEAF],
            thresholds: vec![0.5, 0.0, 0.0, -0.5, 0.0, 0.0],
            leaves: vec![0, 0, 1, 0, 1, 0],
            rows: vec![0.0, 0.0, 1.0, 0.0, 1.0, -1.0],
            probabilities: vec![1.0, 0.0, 0.5, 0.5, 0.0, 1.0],
        }
    }

    /// The ranges of the trees' nodes.
    fn trees(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.sizes.iter().scan(0, |first, size| {
            let range = *first..*first + *size as usize;
            *first = range.end;
            Some(range)
        })
    }

    fn model(&self) -> Model {
        let node = |index: usize| match self.features[index] {
            LEAF => Node::Class(self.leaves[index]),
            column => Node::Split {
                column,
                threshold: self.thresholds[index],
                left: self.left[index] as usize,
                right: self.right[index] as usize,
            },
        };
        let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
        for tree in self.trees() {
            ensemble.push_tree(&tree.map(node).collect::<Vec<Node>>());
        }
        let feature = |index| Feature { name: format!("x{index}"), kind: FeatureKind::Numeric { fill: None } };
        let classes = (0..self.classes).map(|class| class.to_string()).collect();
        let signature = Signature {
            features: (0..self.columns).map(feature).collect(),
            target: Target { name: "y".into(), classes },
        };
        Model::new(signature, Predictor::TreeEnsemble(ensemble)).expect("a sound forest")
    }

    /// The same forest as smartcore has it, whose fields are private but visible through serde.
    fn smartcore(&self) -> Smartcore {
        let node = |index: usize| {
            let split = self.features[index] != LEAF;
            json!({
                "output": self.leaves[index], "n_node_samples": 1, "impurity": null, "split_score": null,
                "split_feature": if split { self.features[index] } else { 0 },
                "split_value": split.then_some(self.thresholds[index]),
                "true_child": split.then_some(self.left[index]), "false_child": split.then_some(self.right[index]),
            })
        };
        let classes: Vec<usize> = (0..self.classes).collect();
        let tree = |nodes: std::ops::Range<usize>| {
            json!({
                "nodes": nodes.map(node).collect::<Vec<Value>>(), "parameters": null, "num_classes": self.classes,
                "classes": classes, "depth": 0, "num_features": self.columns,
                "_phantom_tx": null, "_phantom_x": null, "_phantom_y": null,
            })
        };
        let forest =
            json!({"trees": self.trees().map(tree).collect::<Vec<Value>>(), "classes": classes, "samples": null});
        serde_json::from_value(forest).expect("smartcore's fields")
    }

    /// The rows in blocks of `size`; fewer where there are not as many.
    fn blocks(&self, size: usize) -> Vec<Block> {
        let block = |rows: &[f32]| {
            let mut block = Block::new(self.columns);
            rows.chunks(self.columns).for_each(|row| block.push_row().copy_from_slice(row));
            block
        };
        self.rows.chunks(size * self.columns).map(block).collect()
    }
}

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

fn matrix(block: &Block) -> DenseMatrix<f64> {
    let values: Vec<f64> = block.iter().flatten().map(|value| f64::from(*value)).collect();
    DenseMatrix::new(block.rows(), block.columns(), values, false).expect("as many values as there should be")
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
    let (model, smartcore) = (forest.model(), forest.smartcore());
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
