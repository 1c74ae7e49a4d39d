use super::softmax::{exponentials, maximum};
use crate::parallel::for_each_row_and_value;
use crate::{Scalar, Tensor, Var, math, reduce};

impl<'t, T: Scalar> Var<'t, T> {
    /// The cross entropy of logits `[n, c]` and labels, averaged over the batch: a tensor of rank 0.
    ///
    /// ```text
    /// loss = 1/n Σᵢ Σⱼ −tᵢⱼ ln pᵢⱼ,   p = softmax(x),   tᵢⱼ = (1 − s) [j = labelᵢ] + s / c
    /// dxᵢⱼ = dᵢⱼ · dy,   dᵢⱼ = (pᵢⱼ − tᵢⱼ) / n, or 0 where that is closer to 0 than the threshold
    /// ```
    ///
    /// with the smoothing `s` (Szegedy et al. 2016, arXiv:1512.00567, section 7). The logarithm is
    /// never taken of a rounded probability, and the gradient is made with the value. The
    /// loss of no images is NaN; so is that of a row with NaN or +∞.
    ///
    /// The threshold is 2²⁶ times the least normal number, in single precision 2⁻¹⁰⁰. Where logits are sums of thousands of
    /// signs, many probabilities are smaller than that. They, or their products with factors that follow, would be subnormal,
    /// and arithmetic on subnormal numbers can take a processor up to a hundred times as long.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor};
    /// let tape = Tape::<f32>::new();
    /// let x = tape.leaf(Tensor::zeros(&[1, 2]));
    /// let loss = x.cross_entropy(&[1], 0.0);
    /// assert_eq!(loss.value().item(), 2.0_f32.ln());
    /// assert_eq!(tape.backward(loss).of(x).unwrap().as_slice(), [0.5, -0.5]);
    /// ```
    ///
    /// # Panics
    ///
    /// If the logits are not `[n, c]` with one label per row, a label is not below `c`, or the
    /// smoothing is not in `[0, 1]`.
    #[track_caller]
    pub fn cross_entropy(self, labels: &[usize], smoothing: f64) -> Self {
        let x = self.value();
        let classes = check_labels(x.shape(), labels);
        assert!((0.0..=1.0).contains(&smoothing), "cross_entropy: smoothing {smoothing} is not in [0, 1]");
        let target = Target { smoothing, classes, batch: labels.len() };
        let mut losses = vec![0.0; labels.len()];
        let gradient = Tensor::build(x.shape(), |dx| {
            for_each_row_and_value(classes, dx, &mut losses, |i, dx, loss| {
                *loss = target.row(&x.as_slice()[i * classes..][..classes], labels[i], dx);
            });
        });
        let loss = Tensor::scalar(T::of(reduce::sum(&losses) / labels.len() as f64));
        self.tape().record("cross_entropy", [self], loss, move |dy, _| {
            let dy = dy.item();
            [Some(if dy.is_one() { gradient } else { gradient.map(|d| d * dy) })]
        })
    }

    /// The mean of the squared differences over all elements: a tensor of rank 0.
    ///
    /// ```text
    /// loss = 1/N Σ (x − t)²       dx = 2 (x − t) / N · dy
    /// ```
    ///
    /// NaN if there are no elements.
    ///
    /// # Panics
    ///
    /// If the target has another shape.
    #[track_caller]
    pub fn mean_squared_error(self, target: &Tensor<T>) -> Self {
        let x = self.value();
        check_target("mean_squared_error", &x, target);
        let len = x.len() as f64;
        let total = reduce::sum_zip_map(x.as_slice(), target.as_slice(), |x, t| (x - t) * (x - t));
        let target = target.clone();
        let loss = Tensor::scalar(T::of(total / len));
        self.tape().record("mean_squared_error", [self], loss, move |dy, _| {
            let factor = T::of(2.0 * dy.item().as_f64() / len);
            [Some(x.zip_map(&target, |x, t| (x - t) * factor))]
        })
    }

