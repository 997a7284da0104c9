//! Our predictors say what smartcore's say: classes identical, values within 1e-6, on tables of several shapes.

use smartcore::linalg::basic::arrays::Array as _;
use smartcore::linear::linear_regression::{LinearRegression, LinearRegressionParameters};
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};
use smartcore::naive_bayes::gaussian::{GaussianNB, GaussianNBParameters};

use super::super::super::dataset::Targets;
use super::super::super::rng::SplitMix64;
use super::super::linear::Standardised;
use super::super::{Algorithm, Fit, HyperParameters, matrix};
use super::*;
use crate::model::signature::{Feature, FeatureKind, Signature, Target};
use crate::model::{Block, Model, Predictions};

const ROWS: usize = 120;
const CLOSE: f64 = 1e-6;

struct Table {
    block: Block,
    codes: Vec<u32>,
    values: Vec<f64>,
    classes: usize,
}

/// Random features on a coarse grid, so that values stand exactly on thresholds, too.
fn table(columns: usize, classes: usize, seed: u64) -> Table {
    let mut rng = SplitMix64::new(seed);
    let mut block = Block::new(columns);
    for row in 0..ROWS {
        let shift = (row % classes) as f32;
        block.push_row().iter_mut().for_each(|value| *value = (rng.next_u64() % 64) as f32 / 8.0 + shift);
    }
    let codes: Vec<u32> = (0..ROWS).map(|row| (row % classes) as u32).collect();
    let values = block.iter().map(|row| row.iter().map(|value| f64::from(*value)).sum::<f64>().sin() * 10.0).collect();
    Table { block, codes, values, classes }
}

fn shapes() -> Vec<Table> {
    let mut shapes = Vec::new();
    for (columns, classes) in [(1, 2), (1, 10), (50, 2), (50, 10), (4, 3)] {
        shapes.push(table(columns, classes, (columns * 100 + classes) as u64));
    }
    shapes
}

fn model(table: &Table, predictor: Predictor, classification: bool) -> Model {
    let feature = |index| Feature { name: format!("x{index}"), kind: FeatureKind::Numeric { fill: None } };
    let classes =
        if classification { (0..table.classes).map(|class| format!("k{class}")).collect() } else { Vec::new() };
    let features = (0..table.block.columns()).map(feature).collect();
    Model::new(Signature { features, target: Target { name: "y".into(), classes } }, predictor).expect("sound")
}

fn fit(table: &Table, algorithm: Algorithm, hyper: &HyperParameters, classification: bool) -> Predictions {
    let targets = match classification {
        true => Targets::Classes {
            labels: (0..table.classes).map(|class| format!("k{class}")).collect(),
            codes: table.codes.clone(),
        },
        false => Targets::Values(table.values.clone()),
    };
    let fit = Fit { algorithm, hyper, seed: 7, threads: 2, progress: &|_, _| {} };
    predictions(table, fit.run(&table.block, &targets).expect("it can be fitted"), classification)
}

fn predictions(table: &Table, predictor: Predictor, classification: bool) -> Predictions {
    let mut predictions = Predictions::default();
    model(table, predictor, classification).predict(&table.block, &mut predictions);
    predictions
}

fn assert_classes(predictions: &Predictions, expected: &[u32]) {
    for (row, class) in expected.iter().enumerate() {
        assert_eq!(predictions.class(row), Some(*class as usize), "row {row}");
        let sum: f64 = predictions.outputs(row).iter().sum();
        assert!((sum - 1.0).abs() < CLOSE, "the probabilities of row {row} add up to {sum}");
    }
}

fn assert_values(predictions: &Predictions, expected: &[f64]) {
    for (row, value) in expected.iter().enumerate() {
        let ours = predictions.outputs(row)[0];
        assert!((ours - value).abs() <= CLOSE * value.abs().max(1.0), "row {row}: {ours}, smartcore says {value}");
    }
}

fn seeds(count: usize) -> Vec<u64> {
    let mut seeds = SplitMix64::new(7);
    (0..count).map(|_| seeds.next_u64()).collect()
}

