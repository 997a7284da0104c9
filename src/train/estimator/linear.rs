//! Linear models.
//!
//! Columns are standardised first (mean 0, standard deviation 1; constant columns are left out), so that a penalty treats
//! columns of every scale alike and solvers converge; the scale is folded back into coefficients and intercepts.
//! Objectives are scikit-learn's on the standardised columns.

use smartcore::linalg::basic::arrays::Array as _;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::elastic_net::{ElasticNet, ElasticNetParameters};
use smartcore::linear::lasso::{Lasso, LassoParameters};
use smartcore::linear::linear_regression::{LinearRegression, LinearRegressionParameters, LinearRegressionSolverName};
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};
use smartcore::linear::ridge_regression::{RidgeRegression, RidgeRegressionParameters, RidgeRegressionSolverName};

use crate::model::linear::Link;
use crate::model::{Block, Linear, Predictor};

use super::super::Error;
use super::{Algorithm, HyperParameters, Matrix, refused};

const C: f64 = 1.0;
const ALPHA: f64 = 1.0;
const L1_RATIO: f64 = 0.5;
const MAX_ITER: usize = 1_000;
const TOL: f64 = 1e-4;

/// Columns with mean 0 and standard deviation 1, and the way back.
pub(super) struct Standardised {
    /// The columns that vary.
    pub(super) kept: Vec<usize>,
    /// Of each kept column.
    pub(super) means: Vec<f64>,
    /// Of each kept column; positive.
    pub(super) deviations: Vec<f64>,
    /// The number of all columns.
    pub(super) columns: usize,
    /// Row after row, the kept columns.
    pub(super) values: Vec<f64>,
}

