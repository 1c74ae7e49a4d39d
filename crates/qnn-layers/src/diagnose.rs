use std::fmt;

use ndarray::arr1;
use qnn_quant::Pair;

use crate::Constraint;

/// A legal combination of settings that hardly anybody wants.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Diagnostic {
    /// Latent weights that have left the interval in which the estimator passes gradients never
    /// come back, because nothing clips them.
    UnclippedLatentWeights {
        /// The map's name.
        quantizer: &'static str,
        /// The estimator's name.
        estimator: &'static str,
    },
}

/// What is doubtful about a kernel quantizer with (or without) a constraint. Levels that are trained
/// follow their weights, so that there is no interval to leave.
///
/// ```
/// use qnn_layers::{Constraint, diagnose_kernel};
/// use qnn_quant::{Pair, Sign, StraightThrough};
///
/// let clip = Some(Constraint::Clip { limit: 1.0 });
/// assert!(diagnose_kernel(&Pair::published(Sign), None).is_some());
/// assert!(diagnose_kernel(&Pair::published(Sign), clip).is_none());
/// assert!(diagnose_kernel(&Pair::new(Sign, StraightThrough), None).is_none());
/// ```
pub fn diagnose_kernel(pair: &Pair, constraint: Option<Constraint>) -> Option<Diagnostic> {
    let is_trained = pair.map.trained().is_some();
    (constraint.is_none() && !is_trained && vanishes_outside(pair)).then(|| {
        Diagnostic::UnclippedLatentWeights { quantizer: pair.map.name(), estimator: pair.gradient.name() }
    })
}

/// Tries the estimator on weights outside of the usual intervals: that covers estimators of any origin,
/// and spares those that fade, like the derivative of a tanh.
fn vanishes_outside(pair: &Pair) -> bool {
    let (far, dy) = (arr1(&[-4.0, 4.0]).into_dyn(), arr1(&[1.0, 1.0]).into_dyn());
    let dx = pair.map.fit(far.view()).and_then(|grid| pair.pullback(far.view(), &grid, dy.view()));
    dx.is_ok_and(|dx| dx.iter().all(|&dx| dx == 0.0))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnclippedLatentWeights { quantizer, estimator } => write!(
                f,
                "{quantizer} kernels with the gradient {estimator} and no clipping: weights that \
                 leave the interval where gradients pass stay where they are; add a clip constraint"
            ),
        }
    }
}
