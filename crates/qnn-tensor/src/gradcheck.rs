//! Gradients against finite differences.

use crate::{Tape, Tensor, Var};

/// The largest accepted difference between pullback and finite difference, relative to the
/// larger of their sizes and one.
pub const TOLERANCE: f64 = 1e-6;

/// Half the distance of the two points of a central difference: near the cube root of f64's
/// epsilon, where rounding and truncation errors balance.
const STEP: f64 = 5e-6;

/// Where a pullback disagrees with finite differences.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "input {input}, element {element}: the pullback gives {pullback:e}, finite differences {difference:e}"
)]
pub struct Mismatch {
    /// The number of the input.
    pub input: usize,
    /// The element of that input, in row-major order.
    pub element: usize,
    /// What the pullback returned.
    pub pullback: f64,
    /// The central difference.
    pub difference: f64,
}

/// Compares pullbacks with central differences in f64, through a fixed random cotangent.
///
/// A plain sum as the objective would be blind to whatever keeps the sum constant (softmax, batch
/// normalisation), hence the cotangent. Keep inputs away from kinks and ties. An estimator that
/// is no derivative (straight-through) belongs against its surrogate instead.
///
/// ```
/// use qnn_tensor::{Tensor, gradcheck};
/// let x = Tensor::from_fn(&[4], |i| i as f64 - 1.5);
/// gradcheck([x], |[x]| x * x)?;
/// # Ok::<(), qnn_tensor::gradcheck::Mismatch>(())
/// ```
///
/// # Errors
///
/// The first [`Mismatch`].
///
/// # Panics
///
/// If `f` panics.
pub fn gradcheck<const N: usize>(
    inputs: [Tensor<f64>; N],
    f: impl for<'t> Fn([Var<'t, f64>; N]) -> Var<'t, f64>,
) -> Result<(), Mismatch> {
    let tape = Tape::new();
    let leaves = inputs.clone().map(|x| tape.leaf(x));
    let y = f(leaves);
    let cotangent = Tensor::from_fn(&y.shape(), weight);
    let gradients = tape.backward_from(y, cotangent);
    let objective = |inputs: &[Tensor<f64>; N]| {
        let tape = Tape::new();
        let y = f(inputs.clone().map(|x| tape.constant(x))).value();
        y.as_slice().iter().enumerate().map(|(i, y)| weight(i) * y).sum::<f64>()
    };
    for (input, leaf) in leaves.into_iter().enumerate() {
        for element in 0..inputs[input].len() {
            let pullback = gradients.of(leaf).map_or(0.0, |dx| dx.as_slice()[element]);
            let difference = central_difference(&inputs, input, element, objective);
            let scale = pullback.abs().max(difference.abs()).max(1.0);
            let close = (pullback - difference).abs() <= TOLERANCE * scale;
            if !close {
                return Err(Mismatch { input, element, pullback, difference });
            }
        }
    }
    Ok(())
}

fn central_difference<const N: usize>(
    inputs: &[Tensor<f64>; N],
    input: usize,
    element: usize,
    objective: impl Fn(&[Tensor<f64>; N]) -> f64,
) -> f64 {
    let at = |step: f64| {
        let mut moved = inputs.clone();
        moved[input].as_mut_slice()[element] += step;
        objective(&moved)
    };
    (at(STEP) - at(-STEP)) / (2.0 * STEP)
}

/// The cotangent: fixed numbers in ±[0.5, 1.5) without pattern.
fn weight(i: usize) -> f64 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let unit = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
    if mixed & 1 == 0 { 0.5 + unit } else { -0.5 - unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pullback_is_found() {
        let x = Tensor::from_fn(&[3], |i| i as f64 + 0.5);
        let wrong = gradcheck([x], |[x]| {
            let y = x.value().map(|x| x * x);
            x.tape().record("wrong", [x], y, |dy, _| [Some(dy.clone())])
        });
        assert!(matches!(wrong, Err(Mismatch { input: 0, element: 0..=2, .. })), "{wrong:?}");
    }

    #[test]
    fn a_missing_gradient_is_found() {
        let x = Tensor::from_fn(&[2], |i| i as f64 + 0.5);
        assert!(gradcheck([x], |[x]| x.tape().record("lost", [x], x.value(), |_, _| [None])).is_err());
    }

    #[test]
    fn a_nan_is_found() {
        let x = Tensor::from_fn(&[1], |_| 0.5);
        let result = gradcheck([x], |[x]| {
            x.tape().record("nan", [x], x.value(), |dy, _| [Some(dy.map(|_| f64::NAN))])
        });
        assert!(result.is_err());
    }
}
