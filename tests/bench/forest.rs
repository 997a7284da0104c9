//! A forest that scikit-learn fitted, as `kernels.py` exports it: ours, and smartcore's.

use std::ops::Range;

use modelstream::model::signature::{Feature, FeatureKind, Target};
use modelstream::model::tree_ensemble::{Aggregation, LEAF, Node};
use modelstream::model::{Block, Predictor, Signature, TreeEnsemble};
use serde_json::{Value, json};
use smartcore::ensemble::random_forest_classifier::RandomForestClassifier;
use smartcore::linalg::basic::matrix::DenseMatrix;

pub type Smartcore = RandomForestClassifier<f64, u32, DenseMatrix<f64>, Vec<u32>>;

/// What the file holds: a line of JSON with the counts, then little-endian arrays in this order.
pub struct Forest {
    pub columns: usize,
    pub classes: usize,
    /// Nodes of each tree.
    sizes: Vec<u32>,
    left: Vec<u32>,
    right: Vec<u32>,
    features: Vec<u16>,
    thresholds: Vec<f64>,
    /// The classes of leaves.
    leaves: Vec<u32>,
    pub rows: Vec<f32>,
    /// What scikit-learn says about each row.
    pub probabilities: Vec<f64>,
}

impl Forest {
    pub fn read(path: &str) -> Forest {
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
    pub fn small() -> Forest {
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
    fn trees(&self) -> impl Iterator<Item = Range<usize>> {
        self.sizes.iter().scan(0, |first, size| {
            let range = *first..*first + *size as usize;
            *first = range.end;
            Some(range)
        })
    }

    /// The forest as ours.
    pub fn parts(&self) -> (Signature, Predictor) {
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
        (signature(self.columns, self.classes), Predictor::TreeEnsemble(ensemble))
    }

    /// The same forest as smartcore has it, whose fields are private but visible through serde.
    pub fn smartcore(&self) -> Smartcore {
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
        let tree = |nodes: Range<usize>| {
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
    pub fn blocks(&self, size: usize) -> Vec<Block> {
        self.rows.chunks(size * self.columns).map(|rows| block(rows, self.columns)).collect()
    }
}

/// Of numbers that are never missing.
pub fn signature(columns: usize, classes: usize) -> Signature {
    let feature = |index| Feature { name: format!("x{index}"), kind: FeatureKind::Numeric { fill: None } };
    let classes = (0..classes).map(|class| class.to_string()).collect();
    Signature { features: (0..columns).map(feature).collect(), target: Target { name: "y".into(), classes } }
}

/// Rows of `columns` values each, as a model takes them.
pub fn block(rows: &[f32], columns: usize) -> Block {
    let mut block = Block::new(columns);
    rows.chunks(columns).for_each(|row| block.push_row().copy_from_slice(row));
    block
}

/// The same rows as smartcore takes them.
pub fn matrix(block: &Block) -> DenseMatrix<f64> {
    let values: Vec<f64> = block.iter().flatten().map(|value| f64::from(*value)).collect();
    DenseMatrix::new(block.rows(), block.columns(), values, false).expect("as many values as there should be")
}
