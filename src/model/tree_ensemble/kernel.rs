//! A forest as it is scored: compiled once, when a model is loaded.
//!
//! A walk down a tree is a chain of loads, each of which waits for the one before it. So sixteen walks are always under way
//! at once: sixteen rows down one tree where there are that many rows, sixteen trees for one row where there are few.
//! Nothing in a walk is a branch that could be guessed wrongly: a step is `child + (value > threshold)`, and a leaf is a node
//! that leads to itself, so that all sixteen take the same number of steps. That number is the tree's height; a tree of more
//! than [`STRIDE`] levels is left as soon as all sixteen stand at leaves. So a row visits of a tree at most as many nodes as the
//! longest path of its sixteen has, and [`STRIDE`] more.
//!
//! A node takes 8 bytes ([`Narrow`]), or 12 in a forest too large for that ([`Wide`]); its place in its tree is the artifact's,
//! whose arrays are freed while it is compiled, and of which only the leaves' values stay. Numbers are compared as unsigned integers of the same order ([`key`]), because the processor adds
//! the result of that to the child in one instruction. Rows are transposed, sixteen at a time and only the columns that the
//! forest compares, into a tile that stays in cache while every tree passes over it. Leaves are added up in the order
//! of the trees, which makes a sum of `f64` the same in a block as alone.
//!
//! What else was tried, on one core of a small cloud machine, 100 fitted trees of depth 8 with 28 columns in blocks of 256 rows, where this
//! walk makes 2.0 to 2.1 million rows a second and a prototype of it alone 2.3 to 2.4: of the prototype's kin, comparing as `f32`, 2.1; eight walks at once, 2.2, and four, 1.4; a full first three levels
//! by vectors for all sixteen rows (as QuickScorer does), 2.2 to 2.6, and five levels, 1.8 to 1.9, with AVX2 2.7 and with AVX-512 2.7;
//! levels padded to a heap, so that no child is stored, 2.2 and for 500 trees of depth 12 slower; tiles of 64 rows instead
//! of 256, 10 to 20 % slower for that forest, which no longer fits the second-level cache. Counting votes by comparing
//! all leaves with each class is no quicker either. A tenth is not worth a second walk beside this one.

use super::{Aggregation, LEAF, TreeEnsemble};
use crate::model::{Block, Pieces, Predictions, Scratch};

/// How many walks are under way at once.
pub(in crate::model) const WALKS: usize = 16;
/// From how many rows on it is quicker to walk them down each tree together, even if there are fewer than [`WALKS`].
const GROUP_ROWS_MIN: usize = 8;
/// How many groups of [`WALKS`] rows pass each tree before the next tree is fetched, at most: more would leave the first-level
/// cache, fewer would fetch a large forest from memory more often.
const TILE_GROUPS_MAX: usize = 16;
/// How large a tile and its votes may be, unless one group is larger: half of a small second-level cache.
const TILE_BYTES_MAX: usize = 256 << 10;
/// After how many steps a walk looks whether all of them stand at leaves.
const STRIDE: u32 = 8;

/// A forest, compiled.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Kernel {
    aggregation: Aggregation,
    /// The rows of [`Scratch::votes`] of a group: the classes of a vote.
    classes: usize,
    leaf_values: Pieces<f64>,
    /// The columns that some node compares, in the order in which they stand in a tile.
    columns: Vec<u16>,
    trees: Trees,
}

/// All of one kind.
#[derive(Debug, Clone, PartialEq)]
enum Trees {
    Narrow(Vec<Tree<Narrow>>),
    Wide(Vec<Tree<Wide>>),
}

/// A tree, which has its nodes to itself: so they take the memory that the arrays of the trees before it had.
#[derive(Debug, Clone, PartialEq)]
struct Tree<N> {
    nodes: Vec<N>,
    /// How many steps the longest walk takes.
    height: u32,
}

/// A split, or a leaf: then the column is the one behind the last, where every row has 0, the child is the node itself, and the
/// threshold holds the class or the index of the value.
trait Node {
    fn new(threshold: u32, column: usize, child: u32) -> Self;
    fn threshold(&self) -> u32;
    /// Where the column's keys begin in a tile.
    fn keys(&self) -> usize;
    /// The place of the left child in its tree; the right one follows.
    fn child(&self) -> usize;
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Narrow {
    threshold: u32,
    /// The child, above where the column's keys begin: one load for both. The beginning is halved, which an address
    /// with its scale undoes for nothing, so that it fits for [`Narrow::COLUMNS_MAX`] columns.
    places: u32,
}

impl Narrow {
    const NODES_MAX: u32 = 1 << 16;
    const COLUMNS_MAX: usize = (1 << 16) / (WALKS / 2);
}

impl Node for Narrow {
    fn new(threshold: u32, column: usize, child: u32) -> Narrow {
        Narrow { threshold, places: child << 16 | (column * WALKS / 2) as u32 }
    }

