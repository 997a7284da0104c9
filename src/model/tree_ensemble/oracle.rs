//! The kernel says, bit for bit, what walking the artifact's arrays says, whatever the forest.

use proptest::prelude::*;

use super::kernel::Kernel;
use super::*;
use crate::model::signature::{Feature, FeatureKind, Target};
use crate::model::{Block, Model, Predictions, Predictor, Signature, argmax};

/// Values and thresholds are of these, so that they are equal often.
const GRID: [f32; 12] = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, -1e-40, f32::MIN_POSITIVE, 1e30, -1e30, f32::MAX, f32::MIN];

/// A row's outputs and class, the slow way: node after node, tree after tree, as `schemas/artifact.avsc` describes it.
fn slowly(ensemble: &TreeEnsemble, row: &[f32], classes: usize) -> (Vec<f64>, Option<usize>) {
    let mut leaves = Vec::new();
    let mut start = 0;
    for size in &ensemble.tree_sizes {
        let mut node = start;
        while ensemble.features[node] != LEAF {
            let right = row[usize::from(ensemble.features[node])] > ensemble.thresholds[node];
            node = start + ensemble.children[node] as usize + usize::from(right);
        }
        leaves.push(ensemble.children[node] as usize);
        start += *size as usize;
    }
    let trees = leaves.len() as f64;
    let values = leaves.iter().map(|leaf| ensemble.leaf_values[*leaf]);
    match ensemble.aggregation {
        Aggregation::Vote => {
            let mut votes = vec![0.0; classes];
            leaves.iter().for_each(|class| votes[*class] += 1.0);
            (votes.iter().map(|count| count / trees).collect(), Some(argmax(&votes)))
        }
        Aggregation::Mean => (vec![values.fold(0.0, |sum, value| sum + value) / trees], None),
        Aggregation::Sum { base } => (vec![values.fold(base, |sum, value| sum + value)], None),
    }
}

fn model(ensemble: TreeEnsemble, columns: usize, classes: usize) -> Model {
    let feature = |index| Feature { name: format!("x{index}"), kind: FeatureKind::Numeric { fill: None } };
    let target = Target { name: "y".into(), classes: (0..classes).map(|class| format!("k{class}")).collect() };
    let signature = Signature { features: (0..columns).map(feature).collect(), target };
    Model::new(signature, Predictor::TreeEnsemble(ensemble)).expect("a sound forest")
}

fn assert_same(ensemble: &TreeEnsemble, columns: usize, classes: usize, blocks: &[Block]) {
    let model = model(ensemble.clone(), columns, classes);
    // One for all blocks, because what a block leaves behind must not show in the next.
    let mut predictions = Predictions::default();
    for block in blocks {
        model.predict(block, &mut predictions);
        assert_eq!(predictions.len(), block.rows());
        for (index, row) in block.iter().enumerate() {
            let (outputs, class) = slowly(ensemble, row, classes);
            let bits = |outputs: &[f64]| outputs.iter().map(|output| output.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(predictions.outputs(index)), bits(&outputs), "row {index} of {}", block.rows());
            assert_eq!(predictions.class(index), class, "row {index} of {}", block.rows());
        }
    }
}

/// A source of choices, from one number.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn number(&mut self) -> f32 {
        match self.below(3) {
            0 => (self.below(2_000_001) as f32 - 1e6) * 1e-3,
            _ => GRID[self.below(GRID.len())],
        }
    }

    fn block(&mut self, rows: usize, columns: usize) -> Block {
        let mut block = Block::new(columns);
        for _ in 0..rows {
            block.push_row().fill_with(|| self.number());
        }
        block
    }
}

/// How a tree grows.
#[derive(Debug, Clone, Copy)]
enum Growth {
    /// Each node is split with the same chance.
    Random,
    /// Every level has one split.
    Chain,
    /// All leaves stand at the same level.
    Full,
}