#[test]
fn forests_of_classes_vote_as_smartcores_trees_do() {
    for table in shapes() {
        for trees in [1, 200] {
            let x = matrix(&table.block);
            let mut votes = vec![vec![0_u32; table.classes]; ROWS];
            for seed in seeds(trees) {
                let parameters = RandomForestClassifierParameters::default()
                    .with_n_trees(1)
                    .with_m((table.block.columns() as f64).sqrt() as usize)
                    .with_seed(seed);
                let forest = RandomForestClassifier::fit(&x, &table.codes, parameters).expect("fitted");
                let predicted: Vec<u32> = forest.predict(&x).expect("predicted");
                predicted.iter().zip(&mut votes).for_each(|(class, votes)| votes[*class as usize] += 1);
            }
            let hyper = HyperParameters { n_estimators: Some(trees), ..HyperParameters::default() };
            let ours = fit(&table, Algorithm::RandomForest, &hyper, true);
            for (row, votes) in votes.iter().enumerate() {
                let shares: Vec<f64> = votes.iter().map(|count| f64::from(*count) / trees as f64).collect();
                assert_eq!(ours.outputs(row), shares);
            }
        }
    }
}

#[test]
fn a_tree_of_classes_and_a_one_leaf_tree() {
    for table in shapes() {
        let x = matrix(&table.block);
        for (max_depth, smartcores) in [(None, None), (Some(2), Some(3))] {
            let parameters =
                DecisionTreeClassifierParameters { max_depth: smartcores, seed: Some(7), ..Default::default() };
            let tree = DecisionTreeClassifier::fit(&x, &table.codes, parameters).expect("fitted");
            let expected: Vec<u32> = tree.predict(&x).expect("predicted");
            let hyper = HyperParameters { max_depth, ..HyperParameters::default() };
            assert_classes(&fit(&table, Algorithm::DecisionTree, &hyper, true), &expected);
        }
        let leaf = HyperParameters { min_samples_split: Some(ROWS + 1), ..HyperParameters::default() };
        let ours = fit(&table, Algorithm::DecisionTree, &leaf, true);
        assert!((1..ROWS).all(|row| ours.outputs(row) == ours.outputs(0)), "one leaf says one thing");
    }
}

#[test]
fn forests_of_values_average_as_smartcores_trees_do() {
    for table in shapes() {
        let x = matrix(&table.block);
        let columns = table.block.columns();
        for trees in [1, 20] {
            let (mut forest, mut extra) = (vec![0.0; ROWS], vec![0.0; ROWS]);
            let add = |sums: &mut Vec<f64>, predicted: Vec<f64>| {
                sums.iter_mut().zip(predicted).for_each(|(sum, value)| *sum += value / trees as f64);
            };
            for seed in seeds(trees) {
                let parameters =
                    RandomForestRegressorParameters::default().with_n_trees(1).with_m(columns).with_seed(seed);
                let fitted = RandomForestRegressor::fit(&x, &table.values, parameters).expect("fitted");
                add(&mut forest, fitted.predict(&x).expect("predicted"));
                let parameters =
                    ExtraTreesRegressorParameters::default().with_n_trees(1).with_m(columns).with_seed(seed);
                let fitted = ExtraTreesRegressor::fit(&x, &table.values, parameters).expect("fitted");
                add(&mut extra, fitted.predict(&x).expect("predicted"));
            }
            let hyper = HyperParameters { n_estimators: Some(trees), ..HyperParameters::default() };
            assert_values(&fit(&table, Algorithm::RandomForest, &hyper, false), &forest);
            assert_values(&fit(&table, Algorithm::ExtraTrees, &hyper, false), &extra);
        }
    }
}

#[test]
fn a_tree_of_values() {
    for table in shapes() {
        let x = matrix(&table.block);
        let parameters = DecisionTreeRegressorParameters { seed: Some(7), ..Default::default() };
        let tree = DecisionTreeRegressor::fit(&x, &table.values, parameters).expect("fitted");
        let expected: Vec<f64> = tree.predict(&x).expect("predicted");
        assert_values(&fit(&table, Algorithm::DecisionTree, &HyperParameters::default(), false), &expected);
    }
}

