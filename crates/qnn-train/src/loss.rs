use std::str::FromStr;

use qnn_tensor::{Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What training makes small: a mean over the images of a batch.
///
/// Outputs have the shape `[images, classes]`; the class of the largest output is the prediction.
///
/// Parses from `cross-entropy` and `cross-entropy:0.1` (with that label smoothing), `squared-hinge` and
/// `mean-squared-error`.
///
/// ```
/// use qnn_train::Loss;
/// assert_eq!("squared-hinge".parse::<Loss>()?, Loss::SquaredHinge);
/// assert_eq!("cross-entropy:0.1".parse::<Loss>()?, Loss::CrossEntropy { smoothing: 0.1 });
/// # Ok::<(), qnn_train::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Loss {
    /// Softmax and cross entropy of the outputs (logits).
    ///
    /// ```text
    /// L = −Σ_c t_c · log softmax(y)_c,   t = (1 − s) · onehot(label) + s / classes
    /// ```
    ///
    /// Label smoothing s: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    CrossEntropy {
        /// s, in 0..1.
        smoothing: f64,
    },
    /// The mean over outputs of `max(0, 1 − t · y)²`, where t is +1 at the label and −1 elsewhere:
    /// the loss of BinaryConnect and the BNN papers (Courbariaux et al. 2015, arXiv:1511.00363).
    SquaredHinge,
    /// The mean over outputs of `(y − t)²`, where t is 1 at the label and 0 elsewhere.
    MeanSquaredError,
}

impl Default for Loss {
    fn default() -> Self {
        Self::CrossEntropy { smoothing: 0.0 }
    }
}