/// Appends a tree of up to `splits` splits.
fn push_tree(
    ensemble: &mut TreeEnsemble,
    growth: Growth,
    splits: usize,
    columns: usize,
    leaves: usize,
    choices: &mut Choices,
) {
    let mut open = std::collections::VecDeque::from([0]);
    let mut nodes = vec![None];
    for _ in 0..splits {
        let place = match growth {
            Growth::Random => choices.below(open.len()),
            Growth::Chain => open.len() - 1 - choices.below(open.len().min(2)),
            Growth::Full => 0,
        };
        let Some(node) = open.remove(place) else { break };
        let left = nodes.len();
        nodes.extend([None, None]);
        open.extend([left, left + 1]);
        let column = choices.below(columns) as u16;
        let threshold = f64::from(choices.number()) + [0.0, 1e-9][choices.below(2)];
        nodes[node] = Some(Node::Split { column, threshold, left, right: left + 1 });
    }
    let leaf = |choices: &mut Choices| match ensemble.aggregation {
        Aggregation::Vote => Node::Class(choices.below(leaves) as u32),
        _ => Node::Value((choices.below(2_000_001) as f64 - 1e6) / 3.0),
    };
    let nodes: Vec<Node> = nodes.into_iter().map(|node| node.unwrap_or_else(|| leaf(choices))).collect();
    ensemble.push_tree(&nodes);
}

fn growth() -> impl Strategy<Value = Growth> {
    prop_oneof![Just(Growth::Random), Just(Growth::Chain), Just(Growth::Full)]
}

fn aggregation() -> impl Strategy<Value = Aggregation> {
    let base = prop_oneof![Just(0.0), Just(-0.0), Just(1.0 / 3.0)];
    prop_oneof![Just(Aggregation::Vote), Just(Aggregation::Mean), base.prop_map(|base| Aggregation::Sum { base })]
}

