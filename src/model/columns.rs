//! Sums over the columns of rows, several rows at a time.

use super::{Block, Scratch};

/// How many rows are summed side by side: their sums do not wait for one another, and a vector holds several of them.
pub(super) const ROWS: usize = 8;
/// How many columns of the rows are transposed at a time, on the stack.
const CHUNK: usize = 64;

/// For each row and each of `count` scores the sum over the columns, in their order, of `term(p)(value)`, where `p` is the index
/// of the score's and column's parameter; `visit` gets a row's sums. A sum's bits do not depend on the rows around it.
pub(super) fn sum_columns<Term: Fn(f64) -> f64>(
    block: &Block,
    count: usize,
    scratch: &mut Scratch,
    term: impl Fn(usize) -> Term,
    mut visit: impl FnMut(&mut [f64]),
) {
    let columns = block.columns();
    let Scratch { totals, scores, .. } = scratch;
    let mut tile = [[0.0; ROWS]; CHUNK];
    for rows in block.values.chunks(ROWS * columns) {
        totals.clear();
        // The neutral number of an addition: 0 would turn a sum of -0 into 0.
        totals.resize(count, [-0.0; ROWS]);
        for first in (0..columns).step_by(CHUNK) {
            let chunk = first..columns.min(first + CHUNK);
            for (place, row) in rows.chunks_exact(columns).enumerate() {
                tile.iter_mut().zip(&row[chunk.clone()]).for_each(|(values, value)| values[place] = f64::from(*value));
            }
            for (score, totals) in totals.iter_mut().enumerate() {
                for (column, values) in chunk.clone().zip(&tile) {
                    let term = term(score * columns + column);
                    for (total, value) in totals.iter_mut().zip(values) {
                        *total += term(*value);
                    }
                }
            }
        }
        for place in 0..rows.len() / columns {
            scores.clear();
            scores.extend(totals.iter().map(|totals| totals[place]));
            visit(scores);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::super::linear::Link;
    use super::super::signature::{Feature, FeatureKind, Target};
    use super::super::{Linear, Model, NaiveBayes, Predictions, Predictor, Signature, softmax};
    use super::*;

    /// Numbers that are the same on every run, of both signs and with zeros of both signs among them.
    fn numbers(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match state >> 61 {
                0 => -0.0,
                1 => 0.0,
                _ => ((state >> 33) as f64 / f64::from(1 << 30) - 1.0) / 3.0,
            }
        };
        (0..count).map(next).collect()
    }

    /// Scores blocks of several sizes and compares with the slow way, which gives a row's outputs; bit for bit.
    fn assert_same(predictor: &Predictor, columns: usize, classes: usize, slowly: impl Fn(&[f32]) -> Vec<f64>) {
        let feature = |index| Feature { name: format!("x{index}"), kind: FeatureKind::Numeric { fill: None } };
        let target = Target { name: "y".into(), classes: (0..classes).map(|class| format!("k{class}")).collect() };
        let signature = Signature { features: (0..columns).map(feature).collect(), target };
        let model = Model::new(signature, predictor.clone()).expect("sound");
        let mut predictions = Predictions::default();
        for rows in [0, 1, 7, 8, 9, 20, 3] {
            let mut block = Block::new(columns);
            for row in 0..rows {
                let values = numbers(columns, row + 1);
                block.push_row().iter_mut().zip(values).for_each(|(to, from)| *to = from as f32);
            }
            model.predict(&block, &mut predictions);
            assert_eq!(predictions.len(), block.rows());
            for (index, row) in block.iter().enumerate() {
                let bits = |outputs: &[f64]| outputs.iter().map(|output| output.to_bits()).collect::<Vec<_>>();
                let outputs = predictions.outputs(index);
                assert_eq!(bits(outputs), bits(&slowly(row)), "row {index} of {rows} with {columns} columns");
            }
        }
    }

    #[test]
    fn linear_models_add_up_in_the_columns_order() {
        for columns in [1, 4, 63, 64, 65, 200] {
            for (link, scores, classes) in [(Link::Identity, 1, 0), (Link::Logistic, 1, 2), (Link::Softmax, 5, 5)] {
                let (coefficients, intercepts) = (numbers(columns * scores, 77), numbers(scores, 78));
                let slowly = |row: &[f32]| {
                    let score = |(weights, intercept): (&[f64], &f64)| {
                        weights.iter().zip(row).map(|(weight, value)| weight * f64::from(*value)).sum::<f64>()
                            + intercept
                    };
                    let mut scores: Vec<f64> = coefficients.chunks(columns).zip(&intercepts).map(score).collect();
                    match link {
                        Link::Identity => scores,
                        Link::Logistic => {
                            let second = 1.0 / (1.0 + (-scores[0]).exp());
                            vec![1.0 - second, second]
                        }
                        Link::Softmax => {
                            softmax(&mut scores);
                            scores
                        }
                    }
                };
                let (coefficients, intercepts) = (coefficients.clone(), intercepts.clone());
                let predictor = Predictor::Linear(Linear { link, coefficients, intercepts });
                assert_same(&predictor, columns, classes, slowly);
            }
        }
    }

    #[test]
    fn naive_bayes_adds_up_in_the_columns_order() {
        for (columns, classes) in [(1, 2), (4, 3), (65, 2), (130, 7)] {
            let (log_priors, means) = (numbers(classes, 79), numbers(columns * classes, 80));
            let variances: Vec<f64> = numbers(columns * classes, 81).iter().map(|number| number.abs() + 0.1).collect();
            let slowly = |row: &[f32]| {
                let score = |class: usize| {
                    let density = |column: usize| {
                        let parameter = class * columns + column;
                        let distance = f64::from(row[column]) - means[parameter];
                        (2.0 * PI * variances[parameter]).ln() + distance * distance / variances[parameter]
                    };
                    log_priors[class] - 0.5 * (0..columns).map(density).sum::<f64>()
                };
                let mut scores: Vec<f64> = (0..classes).map(score).collect();
                softmax(&mut scores);
                scores
            };
            let bayes =
                NaiveBayes { log_priors: log_priors.clone(), means: means.clone(), variances: variances.clone() };
            assert_same(&Predictor::NaiveBayes(bayes), columns, classes, slowly);
        }
    }
}
