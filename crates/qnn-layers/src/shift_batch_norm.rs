use qnn_tensor::Tensor;
use qnn_tensor::ops::{ShiftScale, shift_batch_norm_eval, shift_batch_norm_train};

use crate::batch_norm::{check_input, check_settings, queue_statistics};
use crate::{Buffer, Ctx, Error, Layer, Op, Param, Role, Signal, module};

const LAYER: &str = "shift-based batch norm";

/// What a [`ShiftBatchNorm`] is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftBatchNormConfig {
    /// The length of the last axis.
    pub channels: usize,
    /// What is added to the variance under the root.
    pub epsilon: f64,
    /// The weight of a new batch in the running statistics.
    pub momentum: f32,
    /// Whether the factor of the variance is rounded to a power of two.
    pub round_variance: bool,
}

/// Batch normalisation by shifts over all axes but the last.
///
/// ```text
/// C        = x − mean
/// variance = mean of C · AP2(C)
/// y        = C · s + beta          s = AP2(gamma) · AP2(1 / √(variance + epsilon))
/// ```
///
/// The product with s is a shift, since [`AP2`](qnn_tensor::math::ap2) is the nearest power of two;
/// without `round_variance` only gamma is rounded. Running statistics as in
/// [`BatchNorm`](crate::BatchNorm), and so are the names of parameters and buffers. Source:
/// Courbariaux et al. 2016, arXiv:1602.02830, algorithm 3.
#[derive(Debug)]
pub struct ShiftBatchNorm {
    config: ShiftBatchNormConfig,
    gamma: Param,
    beta: Param,
    running_mean: Buffer,
    running_var: Buffer,
}

impl ShiftBatchNormConfig {
    /// Epsilon 1e−5, momentum 0.1, everything rounded.
    pub fn new(channels: usize) -> Self {
        Self { channels, epsilon: 1e-5, momentum: 0.1, round_variance: true }
    }
}

impl ShiftBatchNorm {
    /// gamma 1, beta 0, running mean 0, running variance 1.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if there are no channels, epsilon is not positive or momentum is not in [0, 1]; [`Error::Size`] for absurdly many
    /// channels.
    pub fn new(config: &ShiftBatchNormConfig) -> Result<Self, Error> {
        let ShiftBatchNormConfig { channels, epsilon, momentum, .. } = *config;
        check_settings(LAYER, channels, epsilon, momentum)?;
        let (zeros, ones) = (|| Tensor::zeros(&[channels]), || Tensor::full(&[channels], 1.0));
        Ok(Self {
            config: *config,
            gamma: Param::new(Role::Gamma, ones()),
            beta: Param::new(Role::Beta, zeros()),
            running_mean: Buffer::new(zeros()),
            running_var: Buffer::new(ones()),
        })
    }

    /// What the layer was made from.
    pub fn config(&self) -> &ShiftBatchNormConfig {
        &self.config
    }

    fn scale(&self) -> ShiftScale {
        let ShiftBatchNormConfig { epsilon, round_variance, .. } = self.config;
        ShiftScale { epsilon, round_variance }
    }
}

module!(ShiftBatchNorm { gamma, beta, running_mean, running_var });

impl Layer for ShiftBatchNorm {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        check_input(LAYER, cx, self.config.channels, x)?;
        let (x, gamma, beta) = (cx.value(x), cx.param(&self.gamma), cx.param(&self.beta));
        if cx.is_training() {
            let (y, moments) = shift_batch_norm_train(x, gamma, beta, self.scale());
            let running = [&self.running_mean, &self.running_var];
            queue_statistics(cx, running, self.config.momentum, &moments);
            return Ok(y.into());
        }
        let (mean, variance) = (self.running_mean.value(), self.running_var.value());
        let y = shift_batch_norm_eval(x, gamma, beta, [mean, variance], self.scale());
        cx.report(LAYER, Some(&self.gamma), &[x], y, || Op::BatchNorm {
            mean: mean.clone(),
            s: self.scale().of(self.gamma.value(), variance),
            beta: self.beta.value().clone(),
        });
        Ok(y.into())
    }
}

#[cfg(test)]
mod tests {
    use qnn_tensor::Tape;

    use super::*;
    use crate::{Mode, apply_updates};

    #[test]
    fn running_statistics_are_those_of_the_shifts_and_evaluation_uses_them() {
        let config = ShiftBatchNormConfig { momentum: 0.5, ..ShiftBatchNormConfig::new(1) };
        let mut norm = ShiftBatchNorm::new(&config).unwrap();
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let x = Tensor::from_vec(&[3, 1], vec![1.0, 2.0, 6.0]).unwrap();
        let y = norm.forward(&mut cx, tape.constant(x.clone()).into()).unwrap().value();
        // C = −2, −1, 3, whose powers of two are −2, −1, 4: the variance is 17 / 3, its factor 1/2.
        assert_eq!(y.value().as_slice(), [-1.0, -0.5, 1.5]);
        apply_updates(&mut norm, cx.finish().into_updates());
        assert_eq!(norm.running_mean.value().item(), 1.5);
        assert!((norm.running_var.value().item() - (1.0 + 8.5) / 2.0).abs() < 1e-6);

        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let y = norm.forward(&mut cx, tape.constant(x).into()).unwrap().value();
        // 1 / √4.75 = 0.459 lies nearer to 1/2.
        assert_eq!(y.value().as_slice(), [-0.25, 0.25, 2.25]);
        assert!(cx.finish().into_updates().is_empty());
    }

    #[test]
    fn senseless_settings_and_shapes_are_errors() {
        let config = ShiftBatchNormConfig::new(3);
        for bad in [
            ShiftBatchNormConfig { channels: 0, ..config },
            ShiftBatchNormConfig { epsilon: f64::NAN, ..config },
            ShiftBatchNormConfig { momentum: -0.5, ..config },
        ] {
            assert!(matches!(ShiftBatchNorm::new(&bad), Err(Error::Setting { .. })), "{bad:?}");
        }
        let vast = ShiftBatchNormConfig { channels: usize::MAX, ..config };
        assert!(matches!(ShiftBatchNorm::new(&vast), Err(Error::Size { .. })));
        let (norm, tape) = (ShiftBatchNorm::new(&config).unwrap(), Tape::new());
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        for shape in [&[2, 4][..], &[], &[0, 3]] {
            let x = tape.constant(Tensor::zeros(shape)).into();
            assert!(matches!(norm.forward(&mut cx, x), Err(Error::Shape { .. })), "{shape:?}");
        }
    }
}