fn classes() -> impl Strategy<Value = usize> {
    prop_oneof![2..4usize, 2..1_001usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_forest_is_scored_as_the_slow_way_does(
        aggregation in aggregation(),
        classes in classes(),
        columns in prop_oneof![1..4usize, 1..300usize],
        trees in prop::collection::vec((growth(), prop_oneof![0..9usize, 0..130usize]), 1..40),
        rows in prop::collection::vec(0..40usize, 1..4),
        seed in any::<u64>(),
    ) {
        let classes = if aggregation == Aggregation::Vote { classes } else { 0 };
        let mut choices = Choices(seed);
        let mut ensemble = TreeEnsemble::new(aggregation);
        for (growth, splits) in trees {
            push_tree(&mut ensemble, growth, splits, columns, classes.max(1), &mut choices);
        }
        let blocks: Vec<Block> = rows.into_iter().map(|rows| choices.block(rows, columns)).collect();
        assert_same(&ensemble, columns, classes, &blocks);
    }
}

#[test]
fn blocks_of_every_size_up_to_beyond_a_tile() {
    let mut choices = Choices(3);
    let mut ensemble = TreeEnsemble::new(Aggregation::Mean);
    (0..5).for_each(|_| push_tree(&mut ensemble, Growth::Random, 60, 4, 1, &mut choices));
    let blocks: Vec<Block> =
        (0..70).chain(250..275).chain([519, 520, 777]).map(|rows| choices.block(rows, 4)).collect();
    assert_same(&ensemble, 4, 0, &blocks);
}

#[test]
fn a_tree_of_more_nodes_than_two_bytes_count_beside_small_ones() {
    let mut choices = Choices(5);
    let mut ensemble = TreeEnsemble::new(Aggregation::Sum { base: 0.1 });
    for splits in [3, 40_000, 0, 70] {
        push_tree(&mut ensemble, Growth::Random, splits, 9, 1, &mut choices);
    }
    let blocks = [choices.block(1, 9), choices.block(333, 9)];
    assert_same(&ensemble, 9, 0, &blocks);
}

#[test]
fn a_tree_that_fills_two_bytes_exactly_but_one() {
    let mut choices = Choices(6);
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    push_tree(&mut ensemble, Growth::Full, (1 << 15) - 1, 3, 4, &mut choices);
    let blocks = [choices.block(2, 3), choices.block(64, 3)];
    assert_same(&ensemble, 3, 4, &blocks);
}

#[test]
fn the_last_of_the_most_columns_is_compared() {
    let columns = usize::from(LEAF);
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    for column in [LEAF - 1, 0, 40_000] {
        let split = Node::Split { column, threshold: 0.5, left: 1, right: 2 };
        ensemble.push_tree(&[split, Node::Class(0), Node::Class(1)]);
    }
    let mut choices = Choices(7);
    assert_same(&ensemble, columns, 2, &[choices.block(1, columns), choices.block(17, columns)]);
}

/// As many as a narrow node reaches, one more, and as many as there can be.
#[test]
fn every_column_of_many_is_compared() {
    for columns in [8_191, 8_192, usize::from(LEAF)] {
        let mut choices = Choices(8);
        let mut ensemble = TreeEnsemble::new(Aggregation::Mean);
        for first in (0..columns).step_by(255) {
            let split = |index: usize| Node::Split {
                column: (columns - 1 - first).saturating_sub(index) as u16,
                threshold: 0.0,
                left: 2 * index + 1,
                right: 2 * index + 2,
            };
            let leaves = (0..256).map(|leaf| Node::Value(f64::from(leaf)));
            ensemble.push_tree(&(0..255).map(split).chain(leaves).collect::<Vec<_>>());
        }
        assert_same(&ensemble, columns, 0, &[choices.block(1, columns), choices.block(17, columns)]);
    }
}

#[test]
fn deep_chains_and_single_leaves() {
    let mut choices = Choices(9);
    for splits in [0, 1, 7, 8, 9, 60, 4_096] {
        let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
        let split = |index: usize| Node::Split {
            column: (index / 2 % 2) as u16,
            threshold: index as f64,
            left: index + 1,
            right: index + 2,
        };
        // Of each pair of children the right one goes on.
        let chain = |index: usize| match index {
            index if index == 2 * splits => Node::Class(0),
            index if index % 2 == 1 => Node::Class(1 + (index % 3) as u32),
            index => split(index),
        };
        ensemble.push_tree(&(0..=2 * splits).map(chain).collect::<Vec<_>>());
        ensemble.push_tree(&[Node::Class(2)]);
        let mut block = choices.block(19, 2);
        block.push_row().fill(f32::MAX);
        assert_same(&ensemble, 2, 4, &[block]);
    }
}

/// Two splits may share their children, which no library writes and `verify::structure` lets pass: paths by the million,
/// few nodes.
#[test]
fn shared_children_are_no_more_nodes() {
    let levels = 40_u32;
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    let nodes = 2 * levels + 1;
    for node in 0..nodes {
        let child = node.div_ceil(2) * 2 + 1;
        match child < nodes {
            true => ensemble.push_node(0, node as f32, child),
            false => ensemble.push_node(LEAF, 0.0, node % 2),
        }
    }
    ensemble.tree_sizes.push(nodes);
    let blocks = [Choices(10).block(1, 1), Choices(11).block(33, 1)];
    assert_same(&ensemble, 1, 2, &blocks);
    assert_eq!(u32::from(ensemble.height(0..nodes as usize)), levels);
    drop(Kernel::new(ensemble, 2));
}

#[test]
fn nothing_is_allocated_for_a_block_like_the_one_before() {
    let mut choices = Choices(12);
    let mut ensemble = TreeEnsemble::new(Aggregation::Vote);
    (0..20).for_each(|_| push_tree(&mut ensemble, Growth::Random, 60, 4, 3, &mut choices));
    let (model, mut predictions) = (model(ensemble, 4, 3), Predictions::default());
    for block in [choices.block(300, 4), choices.block(1, 4)] {
        model.predict(&block, &mut predictions);
        let places = |predictions: &Predictions| {
            let scratch = &predictions.scratch;
            let buffers = [scratch.tile.as_ptr().cast::<u8>(), scratch.votes.as_ptr().cast()];
            (buffers, predictions.values.as_ptr(), predictions.classes.as_ptr())
        };
        let before = places(&predictions);
        model.predict(&block, &mut predictions);
        assert_eq!(places(&predictions), before);
    }
}