    fn threshold(&self) -> u32 {
        self.threshold
    }

    fn keys(&self) -> usize {
        (self.places & 0xffff) as usize * 2
    }

    fn child(&self) -> usize {
        (self.places >> 16) as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Wide {
    threshold: u32,
    keys: u32,
    child: u32,
}

impl Node for Wide {
    fn new(threshold: u32, column: usize, child: u32) -> Wide {
        Wide { threshold, keys: (column * WALKS) as u32, child }
    }

    fn threshold(&self) -> u32 {
        self.threshold
    }

    fn keys(&self) -> usize {
        self.keys as usize
    }

    fn child(&self) -> usize {
        self.child as usize
    }
}

/// An unsigned integer that is ordered as the number is; -0 is 0. Integers are compared in one cycle, and the result is added
/// without a detour.
fn key(number: f32) -> u32 {
    let bits = (number + 0.0).to_bits();
    let negative = (bits.cast_signed() >> 31).cast_unsigned();
    bits ^ (negative | 1 << 31)
}

impl Kernel {
    /// Compiles trees that [`crate::model::verify::structure`] found sound for `outputs` outputs of a row. The arrays are freed
    /// piece by piece on the way, so that a large forest is not in memory twice.
    pub(in crate::model) fn new(ensemble: TreeEnsemble, outputs: usize) -> Kernel {
        let largest = ensemble.tree_sizes.iter().copied().max().unwrap_or(0);
        let columns = compared_columns(&ensemble.features);
        let mut first = 0;
        let shape = |size: &u32| {
            let nodes = first..first + *size as usize;
            first = nodes.end;
            (nodes.len(), u32::from(ensemble.height(nodes)))
        };
        let shapes: Vec<(usize, u32)> = ensemble.tree_sizes.iter().map(shape).collect();
        let TreeEnsemble { aggregation, features, thresholds, children, leaf_values, .. } = ensemble;
        let classes = if aggregation == Aggregation::Vote { outputs } else { 0 };
        let nodes = features.into_iter().zip(thresholds).zip(children);
        let trees = match largest <= Narrow::NODES_MAX && columns.len() < Narrow::COLUMNS_MAX {
            true => Trees::Narrow(compile(&shapes, nodes, &columns)),
            false => Trees::Wide(compile(&shapes, nodes, &columns)),
        };
        Kernel { aggregation, classes, leaf_values, columns, trees }
    }

    pub(in crate::model) fn predict(&self, block: &Block, scratch: &mut Scratch, predictions: &mut Predictions) {
        match &self.trees {
            Trees::Narrow(trees) => self.predict_with(trees, block, scratch, predictions),
            Trees::Wide(trees) => self.predict_with(trees, block, scratch, predictions),
        }
    }

    fn predict_with<N: Node>(
        &self,
        trees: &[Tree<N>],
        block: &Block,
        scratch: &mut Scratch,
        predictions: &mut Predictions,
    ) {
        let group_bytes = size_of::<u32>() * (self.group_keys() + WALKS * self.classes);
        let tile_rows = WALKS * (TILE_BYTES_MAX / group_bytes).clamp(1, TILE_GROUPS_MAX);
        let mut first = 0;
        while block.rows() - first >= GROUP_ROWS_MIN {
            let rest = block.rows() - first;
            let few = rest % WALKS;
            let rows = tile_rows.min(if few < GROUP_ROWS_MIN { rest - few } else { rest });
            self.predict_tile(trees, block, first, rows, scratch, predictions);
            first += rows;
        }
        for row in first..block.rows() {
            self.predict_row(trees, block.row(row), scratch, predictions);
        }
    }

    /// Scores `rows` rows from `first` on, in groups that pass tree after tree.
    fn predict_tile<N: Node>(
        &self,
        trees: &[Tree<N>],
        block: &Block,
        first: usize,
        rows: usize,
        scratch: &mut Scratch,
        predictions: &mut Predictions,
    ) {
        let groups = rows.div_ceil(WALKS);
        self.begin(groups, scratch);
        for row in 0..rows {
            self.transpose(block.row(first + row), scratch, row);
        }
        let Scratch { tile, votes, sums, .. } = scratch;
        for tree in trees {
            for (group, tile) in tile.chunks_exact(self.group_keys()).enumerate() {
                let leaves = walk_rows(&tree.nodes, tree.height, tile);
                match self.aggregation {
                    Aggregation::Vote => {
                        let votes = &mut votes[group * self.classes..][..self.classes];
                        leaves.iter().enumerate().for_each(|(walk, class)| votes[*class as usize][walk] += 1);
                    }
                    Aggregation::Mean | Aggregation::Sum { .. } => {
                        let values = leaves.map(|leaf| self.leaf_values[leaf as usize]);
                        sums[group].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        }
        for group in 0..groups {
            self.end(trees.len(), group, WALKS.min(rows - group * WALKS), scratch, predictions);
        }
    }

    /// Scores one row, which passes [`WALKS`] trees at a time.
    fn predict_row<N: Node>(
        &self,
        trees: &[Tree<N>],
        row: &[f32],
        scratch: &mut Scratch,
        predictions: &mut Predictions,
    ) {
        self.begin(1, scratch);
        self.transpose(row, scratch, 0);
        let Scratch { tile, votes, sums, .. } = scratch;
        for trees in trees.chunks(WALKS) {
            let leaves = walk_trees(trees, tile);
            let leaves = leaves[..trees.len()].iter().map(|leaf| *leaf as usize);
            match self.aggregation {
                Aggregation::Vote => leaves.for_each(|class| votes[class][0] += 1),
                Aggregation::Mean | Aggregation::Sum { .. } => {
                    leaves.for_each(|leaf| sums[0][0] += self.leaf_values[leaf]);
                }
            }
        }
        self.end(trees.len(), 0, 1, scratch, predictions);
    }

    /// How many keys the tile of a group has.
    fn group_keys(&self) -> usize {
        (self.columns.len() + 1) * WALKS
    }

    /// Writes the columns of a row into its walk of its group's tile.
    fn transpose(&self, values: &[f32], scratch: &mut Scratch, row: usize) {
        let tile = &mut scratch.tile[row / WALKS * self.group_keys()..][..self.group_keys()];
        for (keys, column) in tile.chunks_exact_mut(WALKS).zip(&self.columns) {
            keys[row % WALKS] = key(values[usize::from(*column)]);
        }
        tile[self.columns.len() * WALKS + row % WALKS] = 0;
    }

    /// Begins to count the votes, or to sum the leaves, of `groups` groups.
    fn begin(&self, groups: usize, scratch: &mut Scratch) {
        let start = match self.aggregation {
            Aggregation::Vote | Aggregation::Mean => 0.0,
            Aggregation::Sum { base } => base,
        };
        scratch.tile.resize(groups * self.group_keys(), 0);
        scratch.votes.clear();
        scratch.votes.resize(groups * self.classes, [0; WALKS]);
        scratch.sums.clear();
        scratch.sums.resize(groups, [start; WALKS]);
    }

    /// Turns what `trees` trees said of the first `rows` rows of a group into predictions.
    fn end(&self, trees: usize, group: usize, rows: usize, scratch: &Scratch, predictions: &mut Predictions) {
        let trees = trees as f64;
        let sums = &scratch.sums[group][..rows];
        match self.aggregation {
            Aggregation::Vote => {
                push_votes(&scratch.votes[group * self.classes..][..self.classes], rows, trees, predictions);
            }
            Aggregation::Mean => sums.iter().for_each(|sum| predictions.push_value(sum / trees)),
            Aggregation::Sum { .. } => sums.iter().for_each(|sum| predictions.push_value(*sum)),
        }
    }
}

/// Appends the first `rows` rows of a group: each class's share of the votes, and the class with the most, the first of equals.
/// Of many classes most have no vote in all the group, and cost one look.
fn push_votes(group: &[[u32; WALKS]], rows: usize, trees: f64, predictions: &mut Predictions) {
    let classes = group.len();
    let first = predictions.values.len();
    predictions.values.resize(first + rows * classes, 0.0);
    let shares = &mut predictions.values[first..];
    let (mut most, mut winners) = ([0; WALKS], [0; WALKS]);
    for (class, votes) in group.iter().enumerate().filter(|(_, votes)| **votes != [0; WALKS]) {
        for walk in 0..rows {
            shares[walk * classes + class] = f64::from(votes[walk]) / trees;
            if votes[walk] > most[walk] {
                (most[walk], winners[walk]) = (votes[walk], class as u32);
            }
        }
    }
    predictions.classes.extend_from_slice(&winners[..rows]);
}

/// The columns that some node compares, in ascending order.
fn compared_columns(features: &Pieces<u16>) -> Vec<u16> {
    let mut compared = vec![false; usize::from(LEAF)];
    features.iter().filter(|feature| **feature != LEAF).for_each(|feature| compared[usize::from(*feature)] = true);
    (0..LEAF).filter(|column| compared[usize::from(*column)]).collect()
}

/// Compiles trees of so many nodes and such a height, out of the column, the threshold and the child of each node of all.
fn compile<N: Node>(
    shapes: &[(usize, u32)],
    mut nodes: impl Iterator<Item = ((u16, f32), u32)>,
    columns: &[u16],
) -> Vec<Tree<N>> {
    let mut places = vec![0; usize::from(LEAF)];
    columns.iter().enumerate().for_each(|(place, column)| places[usize::from(*column)] = place);
    let node = |(((feature, threshold), child), position)| match feature {
        LEAF => N::new(child, columns.len(), position),
        _ => N::new(key(threshold), places[usize::from(feature)], child),
    };
    let tree = |(size, height): &(usize, u32)| {
        let mut tree = Tree { nodes: Vec::with_capacity(*size), height: *height };
        tree.nodes.extend(nodes.by_ref().take(*size).zip(0..).map(node));
        tree
    };
    shapes.iter().map(tree).collect()
}

/// Walks the rows of a group down one tree; what their leaves hold.
fn walk_rows<N: Node>(tree: &[N], height: u32, tile: &[u32]) -> [u32; WALKS] {
    let mut at = [0; WALKS];
    let mut left = height;
    loop {
        for _ in 0..left.min(STRIDE) {
            for (walk, at) in at.iter_mut().enumerate() {
                // SAFETY: `at` is 0 or came from the tree: `verify::structure` found each child of a split and the node behind
                // it within the tree, and of a leaf `compile` made the child the leaf itself, whose comparison with 0 adds
                // nothing. A column is one of those that are compared, or the one behind them; `tile` has all of these.
                let (node, value) = unsafe {
                    let node = tree.get_unchecked(*at);
                    (node, *tile.get_unchecked(node.keys() + walk))
                };
                *at = node.child() + usize::from(value > node.threshold());
            }
        }
        left -= left.min(STRIDE);
        if left == 0 || at.iter().all(|at| tree[*at].keys() + WALKS == tile.len()) {
            // SAFETY: as above.
            return at.map(|at| unsafe { tree.get_unchecked(at) }.threshold());
        }
    }
}

/// Walks a row, the first of a tile, down up to [`WALKS`] trees; what its leaves hold. There is a first tree.
fn walk_trees<N: Node>(trees: &[Tree<N>], tile: &[u32]) -> [u32; WALKS] {
    let mut firsts = [trees[0].nodes.as_ptr(); WALKS];
    firsts.iter_mut().zip(trees).for_each(|(first, tree)| *first = tree.nodes.as_ptr());
    let mut at = [0; WALKS];
    let mut left = trees.iter().map(|tree| tree.height).max().unwrap_or(0);
    // SAFETY: as in `walk_rows`: a tree has a first node, and a node's children are in its tree. Walks without a tree go down the
    // first one.
    let node = |walk: usize, at: usize| unsafe { &*firsts[walk].add(at) };
    loop {
        for _ in 0..left.min(STRIDE) {
            for (walk, at) in at.iter_mut().enumerate() {
                let node = node(walk, *at);
                // SAFETY: as in `walk_rows`.
                let value = unsafe { *tile.get_unchecked(node.keys()) };
                *at = node.child() + usize::from(value > node.threshold());
            }
        }
        left -= left.min(STRIDE);
        if left == 0 || at.iter().enumerate().all(|(walk, at)| node(walk, *at).keys() + WALKS == tile.len()) {
            let mut leaves = [0; WALKS];
            leaves.iter_mut().zip(at).enumerate().for_each(|(walk, (leaf, at))| *leaf = node(walk, at).threshold());
            return leaves;
        }
    }
}