#[test]
fn boosting_sums_as_smartcore_does() {
    for table in shapes() {
        let x = matrix(&table.block);
        for rounds in [1, 50] {
            let base = table.values.iter().sum::<f64>() / ROWS as f64;
            let parameters = XGRegressorParameters::default()
                .with_n_estimators(rounds)
                .with_max_depth(3)
                .with_learning_rate(0.1)
                .with_lambda(0.0)
                .with_gamma(0.0)
                .with_base_score(base)
                .with_seed(7);
            let boosted = XGRegressor::fit(&x, &table.values, parameters).expect("fitted");
            let expected: Vec<f64> = boosted.predict(&x).expect("predicted");
            let hyper = HyperParameters { n_estimators: Some(rounds), ..HyperParameters::default() };
            assert_values(&fit(&table, Algorithm::GradientBoosting, &hyper, false), &expected);
        }
    }
}

#[test]
fn logistic_regression_on_the_columns_as_they_are_says_what_smartcore_says_on_standardised_ones() {
    for table in shapes() {
        let standardised = Standardised::new(&table.block).matrix();
        let parameters = LogisticRegressionParameters::default().with_alpha(1.0);
        let fitted = LogisticRegression::fit(&standardised, &table.codes, parameters).expect("fitted");
        let expected: Vec<u32> = fitted.predict(&standardised).expect("predicted");
        let ours = fit(&table, Algorithm::LogisticRegression, &HyperParameters::default(), true);
        assert_classes(&ours, &expected);
    }
}

#[test]
fn naive_bayes_on_the_columns_as_they_are_says_what_smartcore_says_on_standardised_ones() {
    for table in shapes() {
        let standardised = Standardised::new(&table.block).matrix();
        let fitted = GaussianNB::fit(&standardised, &table.codes, GaussianNBParameters::default()).expect("fitted");
        let expected: Vec<u32> = fitted.predict(&standardised).expect("predicted");
        let ours = fit(&table, Algorithm::GaussianNaiveBayes, &HyperParameters::default(), true);
        assert_classes(&ours, &expected);
    }
}

#[test]
fn least_squares_is_smartcores() {
    for table in shapes() {
        let x = matrix(&table.block);
        let parameters = LinearRegressionParameters::default();
        let fitted = LinearRegression::fit(&x, &table.values, parameters).expect("fitted");
        let expected: Vec<f64> = fitted.predict(&x).expect("predicted");
        assert_values(&fit(&table, Algorithm::LinearRegression, &HyperParameters::default(), false), &expected);
    }
}

/// The penalised models on the columns as they are, against smartcore's own predictions on the standardised ones.
#[test]
fn penalised_regressions_are_smartcores_on_standardised_columns() {
    use smartcore::linear::elastic_net::{ElasticNet, ElasticNetParameters};
    use smartcore::linear::lasso::{Lasso, LassoParameters};
    use smartcore::linear::ridge_regression::{RidgeRegression, RidgeRegressionParameters};
    for table in shapes() {
        let x = Standardised::new(&table.block).matrix();
        let mean = table.values.iter().sum::<f64>() / ROWS as f64;
        let y: Vec<f64> = table.values.iter().map(|value| value - mean).collect();
        let hyper = HyperParameters { alpha: Some(0.5), tol: Some(1e-9), ..HyperParameters::default() };
        let back = |predicted: Vec<f64>| predicted.into_iter().map(|value| value + mean).collect::<Vec<f64>>();

        let ridge = RidgeRegressionParameters::default().with_alpha(0.5).with_normalize(false);
        let ridge: Vec<f64> = RidgeRegression::fit(&x, &y, ridge).expect("fitted").predict(&x).expect("predicted");
        assert_values(&fit(&table, Algorithm::Ridge, &hyper, false), &back(ridge));

        let lasso = LassoParameters::default().with_alpha(1.0).with_normalize(false).with_tol(1e-9);
        let lasso: Vec<f64> = Lasso::fit(&x, &y, lasso).expect("fitted").predict(&x).expect("predicted");
        assert_values(&fit(&table, Algorithm::Lasso, &hyper, false), &back(lasso));

        // alpha 0.5 and l1_ratio 0.5: the L1 part 0.25 counts twice, the L2 part 0.25 once.
        let net =
            ElasticNetParameters { alpha: 0.75, l1_ratio: 2.0 / 3.0, normalize: false, tol: 1e-9, max_iter: 1_000 };
        let net: Vec<f64> = ElasticNet::fit(&x, &y, net).expect("fitted").predict(&x).expect("predicted");
        assert_values(&fit(&table, Algorithm::ElasticNet, &hyper, false), &back(net));
        assert_eq!(x.shape().0, ROWS);
    }
}
