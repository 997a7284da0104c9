//! Trees and forests.
//!
//! A forest's trees are fitted one by one, each with a seed of its own, on all cores: which core fits a tree does not
//! change it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use smartcore::ensemble::extra_trees_regressor::{ExtraTreesRegressor, ExtraTreesRegressorParameters};
use smartcore::ensemble::random_forest_classifier::{RandomForestClassifier, RandomForestClassifierParameters};
use smartcore::ensemble::random_forest_regressor::{RandomForestRegressor, RandomForestRegressorParameters};
use smartcore::tree::decision_tree_classifier::{
    DecisionTreeClassifier, DecisionTreeClassifierParameters, SplitCriterion,
};
use smartcore::tree::decision_tree_regressor::{DecisionTreeRegressor, DecisionTreeRegressorParameters};
use smartcore::xgboost::{XGRegressor, XGRegressorParameters};

use crate::model::tree_ensemble::{Aggregation, Node};
use crate::model::{Predictor, TreeEnsemble};

use super::super::Error;
use super::super::rng::SplitMix64;
use super::{Criterion, Fit, HyperParameters, Matrix, MaxFeatures, refused};

/// How a regression forest finds its thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Splits {
    /// The best of all, on bootstrap samples.
    Best,
    /// Random ones, on all rows.
    Random,
}

const N_ESTIMATORS: usize = 100;
const BOOSTING_DEPTH: u16 = 3;
const LEARNING_RATE: f64 = 0.1;

pub(super) fn classification_forest(
    fit: &Fit<'_>,
    x: &Matrix,
    classes: usize,
    codes: &[u32],
) -> Result<Predictor, Error> {
    let y = codes.to_vec();
    let hyper = fit.hyper;
    let m = hyper.max_features.unwrap_or(MaxFeatures::Sqrt).of(columns(x));
    let trees = fit_trees(fit, |seed| {
        let parameters = RandomForestClassifierParameters {
            criterion: criterion(hyper),
            max_depth: levels(hyper),
            min_samples_leaf: hyper.min_samples_leaf.unwrap_or(1),
            min_samples_split: hyper.min_samples_split.unwrap_or(2),
            n_trees: 1,
            m: Some(m),
            keep_samples: false,
            seed,
        };
        let forest = RandomForestClassifier::fit(x, &y, parameters).map_err(|error| refused(&error))?;
        let forest: ForestOfClasses = mirrored(&forest)?;
        let tree = forest.trees.into_iter().next().ok_or_else(|| Error::Fit("smartcore fitted no tree".to_owned()))?;
        Ok(class_nodes(&tree.nodes, &forest.classes))
    })?;
    debug_assert!(classes > 1);
    Ok(ensemble(Aggregation::Vote, &trees))
}

pub(super) fn classification_tree(fit: &Fit<'_>, x: &Matrix, codes: &[u32]) -> Result<Predictor, Error> {
    let parameters = DecisionTreeClassifierParameters {
        criterion: criterion(fit.hyper),
        max_depth: levels(fit.hyper),
        min_samples_leaf: fit.hyper.min_samples_leaf.unwrap_or(1),
        min_samples_split: fit.hyper.min_samples_split.unwrap_or(2),
        seed: Some(fit.seed),
    };
    let tree = DecisionTreeClassifier::fit(x, &codes.to_vec(), parameters).map_err(|error| refused(&error))?;
    let tree: TreeOfClasses = mirrored(&tree)?;
    Ok(ensemble(Aggregation::Vote, &[class_nodes(&tree.nodes, &tree.classes)]))
}