impl Standardised {
    pub(super) fn new(block: &Block) -> Standardised {
        let (rows, columns) = (block.rows() as f64, block.columns());
        let mut sums = vec![0.0; columns];
        for row in block.iter() {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let all_means: Vec<f64> = sums.iter().map(|sum| sum / rows).collect();
        // The second pass over differences does not lose a small spread beside a large mean.
        let mut squares = vec![0.0; columns];
        for row in block.iter() {
            for ((square, mean), value) in squares.iter_mut().zip(&all_means).zip(row) {
                *square += (f64::from(*value) - mean).powi(2);
            }
        }
        let all_deviations: Vec<f64> = squares.iter().map(|square| (square / rows).sqrt()).collect();
        let first: Vec<f32> = if block.rows() == 0 { Vec::new() } else { block.row(0).to_vec() };
        let varies = |column: &usize| block.iter().any(|row| row[*column] != first[*column]);
        let kept: Vec<usize> = (0..columns).filter(|column| varies(column) && all_deviations[*column] > 0.0).collect();
        let means: Vec<f64> = kept.iter().map(|column| all_means[*column]).collect();
        let deviations: Vec<f64> = kept.iter().map(|column| all_deviations[*column]).collect();
        let standardise = |row: &[f32]| {
            let place = |(index, column): (usize, &usize)| (f64::from(row[*column]) - means[index]) / deviations[index];
            kept.iter().enumerate().map(place).collect::<Vec<f64>>()
        };
        let values = block.iter().flat_map(standardise).collect();
        Standardised { kept, means, deviations, columns, values }
    }

    pub(super) fn matrix(&self) -> Matrix {
        let width = self.kept.len();
        DenseMatrix::new(self.values.len() / width.max(1), width, self.values.clone(), false)
            .expect("there is a value for each row and kept column")
    }

    /// Turns the weights of one score on standardised columns into coefficients on the columns as they are, and the
    /// intercept: `sum w (x - m) / d + b = sum (w / d) x + (b - sum (w / d) m)`.
    fn fold(&self, weights: &[f64], intercept: f64) -> (Vec<f64>, f64) {
        let mut coefficients = vec![0.0; self.columns];
        let mut folded = intercept;
        for (index, column) in self.kept.iter().enumerate() {
            let weight = weights[index] / self.deviations[index];
            coefficients[*column] = weight;
            folded -= weight * self.means[index];
        }
        (coefficients, folded)
    }
}

pub(super) fn regression(
    algorithm: Algorithm,
    hyper: &HyperParameters,
    block: &Block,
    values: &[f64],
) -> Result<Predictor, Error> {
    let standardised = Standardised::new(block);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    // Centred targets need no intercept, which no penalty may touch.
    let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let weights = match standardised.kept.len() {
        0 => Vec::new(),
        _ => solve(algorithm, hyper, &standardised.matrix(), &centred)?,
    };
    let (coefficients, intercept) = standardised.fold(&weights, mean);
    Ok(Predictor::Linear(Linear { link: Link::Identity, coefficients, intercepts: vec![intercept] }))
}

fn solve(algorithm: Algorithm, hyper: &HyperParameters, x: &Matrix, y: &Vec<f64>) -> Result<Vec<f64>, Error> {
    let (alpha, l1_ratio) = (hyper.alpha.unwrap_or(ALPHA), hyper.l1_ratio.unwrap_or(L1_RATIO));
    let (max_iter, tol) = (hyper.max_iter.unwrap_or(MAX_ITER), hyper.tol.unwrap_or(TOL));
    let weights = |matrix: &Matrix| matrix.iterator(0).copied().collect::<Vec<f64>>();
    match algorithm {
        Algorithm::Ridge => ridge(x, y, alpha),
        // smartcore minimises ||y - Xw||^2 + n alpha |w|, scikit-learn half of that with twice the alpha.
        Algorithm::Lasso => {
            let parameters = LassoParameters::default()
                .with_alpha(2.0 * alpha)
                .with_normalize(false)
                .with_fit_intercept(false)
                .with_max_iter(max_iter)
                .with_tol(tol);
            Ok(weights(Lasso::fit(x, y, parameters).map_err(|error| refused(&error))?.coefficients()))
        }
        // Likewise: the L1 part counts twice, the L2 part once.
        Algorithm::ElasticNet => {
            let (l1, l2) = (2.0 * alpha * l1_ratio, alpha * (1.0 - l1_ratio));
            let parameters = ElasticNetParameters {
                alpha: l1 + l2,
                l1_ratio: if l1 + l2 > 0.0 { l1 / (l1 + l2) } else { 0.0 },
                normalize: false,
                tol,
                max_iter,
            };
            Ok(weights(ElasticNet::fit(x, y, parameters).map_err(|error| refused(&error))?.coefficients()))
        }
        _ => {
            let parameters = LinearRegressionParameters::default().with_solver(LinearRegressionSolverName::SVD);
            Ok(weights(LinearRegression::fit(x, y, parameters).map_err(|error| refused(&error))?.coefficients()))
        }
    }
}

fn ridge(x: &Matrix, y: &Vec<f64>, alpha: f64) -> Result<Vec<f64>, Error> {
    let parameters = RidgeRegressionParameters::default()
        .with_alpha(alpha)
        .with_normalize(false)
        .with_solver(RidgeRegressionSolverName::Cholesky);
    let fitted = RidgeRegression::fit(x, y, parameters).map_err(|error| refused(&error))?;
    Ok(fitted.coefficients().iterator(0).copied().collect())
}

/// scikit-learn minimises `C * loss + |w|^2 / 2`, smartcore `loss + alpha |w|^2 / 2`: alpha is `1 / C`.
pub(super) fn logistic(
    hyper: &HyperParameters,
    block: &Block,
    classes: usize,
    codes: &[u32],
) -> Result<Predictor, Error> {
    let standardised = Standardised::new(block);
    if standardised.kept.is_empty() {
        return Err(Error::Fit("every column is constant: there is nothing to learn from".to_owned()));
    }
    let parameters = LogisticRegressionParameters::default().with_alpha(1.0 / hyper.C.unwrap_or(C));
    let fitted = LogisticRegression::fit(&standardised.matrix(), &codes.to_vec(), parameters)
        .map_err(|error| refused(&error))?;
    if fitted.classes().len() != classes {
        return Err(Error::Fit("a class has no row to be fitted on".to_owned()));
    }
    let (weights, offsets) = (fitted.coefficients(), fitted.intercept());
    let scores = weights.shape().0;
    let (mut coefficients, mut intercepts) = (Vec::new(), Vec::new());
    for score in 0..scores {
        let row: Vec<f64> = (0..standardised.kept.len()).map(|column| *weights.get((score, column))).collect();
        let (folded, intercept) = standardised.fold(&row, *offsets.get((score, 0)));
        coefficients.extend(folded);
        intercepts.push(intercept);
    }
    let link = if scores == 1 { Link::Logistic } else { Link::Softmax };
    Ok(Predictor::Linear(Linear { link, coefficients, intercepts }))
}
