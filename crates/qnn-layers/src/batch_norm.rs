use qnn_tensor::ops::{
    Gate, Moments, batch_norm_add_gated_train, batch_norm_eval, batch_norm_gated_train, batch_norm_scale,
};
use qnn_tensor::{Tensor, Var};

use crate::operands::{check_positive, check_size};
use crate::residual::check_sum;
use crate::{Buffer, Ctx, Error, Layer, Op, Param, Role, Signal, module};

const LAYER: &str = "batch norm";

/// What a [`BatchNorm`] is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormConfig {
    /// The length of the last axis.
    pub channels: usize,
    /// What is added to the variance under the root.
    pub epsilon: f64,
    /// The weight of a new batch in the running statistics.
    pub momentum: f32,
}

/// Batch normalisation over all axes but the last.
///
/// ```text
/// y = (x − mean) · s + beta          s = gamma / √(variance + epsilon)
/// running ← (1 − momentum) · running + momentum · batch
/// ```
///
/// Training takes the statistics of the batch and queues new running ones, of which the variance is
/// the unbiased one (as in PyTorch); evaluation takes the running ones. Source: Ioffe & Szegedy
/// 2015, arXiv:1502.03167, algorithm 1.
#[derive(Debug)]
pub struct BatchNorm {
    config: BatchNormConfig,
    gamma: Param,
    beta: Param,
    running_mean: Buffer,
    running_var: Buffer,
}

impl BatchNormConfig {
    /// Epsilon 1e−5, momentum 0.1.
    pub fn new(channels: usize) -> Self {
        Self { channels, epsilon: 1e-5, momentum: 0.1 }
    }
}

impl BatchNorm {
    /// gamma 1, beta 0, running mean 0, running variance 1.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if there are no channels, epsilon is not positive or momentum is not in [0, 1]; [`Error::Size`] for absurdly many
    /// channels.
    pub fn new(config: &BatchNormConfig) -> Result<Self, Error> {
        let BatchNormConfig { channels, epsilon, momentum } = *config;
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
    pub fn config(&self) -> &BatchNormConfig {
        &self.config
    }

    /// The factor of each channel.
    pub fn gamma(&self) -> &Param {
        &self.gamma
    }

    /// The offset of each channel.
    pub fn beta(&self) -> &Param {
        &self.beta
    }

    /// The mean that evaluation subtracts.
    pub fn running_mean(&self) -> &Buffer {
        &self.running_mean
    }

    /// The variance that evaluation divides by the root of.
    pub fn running_var(&self) -> &Buffer {
        &self.running_var
    }

    /// `gate(forward(x) + shortcut)`, where an absent shortcut is zero: in training all in the passes over memory
    /// that the normalisation makes anyway, with the bits of separate layers.
    ///
    /// # Errors
    ///
    /// As [`forward`](Layer::forward), and [`Error::Shape`] if the shortcut has another shape.
    pub(crate) fn forward_gated<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        shortcut: Option<Signal<'t>>,
        gate: Gate,
    ) -> Result<Signal<'t>, Error> {
        let BatchNormConfig { channels, epsilon, momentum } = self.config;
        check_input(LAYER, cx, channels, x)?;
        if let Some(shortcut) = shortcut {
            check_sum(x, shortcut)?;
        }
        let (x, shortcut) = (cx.value(x), shortcut.map(|shortcut| cx.value(shortcut)));
        let (gamma, beta) = (cx.param(&self.gamma), cx.param(&self.beta));
        let (y, moments) = match shortcut {
            None => batch_norm_gated_train(x, gamma, beta, epsilon, gate),
            Some(shortcut) => batch_norm_add_gated_train(x, shortcut, gamma, beta, epsilon, gate),
        };
        queue_statistics(cx, [&self.running_mean, &self.running_var], momentum, &moments);
        Ok(y.into())
    }

    /// Mean, factor and offset of each channel in evaluation.
    pub(crate) fn fixed(&self, cx: &mut Ctx<'_>) -> [Tensor; 3] {
        let [gamma, beta] = [&self.gamma, &self.beta].map(|param| cx.param(param).value());
        let (mean, variance) = (self.running_mean.value(), self.running_var.value());
        [mean.clone(), batch_norm_scale(&gamma, variance, self.config.epsilon), beta]
    }

    fn evaluate<'t>(&self, cx: &mut Ctx<'t>, x: Var<'t>) -> Var<'t> {
        let (gamma, beta) = (cx.param(&self.gamma), cx.param(&self.beta));
        let (mean, variance) = (self.running_mean.value(), self.running_var.value());
        let y = batch_norm_eval(x, gamma, beta, mean, variance, self.config.epsilon);
        cx.report(LAYER, Some(&self.gamma), &[x], y, || Op::BatchNorm {
            mean: mean.clone(),
            s: batch_norm_scale(self.gamma.value(), variance, self.config.epsilon),
            beta: self.beta.value().clone(),
        });
        y
    }
}

module!(BatchNorm { gamma, beta, running_mean, running_var });

impl Layer for BatchNorm {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        if cx.is_training() {
            return self.forward_gated(cx, x, None, Gate::Identity);
        }
        check_input(LAYER, cx, self.config.channels, x)?;
        let x = cx.value(x);
        Ok(self.evaluate(cx, x).into())
    }
}