pub(super) fn regression_forest(fit: &Fit<'_>, x: &Matrix, values: &[f64], splits: Splits) -> Result<Predictor, Error> {
    let y = values.to_vec();
    let hyper = fit.hyper;
    let m = Some(hyper.max_features.unwrap_or(MaxFeatures::Share(1.0)).of(columns(x)));
    let (max_depth, min_samples_leaf) = (levels(hyper), hyper.min_samples_leaf.unwrap_or(1));
    let min_samples_split = hyper.min_samples_split.unwrap_or(2);
    let (n_trees, keep_samples) = (1, false);
    let trees = fit_trees(fit, |seed| {
        let forest: ForestOfValues = match splits {
            Splits::Best => {
                let parameters = RandomForestRegressorParameters {
                    max_depth,
                    min_samples_leaf,
                    min_samples_split,
                    n_trees,
                    m,
                    keep_samples,
                    seed,
                };
                mirrored(&RandomForestRegressor::fit(x, &y, parameters).map_err(|error| refused(&error))?)?
            }
            Splits::Random => {
                let parameters = ExtraTreesRegressorParameters {
                    max_depth,
                    min_samples_leaf,
                    min_samples_split,
                    n_trees,
                    m,
                    keep_samples,
                    seed,
                };
                mirrored(&ExtraTreesRegressor::fit(x, &y, parameters).map_err(|error| refused(&error))?)?
            }
        };
        let tree = forest.forest_regressor.trees.into_iter().next();
        tree.map(|tree| value_nodes(&tree.nodes)).ok_or_else(|| Error::Fit("smartcore fitted no tree".to_owned()))
    })?;
    Ok(ensemble(Aggregation::Mean, &trees))
}

pub(super) fn regression_tree(fit: &Fit<'_>, x: &Matrix, values: &[f64]) -> Result<Predictor, Error> {
    let parameters = DecisionTreeRegressorParameters {
        max_depth: levels(fit.hyper),
        min_samples_leaf: fit.hyper.min_samples_leaf.unwrap_or(1),
        min_samples_split: fit.hyper.min_samples_split.unwrap_or(2),
        seed: Some(fit.seed),
    };
    let tree = DecisionTreeRegressor::fit(x, &values.to_vec(), parameters).map_err(|error| refused(&error))?;
    let tree: RegressionTree = mirrored(&tree)?;
    Ok(ensemble(Aggregation::Mean, &[value_nodes(&tree.tree_regressor.nodes)]))
}

/// Boosting starts at the mean, as scikit-learn's does, and without XGBoost's penalty on leaves.
pub(super) fn boosting(fit: &Fit<'_>, x: &Matrix, values: &[f64]) -> Result<Predictor, Error> {
    let hyper = fit.hyper;
    let base = values.iter().sum::<f64>() / values.len() as f64;
    let learning_rate = hyper.learning_rate.unwrap_or(LEARNING_RATE);
    let parameters = XGRegressorParameters::default()
        .with_n_estimators(hyper.n_estimators.unwrap_or(N_ESTIMATORS))
        .with_max_depth(hyper.max_depth.unwrap_or(BOOSTING_DEPTH))
        .with_learning_rate(learning_rate)
        .with_subsample(hyper.subsample.unwrap_or(1.0))
        .with_lambda(0.0)
        .with_gamma(0.0)
        .with_base_score(base)
        .with_seed(fit.seed);
    let boosted = XGRegressor::fit(x, &values.to_vec(), parameters).map_err(|error| refused(&error))?;
    let boosted: Boosted = mirrored(&boosted)?;
    let trees: Vec<Vec<Node>> = boosted.regressors.iter().map(|tree| boosted_nodes(tree, learning_rate)).collect();
    Ok(ensemble(Aggregation::Sum { base }, &trees))
}

/// smartcore counts the levels of nodes, scikit-learn those of splits.
fn levels(hyper: &HyperParameters) -> Option<u16> {
    hyper.max_depth.map(|depth| depth.saturating_add(1))
}

fn columns(x: &Matrix) -> usize {
    use smartcore::linalg::basic::arrays::Array as _;
    x.shape().1
}

fn criterion(hyper: &HyperParameters) -> SplitCriterion {
    match hyper.criterion {
        None | Some(Criterion::Gini) => SplitCriterion::Gini,
        Some(Criterion::Entropy) => SplitCriterion::Entropy,
    }
}

fn ensemble(aggregation: Aggregation, trees: &[Vec<Node>]) -> Predictor {
    let mut ensemble = TreeEnsemble::new(aggregation);
    trees.iter().for_each(|tree| ensemble.push_tree(tree));
    Predictor::TreeEnsemble(ensemble)
}

/// A tree's place, until it is fitted.
type Fitted = Option<Result<Vec<Node>, Error>>;