impl Loss {
    /// The loss of a batch, a value of rank 0.
    ///
    /// # Errors
    ///
    /// [`Error::Outputs`] if the outputs are no matrix with one row per label, [`Error::Label`] if
    /// a label has no column, [`Error::Setting`] for a smoothing that is out of its range.
    pub fn of<'t>(&self, outputs: Var<'t>, labels: &[usize]) -> Result<Var<'t>, Error> {
        self.check()?;
        let classes = check(&outputs.shape(), labels)?;
        Ok(match *self {
            Self::CrossEntropy { smoothing } => outputs.cross_entropy(labels, smoothing),
            Self::SquaredHinge => outputs.squared_hinge(&targets(labels, classes, -1.0)),
            Self::MeanSquaredError => outputs.mean_squared_error(&targets(labels, classes, 0.0)),
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match *self {
            Self::CrossEntropy { smoothing } if !(0.0..1.0).contains(&smoothing) => {
                Err(Error::setting("the label smoothing", smoothing, "at least 0 and less than 1"))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Loss {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let expected = "cross-entropy, cross-entropy:SMOOTHING, squared-hinge or mean-squared-error";
        let unknown = || Error::setting("the loss", format!("{text:?}"), expected);
        let loss = match text.split_once(':') {
            None if text == "cross-entropy" => Self::default(),
            None if text == "squared-hinge" => Self::SquaredHinge,
            None if text == "mean-squared-error" => Self::MeanSquaredError,
            Some(("cross-entropy", smoothing)) => {
                Self::CrossEntropy { smoothing: smoothing.parse().map_err(|_| unknown())? }
            }
            _ => return Err(unknown()),
        };
        loss.check().map(|()| loss)
    }
}

/// How many rows of `outputs` have their largest value at the label. Among equal ones the first
/// counts as the prediction; a row with NaN is never right.
///
/// ```
/// use qnn_tensor::Tensor;
/// let outputs = Tensor::from_vec(&[2, 3], vec![0.1, 0.7, 0.2, 0.9, 0.9, 0.0])?;
/// assert_eq!(qnn_train::count_correct(&outputs, &[1, 1]), 1);
/// # Ok::<(), qnn_tensor::ShapeError>(())
/// ```
///
/// # Panics
///
/// If `outputs` is not a matrix, or a label has no column.
#[track_caller]
pub fn count_correct(outputs: &Tensor, labels: &[usize]) -> usize {
    let &[_, classes] = outputs.shape() else {
        panic!("count_correct needs [images, classes], got {:?}", outputs.shape());
    };
    let rows = outputs.as_slice().chunks_exact(classes.max(1));
    rows.zip(labels).filter(|(row, label)| is_right(row, **label)).count()
}

fn is_right(row: &[f32], label: usize) -> bool {
    let (before, rest) = row.split_at(label);
    before.iter().all(|&y| rest[0] > y) && rest.iter().all(|&y| rest[0] >= y)
}

/// The number of classes.
fn check(shape: &[usize], labels: &[usize]) -> Result<usize, Error> {
    let &[rows, classes] = shape else {
        return Err(Error::Outputs { images: labels.len(), got: shape.to_vec() });
    };
    if rows != labels.len() || rows == 0 {
        return Err(Error::Outputs { images: labels.len(), got: shape.to_vec() });
    }
    match labels.iter().find(|&&label| label >= classes) {
        Some(&label) => Err(Error::Label { label, classes }),
        None => Ok(classes),
    }
}

/// 1 at the labels and `other` elsewhere.
fn targets(labels: &[usize], classes: usize, other: f32) -> Tensor {
    Tensor::build(&[labels.len(), classes], |out| {
        out.fill(other);
        out.chunks_exact_mut(classes).zip(labels).for_each(|(row, &label)| row[label] = 1.0);
    })
}

#[cfg(test)]
mod tests {
    use qnn_tensor::Tape;

    use super::*;

    const OUTPUTS: [f32; 6] = [0.5, -1.5, 2.0, 0.25, 0.0, -0.5];

    fn loss(loss: Loss, labels: &[usize]) -> Result<f32, Error> {
        let tape = Tape::new();
        let outputs = tape.constant(Tensor::from_vec(&[2, 3], OUTPUTS.to_vec()).unwrap());
        loss.of(outputs, labels).map(|loss| loss.value().item())
    }

    /// The mean over all outputs of `f(output, whether it is the label's)`.
    fn mean(labels: &[usize], f: impl Fn(f64, bool) -> f64) -> f64 {
        let terms = OUTPUTS.iter().enumerate();
        terms.map(|(i, &y)| f(f64::from(y), labels[i / 3] == i % 3)).sum::<f64>() / 6.0
    }

    #[test]
    fn losses_agree_with_their_formulas() {
        let labels = [2, 0];
        let hinge = mean(&labels, |y, own| (1.0 - if own { y } else { -y }).max(0.0).powi(2));
        let square = mean(&labels, |y, own| (y - f64::from(u8::from(own))).powi(2));
        let log_sum = |row: &[f32]| row.iter().map(|&y| f64::from(y).exp()).sum::<f64>().ln();
        let (a, b) = (log_sum(&OUTPUTS[..3]), log_sum(&OUTPUTS[3..]));
        let plain = (a - 2.0 + b - 0.25) / 2.0;
        let even = (a - 1.0 / 3.0 + b + 0.25 / 3.0) / 2.0;
        for (kind, expected) in [
            (Loss::SquaredHinge, hinge),
            (Loss::MeanSquaredError, square),
            (Loss::default(), plain),
            (Loss::CrossEntropy { smoothing: 0.1 }, 0.9 * plain + 0.1 * even),
        ] {
            let got = f64::from(loss(kind, &labels).unwrap());
            assert!((got - expected).abs() < 1e-6, "{kind:?}: {got}, expected {expected}");
        }
    }

    #[test]
    fn names_of_losses_are_read_and_others_refused() {
        let parsed = |text: &str| text.parse::<Loss>();
        assert_eq!(parsed("cross-entropy").unwrap(), Loss::default());
        assert_eq!(parsed("mean-squared-error").unwrap(), Loss::MeanSquaredError);
        for text in ["", "hinge", "squared-hinge:0.1", "cross-entropy:", "cross-entropy:x", "cross-entropy:1"]
        {
            assert!(matches!(parsed(text), Err(Error::Setting { .. })), "{text}");
        }
    }

    #[test]
    fn labels_without_output_and_wrong_counts_are_errors() {
        assert!(matches!(loss(Loss::SquaredHinge, &[0, 3]), Err(Error::Label { label: 3, classes: 3 })));
        assert!(matches!(loss(Loss::default(), &[0]), Err(Error::Outputs { images: 1, .. })));
        let tape = Tape::new();
        for smoothing in [1.0, -0.1, f64::NAN] {
            let refused = loss(Loss::CrossEntropy { smoothing }, &[0, 0]);
            assert!(matches!(refused, Err(Error::Setting { .. })), "{smoothing}");
        }
        let flat = tape.constant(Tensor::zeros(&[2]));
        assert!(matches!(Loss::default().of(flat, &[0, 0]), Err(Error::Outputs { .. })));
    }

    #[test]
    fn ties_go_to_the_first_and_nan_is_never_right() {
        let nan = f32::NAN;
        let rows = vec![1.0, 1.0, 1.0, 1.0, nan, 0.0, 2.0, nan, nan, nan, -0.0, 0.0];
        let outputs = Tensor::from_vec(&[6, 2], rows).unwrap();
        assert_eq!(count_correct(&outputs, &[0, 1, 0, 0, 0, 0]), 2);
    }
}
