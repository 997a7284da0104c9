//! Decision trees that vote, or whose leaves are averaged or summed.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Pieces, avro};

pub(super) mod kernel;
#[cfg(test)]
mod oracle;

/// In [`TreeEnsemble::features`]: this node is a leaf.
pub const LEAF: u16 = u16::MAX;

/// A forest as parallel arrays over all nodes of all trees, tree after tree; in pieces, which are freed while it is
/// compiled.
///
/// Within a tree the root is node 0, nodes stand in breadth-first order, and the right child follows the left one.
/// A row goes left where `value <= threshold`. Thresholds were rounded toward minus infinity to `f32`, so that comparing
/// `f32` features gives the answer that `f64` thresholds would give.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TreeEnsemble {
    /// How the leaves become a prediction.
    pub aggregation: Aggregation,
    /// The number of nodes of each tree; their sum is the length of the node arrays.
    #[serde(with = "avro::u32_bytes")]
    pub tree_sizes: Vec<u32>,
    /// A node's column, or [`LEAF`].
    #[serde(with = "avro::u16_bytes")]
    pub features: Pieces<u16>,
    /// A node's threshold; 0 in a leaf.
    #[serde(with = "avro::f32_bytes")]
    pub thresholds: Pieces<f32>,
    /// Of a split: the left child's position within its tree. Of a leaf: the class (vote), else the index into `leaf_values`.
    #[serde(with = "avro::u32_bytes")]
    pub children: Pieces<u32>,
    /// The values of leaves, where the leaves hold numbers; empty for a vote.
    #[serde(with = "avro::f64_bytes")]
    pub leaf_values: Pieces<f64>,
}

/// How the leaves that a row reaches become its prediction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub enum Aggregation {
    /// Each tree votes for a class; a class's probability is its share of the votes.
    #[default]
    Vote,
    /// The mean of the leaves (a regression forest).
    Mean,
    /// `base` plus the sum of the leaves (boosting; the learning rate is part of the leaves).
    Sum {
        /// The prediction before the first tree.
        base: f64,
    },
}

/// A node as a fitting library has it; input of [`TreeEnsemble::push_tree`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    /// Left where `value <= threshold`.
    Split {
        /// The column that is compared.
        column: u16,
        /// The threshold.
        threshold: f64,
        /// The left child's position in the library's own order.
        left: usize,
        /// The right child's.
        right: usize,
    },
    /// A vote for a class.
    Class(u32),
    /// A number.
    Value(f64),
}

impl TreeEnsemble {
    /// A forest without trees.
    pub fn new(aggregation: Aggregation) -> TreeEnsemble {
        TreeEnsemble { aggregation, ..TreeEnsemble::default() }
    }

    /// Appends a tree, given its `nodes` in any order with the root first, in this format's order.
    pub fn push_tree(&mut self, nodes: &[Node]) {
        let mut order = vec![0];
        let mut next = 0;
        while next < order.len() {
            match nodes[order[next]] {
                Node::Split { column, threshold, left, right } => {
                    self.push_node(column, round_down(threshold), order.len() as u32);
                    order.extend([left, right]);
                }
                Node::Class(class) => self.push_node(LEAF, 0.0, class),
                Node::Value(value) => {
                    self.push_node(LEAF, 0.0, self.leaf_values.len() as u32);
                    self.leaf_values.push(value);
                }
            }
            next += 1;
        }
        self.tree_sizes.push(order.len() as u32);
    }

    fn push_node(&mut self, feature: u16, threshold: f32, child: u32) {
        self.features.push(feature);
        self.thresholds.push(threshold);
        self.children.push(child);
    }

    /// The number of trees.
    pub fn trees(&self) -> usize {
        self.tree_sizes.len()
    }

    /// The number of nodes of all trees.
    pub fn nodes(&self) -> usize {
        self.features.len()
    }

    /// How many steps the longest walk from the first of a tree's `nodes` takes, as far as 16 bits count; children stand behind
    /// their parent.
    pub(super) fn height(&self, nodes: Range<usize>) -> u16 {
        let mut heights = vec![0_u16; nodes.len()];
        for position in (0..nodes.len()).rev() {
            let node = nodes.start + position;
            if self.features[node] != LEAF {
                let left = self.children[node] as usize;
                heights[position] = heights[left].max(heights[left + 1]).saturating_add(1);
            }
        }
        heights[0]
    }
}

/// The largest `f32` that is not above `threshold`: `x <= round_down(t)` equals `f64::from(x) <= t` for every `f32` x.
pub fn round_down(threshold: f64) -> f32 {
    let nearest = threshold as f32;
    if f64::from(nearest) > threshold { nearest.next_down() } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_down_keeps_every_comparison() {
        for threshold in [0.1, -0.1, 1.0 / 3.0, 5.05, 1e-40, -1e-40, 16_777_217.0, 0.0] {
            let rounded = round_down(threshold);
            let around = [rounded.next_down(), rounded, rounded.next_up()];
            for x in around {
                assert_eq!(x <= rounded, f64::from(x) <= threshold, "{x} against {threshold}");
            }
        }
    }

    #[test]
    fn a_tree_in_any_order_becomes_breadth_first_with_siblings_adjacent() {
        // The library put the left subtree's nodes before the right child.
        let nodes = [
            Node::Split { column: 0, threshold: 0.0, left: 1, right: 4 },
            Node::Split { column: 1, threshold: 0.0, left: 2, right: 3 },
            Node::Class(0),
            Node::Class(1),
            Node::Class(2),
        ];
        let mut trees = TreeEnsemble::new(Aggregation::Vote);
        trees.push_tree(&nodes);
        assert!(trees.features.iter().eq(&[0, 1, LEAF, LEAF, LEAF]));
        assert!(trees.children.iter().eq(&[1, 3, 2, 0, 1]));
    }
}