/// Fits `n_estimators` trees on all threads, each with the seed of its place.
fn fit_trees(fit: &Fit<'_>, fit_one: impl Fn(u64) -> Result<Vec<Node>, Error> + Sync) -> Result<Vec<Vec<Node>>, Error> {
    let count = fit.hyper.n_estimators.unwrap_or(N_ESTIMATORS);
    let mut seeds = SplitMix64::new(fit.seed);
    let seeds: Vec<u64> = (0..count).map(|_| seeds.next_u64()).collect();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fitted: Mutex<Vec<Fitted>> = Mutex::new((0..count).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..fit.threads.clamp(1, count) {
            scope.spawn(|| {
                while let Some((index, seed)) = take_next(&next, &seeds) {
                    let tree = fit_one(seed);
                    fitted.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(tree);
                    (fit.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                }
            });
        }
    });
    let fitted = fitted.into_inner().unwrap_or_else(PoisonError::into_inner);
    fitted.into_iter().map(|tree| tree.unwrap_or_else(|| Err(Error::Fit("a tree was not fitted".to_owned())))).collect()
}

fn take_next(next: &AtomicUsize, seeds: &[u64]) -> Option<(usize, u64)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    seeds.get(index).map(|seed| (index, *seed))
}

/// Reads private fields through serde. JSON keeps every finite `f64` to the bit.
fn mirrored<M: for<'de> Deserialize<'de>>(model: &impl Serialize) -> Result<M, Error> {
    let unreadable = |error: serde_json::Error| Error::Fit(format!("smartcore's model cannot be read: {error}"));
    let json = serde_json::to_vec(model).map_err(unreadable)?;
    serde_json::from_slice(&json).map_err(unreadable)
}

#[derive(Deserialize)]
struct ForestOfClasses {
    trees: Vec<ClassTree>,
    classes: Vec<u32>,
}

#[derive(Deserialize)]
struct ClassTree {
    nodes: Vec<TreeNode<usize>>,
}

#[derive(Deserialize)]
struct TreeOfClasses {
    nodes: Vec<TreeNode<usize>>,
    classes: Vec<u32>,
}

#[derive(Deserialize)]
struct ForestOfValues {
    forest_regressor: ValueTrees,
}

#[derive(Deserialize)]
struct ValueTrees {
    trees: Vec<ValueTree>,
}

#[derive(Deserialize)]
struct RegressionTree {
    tree_regressor: ValueTree,
}

#[derive(Deserialize)]
struct ValueTree {
    nodes: Vec<TreeNode<f64>>,
}

#[derive(Deserialize)]
struct TreeNode<Output> {
    output: Output,
    split_feature: u16,
    split_value: Option<f64>,
    true_child: Option<usize>,
    false_child: Option<usize>,
}

impl<Output> TreeNode<Output> {
    /// smartcore goes to `true_child` where `value <= split_value`, and stops at a node without children.
    fn split(&self) -> Option<Node> {
        let (left, right, threshold) = (self.true_child?, self.false_child?, self.split_value?);
        Some(Node::Split { column: self.split_feature, threshold, left, right })
    }
}

fn class_nodes(nodes: &[TreeNode<usize>], classes: &[u32]) -> Vec<Node> {
    let node = |node: &TreeNode<usize>| node.split().unwrap_or(Node::Class(classes[node.output]));
    nodes.iter().map(node).collect()
}

fn value_nodes(nodes: &[TreeNode<f64>]) -> Vec<Node> {
    nodes.iter().map(|node| node.split().unwrap_or(Node::Value(node.output))).collect()
}

#[derive(Deserialize)]
struct Boosted {
    regressors: Vec<BoostedTree>,
}

#[derive(Deserialize)]
struct BoostedTree {
    left: Option<Box<BoostedTree>>,
    right: Option<Box<BoostedTree>>,
    threshold: f64,
    /// `usize::MAX` in a leaf.
    split_feature_idx: usize,
    value: f64,
}

/// The tree's nodes with the learning rate in the leaves.
fn boosted_nodes(root: &BoostedTree, learning_rate: f64) -> Vec<Node> {
    let mut queue = vec![root];
    let mut nodes = Vec::new();
    let mut next = 0;
    while let Some(tree) = queue.get(next).copied() {
        nodes.push(match (&tree.left, &tree.right) {
            (Some(left), Some(right)) => {
                let position = queue.len();
                queue.extend([left.as_ref(), right.as_ref()]);
                let (column, threshold) = (tree.split_feature_idx as u16, tree.threshold);
                Node::Split { column, threshold, left: position, right: position + 1 }
            }
            _ => Node::Value(learning_rate * tree.value),
        });
        next += 1;
    }
    nodes
}

#[cfg(test)]
#[path = "oracle.rs"]
mod oracle;