    /// The squared hinge loss for targets of ±1, averaged over all elements: a tensor of rank 0.
    ///
    /// ```text
    /// loss = 1/N Σ max(0, 1 − t x)²       dx = −2 t max(0, 1 − t x) / N · dy
    /// ```
    ///
    /// For class scores `[n, c]` and targets +1 at the label, −1 elsewhere, `N = n c`, as in the code
    /// published with BNN (Courbariaux et al. 2016, arXiv:1602.02830). NaN if there are no elements.
    ///
    /// # Panics
    ///
    /// If the targets have another shape, or one is not ±1.
    #[track_caller]
    pub fn squared_hinge(self, targets: &Tensor<T>) -> Self {
        let x = self.value();
        check_target("squared_hinge", &x, targets);
        if let Some(i) = targets.as_slice().iter().position(|t| t.abs() != T::one()) {
            panic!("squared_hinge: target {i} is {}, not 1 or -1", targets.as_slice()[i]);
        }
        let len = x.len() as f64;
        let total = reduce::sum_zip_map(x.as_slice(), targets.as_slice(), |x, t| {
            let short = shortfall(t * x);
            short * short
        });
        let targets = targets.clone();
        let loss = Tensor::scalar(T::of(total / len));
        self.tape().record("squared_hinge", [self], loss, move |dy, _| {
            let factor = T::of(-2.0 * dy.item().as_f64() / len);
            [Some(x.zip_map(&targets, |x, t| t * shortfall(t * x) * factor))]
        })
    }
}

/// What every row of a cross entropy is compared with, but for its label.
struct Target {
    smoothing: f64,
    classes: usize,
    batch: usize,
}

impl Target {
    /// The loss of one row of logits; writes the gradient of its share in the mean.
    fn row<T: Scalar>(&self, x: &[T], label: usize, dx: &mut [T]) -> f64 {
        let (uniform, sure) = (self.smoothing / self.classes as f64, 1.0 - self.smoothing);
        let m = maximum(x);
        let total = exponentials(x, m, dx);
        let (batch, threshold) = (self.batch as f64, gradient_threshold::<T>());
        for (j, dx) in dx.iter_mut().enumerate() {
            let target = if j == label { sure + uniform } else { uniform };
            let d = (dx.as_f64() / total - target) / batch;
            *dx = T::of(if d.abs() < threshold { 0.0 } else { d });
        }
        let mut loss = math::ln(total);
        // A zero weight must not meet an infinite logit.
        if sure > 0.0 {
            loss -= sure * (x[label].as_f64() - m);
        }
        if uniform > 0.0 {
            loss -= uniform * x.iter().map(|x| x.as_f64() - m).sum::<f64>();
        }
        loss
    }
}

/// Gradients of a cross entropy that are closer to zero than this are zero.
fn gradient_threshold<T: Scalar>() -> f64 {
    T::min_positive_value().as_f64() * f64::from(1_u32 << 26)
}

/// How far a margin stays below 1; NaN stays NaN, which `max` would hide.
#[inline(always)]
fn shortfall<T: Scalar>(margin: T) -> T {
    if margin >= T::one() { T::zero() } else { T::one() - margin }
}

#[track_caller]
fn check_labels(shape: &[usize], labels: &[usize]) -> usize {
    let &[batch, classes] = shape else {
        panic!("cross_entropy needs logits [n, c], the shape is {shape:?}");
    };
    assert_eq!(labels.len(), batch, "cross_entropy: {} labels for logits {shape:?}", labels.len());
    if let Some(label) = labels.iter().find(|&&label| label >= classes) {
        panic!("cross_entropy: label {label}, but there are {classes} classes");
    }
    classes
}