/// Refuses settings that make no normalisation.
pub(crate) fn check_settings(
    layer: &'static str,
    channels: usize,
    epsilon: f64,
    momentum: f32,
) -> Result<(), Error> {
    check_positive(layer, &[("channels", channels)])?;
    check_size(layer, &[channels])?;
    let setting = |setting, value: String, expected: &str| {
        Err(Error::Setting { layer, setting, value, expected: expected.to_owned() })
    };
    // Without it a constant channel would be 0 · ∞.
    if !(epsilon > 0.0 && epsilon.is_finite()) {
        return setting("epsilon", epsilon.to_string(), "finite and positive");
    }
    if !(0.0..=1.0).contains(&momentum) {
        return setting("momentum", momentum.to_string(), "from 0 to 1");
    }
    Ok(())
}

/// Refuses inputs of other channels, and in training those without a mean.
pub(crate) fn check_input(
    layer: &'static str,
    cx: &Ctx<'_>,
    channels: usize,
    x: Signal<'_>,
) -> Result<(), Error> {
    let got = x.shape();
    let empty = cx.is_training() && got.contains(&0);
    if got.last() != Some(&channels) || empty {
        let expected = format!("[.., {channels}]{}", if empty { " and at least one row" } else { "" });
        return Err(Error::Shape { layer, expected, got });
    }
    Ok(())
}

/// Mixes a batch into the running statistics, with its unbiased variance.
pub(crate) fn queue_statistics(cx: &mut Ctx<'_>, running: [&Buffer; 2], momentum: f32, batch: &Moments) {
    let unbiased = batch.count as f32 / (batch.count.max(2) - 1) as f32;
    let mix = |running: Tensor, batch: &Tensor, factor: f32| {
        running.zip_map(batch, |r, b| (1.0 - momentum) * r + momentum * (factor * b))
    };
    let mean = mix(cx.buffer(running[0]), &batch.mean, 1.0);
    let variance = mix(cx.buffer(running[1]), &batch.variance, unbiased);
    cx.update(running[0], mean);
    cx.update(running[1], variance);
}

#[cfg(test)]
mod tests {
    use qnn_tensor::Tape;

    use super::*;
    use crate::{Mode, apply_updates};

    #[test]
    fn running_statistics_follow_the_batches_and_evaluation_uses_them() {
        let mut norm = BatchNorm::new(&BatchNormConfig { momentum: 0.5, ..BatchNormConfig::new(2) }).unwrap();
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let x = Tensor::from_vec(&[3, 2], vec![1.0, 10.0, 2.0, 10.0, 6.0, 13.0]).unwrap();
        norm.forward(&mut cx, tape.constant(x.clone()).into()).unwrap();
        apply_updates(&mut norm, cx.finish().into_updates());
        // Means 3 and 11; unbiased variances (4 + 1 + 9) / 2 = 7 and (1 + 1 + 4) / 2 = 3.
        assert_eq!(norm.running_mean.value().as_slice(), [1.5, 5.5]);
        assert_eq!(norm.running_var.value().as_slice(), [4.0, 2.0]);

        let mut cx = Ctx::new(&tape, Mode::Eval, 0, 0);
        let y = norm.forward(&mut cx, tape.constant(x).into()).unwrap().value().value();
        let expected = [(1.0 - 1.5) / 4.00001_f32.sqrt(), (10.0 - 5.5) / 2.00001_f32.sqrt()];
        assert!(y.as_slice().iter().zip(expected).all(|(y, e)| (y - e).abs() < 1e-6));
        assert!(cx.finish().into_updates().is_empty());
    }

    #[test]
    fn a_batch_of_one_has_no_unbiased_variance_but_no_nan_either() {
        let mut norm = BatchNorm::new(&BatchNormConfig::new(1)).unwrap();
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        norm.forward(&mut cx, tape.constant(Tensor::full(&[1, 1], 5.0)).into()).unwrap();
        apply_updates(&mut norm, cx.finish().into_updates());
        assert_eq!(norm.running_var.value().item(), 0.9);
    }

    #[test]
    fn senseless_settings_and_shapes_are_errors() {
        let config = BatchNormConfig::new(3);
        for bad in [
            BatchNormConfig { channels: 0, ..config },
            BatchNormConfig { epsilon: -1.0, ..config },
            BatchNormConfig { epsilon: 0.0, ..config },
            BatchNormConfig { epsilon: f64::NAN, ..config },
            BatchNormConfig { momentum: 1.5, ..config },
        ] {
            assert!(matches!(BatchNorm::new(&bad), Err(Error::Setting { .. })), "{bad:?}");
        }
        let vast = BatchNormConfig { channels: usize::MAX, ..config };
        assert!(matches!(BatchNorm::new(&vast), Err(Error::Size { .. })));
        let (norm, tape) = (BatchNorm::new(&config).unwrap(), Tape::new());
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        for shape in [&[2, 4][..], &[], &[0, 3]] {
            let x = tape.constant(Tensor::zeros(shape)).into();
            assert!(matches!(norm.forward(&mut cx, x), Err(Error::Shape { .. })), "{shape:?}");
        }
    }
}