#[track_caller]
fn check_target<T: Scalar>(op: &str, x: &Tensor<T>, target: &Tensor<T>) {
    let (x, target) = (x.shape(), target.shape());
    assert_eq!(x, target, "{op}: the value's shape is {x:?}, the target's {target:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Tape, gradcheck};

    fn logits(rows: usize, classes: usize) -> Tensor<f64> {
        Tensor::from_fn(&[rows, classes], |i| 2.0 * (i as f64 * 1.7).sin())
    }

    /// The definition, with neither shift nor fusion.
    fn plain_cross_entropy(x: &Tensor<f64>, labels: &[usize], smoothing: f64) -> f64 {
        let classes = x.shape()[1];
        let rows = x.as_slice().chunks_exact(classes).zip(labels);
        let losses = rows.map(|(x, &label)| {
            let total: f64 = x.iter().map(|x| x.exp()).sum();
            (0..classes)
                .map(|j| {
                    let sure = if j == label { 1.0 - smoothing } else { 0.0 };
                    -(sure + smoothing / classes as f64) * (x[j].exp() / total).ln()
                })
                .sum::<f64>()
        });
        losses.sum::<f64>() / labels.len() as f64
    }

    fn cross_entropy_of(x: &[f32], label: usize, smoothing: f64) -> (f32, Tensor<f32>) {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::from_vec(&[1, x.len()], x.to_vec()).unwrap());
        let loss = x.cross_entropy(&[label], smoothing);
        let value = loss.value().item();
        (value, tape.backward(loss).take(x).unwrap())
    }

    #[test]
    fn cross_entropy_agrees_with_its_definition_and_differences() {
        let labels = [2, 0, 1, 1];
        for smoothing in [0.0, 0.1, 1.0] {
            let x = logits(4, 3);
            let tape = Tape::new();
            let found = tape.constant(x.clone()).cross_entropy(&labels, smoothing).value().item();
            assert!((found - plain_cross_entropy(&x, &labels, smoothing)).abs() < 1e-14);
            gradcheck([x], |[x]| x.cross_entropy(&labels, smoothing).scale(0.7)).unwrap();
        }
    }

    #[test]
    fn cross_entropy_of_large_logits_is_exact() {
        let (loss, dx) = cross_entropy_of(&[1e30, 0.0], 1, 0.0);
        assert_eq!((loss, dx.as_slice()), (1e30, &[1.0, -1.0][..]));
        let (loss, dx) = cross_entropy_of(&[20.0, 0.0], 0, 0.0);
        let p = (-20.0_f64).exp() / (1.0 + (-20.0_f64).exp());
        assert!((f64::from(loss) / p - 1.0).abs() < 1e-6, "{loss:e}");
        assert_eq!(dx.as_slice(), [-p as f32, p as f32]);
    }

    #[test]
    fn gradients_below_the_threshold_are_zero_and_no_others() {
        let threshold = 2.0_f32.powi(-100);
        for fall in [60.0_f32, 69.25, 69.375, 80.0, 90.0, 100.0, 104.0, 1e30] {
            let (_, dx) = cross_entropy_of(&[0.0, -fall], 0, 0.0);
            let p = (-f64::from(fall)).exp();
            let expected = if p < f64::from(threshold) { 0.0 } else { p };
            assert!((f64::from(dx.as_slice()[1]) - expected).abs() <= 1e-6 * expected, "{fall}: {dx:?}");
            assert_eq!(dx.as_slice()[0], 0.0);
        }
        assert_eq!(gradient_threshold::<f32>(), f64::from(threshold));
        assert_eq!(gradient_threshold::<f64>(), 2.0_f64.powi(-996));
    }

    #[test]
    fn impossible_classes_count_only_where_they_are_targets() {
        let low = f32::NEG_INFINITY;
        assert_eq!(cross_entropy_of(&[low, 0.0], 1, 0.0).0, 0.0);
        assert_eq!(cross_entropy_of(&[low, 0.0], 0, 0.0).0, f32::INFINITY);
        assert_eq!(cross_entropy_of(&[low, 0.0], 1, 0.1).0, f32::INFINITY);
        for x in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [low, low]] {
            let (loss, dx) = cross_entropy_of(&x, 1, 0.0);
            assert!(loss.is_nan() && dx.as_slice().iter().all(|d| d.is_nan()), "{x:?}");
        }
    }

    #[test]
    fn the_loss_of_nothing_is_nan_and_has_an_empty_gradient() {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::<f32>::zeros(&[0, 3]));
        let none = Tensor::zeros(&[0, 3]);
        for loss in [x.cross_entropy(&[], 0.0), x.mean_squared_error(&none), x.squared_hinge(&none)] {
            assert!(loss.value().item().is_nan());
        }
        let loss = x.cross_entropy(&[], 0.0);
        assert_eq!(tape.backward(loss).of(x).unwrap().shape(), [0, 3]);
    }

    #[test]
    #[should_panic(expected = "label 3, but there are 3 classes")]
    fn labels_out_of_range_panic_with_their_value() {
        Tape::new().constant(logits(2, 3)).cross_entropy(&[0, 3], 0.0);
    }

    #[test]
    #[should_panic(expected = "1 labels for logits [2, 3]")]
    fn every_row_needs_a_label() {
        Tape::new().constant(logits(2, 3)).cross_entropy(&[0], 0.0);
    }

    #[test]
    #[should_panic(expected = "smoothing NaN")]
    fn smoothing_has_a_range() {
        Tape::new().constant(logits(1, 3)).cross_entropy(&[0], f64::NAN);
    }

    #[test]
    fn squared_errors_are_averaged_over_all_elements() {
        let (x, t) = (logits(3, 4), Tensor::from_fn(&[3, 4], |i| i as f64 * 0.1));
        let plain = x.as_slice().iter().zip(t.as_slice()).map(|(x, t)| (x - t).powi(2)).sum::<f64>() / 12.0;
        let found = Tape::new().constant(x.clone()).mean_squared_error(&t).value().item();
        assert!((found - plain).abs() < 1e-14);
        gradcheck([x], |[x]| x.mean_squared_error(&t)).unwrap();
    }

    #[test]
    fn the_squared_hinge_punishes_short_margins_only() {
        let t = Tensor::from_fn(&[2, 3], |i| if i % 2 == 0 { 1.0 } else { -1.0 });
        let x = Tensor::from_vec(&[2, 3], vec![1.5, -0.5, -2.0, 0.25, 1.0 + 1e-3, -3.0]).unwrap();
        let found = Tape::new().constant(x.clone()).squared_hinge(&t).value().item();
        let expected: f64 = (0.25 + 9.0 + 1.5625) / 6.0;
        assert!((found - expected).abs() < 1e-15, "{found}");
        gradcheck([x], |[x]| x.squared_hinge(&t)).unwrap();
    }

    #[test]
    fn nan_shows_in_every_loss() {
        let t = Tensor::full(&[2], 1.0_f32);
        let tape = Tape::new();
        let x = tape.leaf(Tensor::from_vec(&[2], vec![f32::NAN, 0.0]).unwrap());
        let loss = x.squared_hinge(&t) + x.mean_squared_error(&t);
        assert!(x.squared_hinge(&t).value().item().is_nan());
        assert!(x.mean_squared_error(&t).value().item().is_nan());
        assert!(tape.backward(loss).of(x).unwrap().as_slice()[0].is_nan());
    }

    #[test]
    #[should_panic(expected = "target 1 is 0, not 1 or -1")]
    fn hinge_targets_are_signs() {
        let t = Tensor::from_fn(&[3], |i| if i == 1 { 0.0 } else { 1.0_f32 });
        Tape::new().constant(Tensor::zeros(&[3])).squared_hinge(&t);
    }

    proptest! {
        #[test]
        fn batches_of_any_size_agree_with_the_definition(
            rows in 1_usize..70,
            classes in 1_usize..70,
            smoothing in 0.0_f64..1.0,
        ) {
            let x = logits(rows, classes);
            let labels: Vec<usize> = (0..rows).map(|i| i * 31 % classes).collect();
            let found = Tape::new().constant(x.clone()).cross_entropy(&labels, smoothing).value().item();
            let plain = plain_cross_entropy(&x, &labels, smoothing);
            prop_assert!((found - plain).abs() < 1e-12 * plain.max(1.0));
        }
    }
}
