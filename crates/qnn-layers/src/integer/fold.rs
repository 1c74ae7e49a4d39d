use qnn_tensor::ops::{Factors, Moments, Pointwise};
use qnn_tensor::{Tensor, Var};

use super::unit::{IntegerUnit, Placed};
use crate::batch_norm::queue_statistics;
use crate::{BatchNorm, Ctx, Error, Signal};

/// A kernel that the batch norm behind it has been folded into.
///
/// ```text
/// s = gamma / √(variance + epsilon)          kernel = w · s          bias = beta + (b − mean) · s
/// ```
///
/// Mean and variance are those of the sums behind the pool, if there is one: in training the batch's, through which gradients
/// flow, else the running ones.
pub(super) struct Folded<'t> {
    pub(super) kernel: Var<'t>,
    pub(super) bias: Option<Var<'t>>,
    /// The channels with a negative s; empty without batch norm.
    pub(super) falling: Vec<bool>,
}

/// `1 / √(x + epsilon)`.
struct InverseRoot {
    epsilon: f64,
}

impl Pointwise<f32> for InverseRoot {
    const NAME: &'static str = "inverse_root";

    fn f(&self, x: f32) -> f32 {
        (1.0 / (f64::from(x) + self.epsilon).sqrt()) as f32
    }

    fn df(&self, _: f32, y: f32) -> f32 {
        -0.5 * y * y * y
    }
}

/// Refuses what a batch norm cannot be folded into.
fn normalizes(norm: &BatchNorm, got: Vec<usize>, what: &str) -> Result<(), Error> {
    let channels = norm.config().channels;
    if got.last() == Some(&channels) && !got.contains(&0) {
        return Ok(());
    }
    Err(Error::Shape { layer: "folded batch norm", expected: format!("[.., {channels}], {what}"), got })
}

impl IntegerUnit<'_> {
    pub(super) fn folded<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        placed: &Placed,
    ) -> Result<Folded<'t>, Error> {
        let weights = self.product.weights();
        let (kernel, b) = (cx.param(weights.kernel), weights.bias.map(|bias| cx.param(bias)));
        let Some(norm) = self.norm else { return Ok(Folded { kernel, bias: b, falling: Vec::new() }) };
        normalizes(norm, kernel.shape(), "the kernel's last axis")?;
        let [mean, variance] = if cx.is_training() {
            self.batch_statistics(cx, x, norm, (kernel, b), placed)?
        } else {
            [norm.running_mean(), norm.running_var()].map(|buffer| cx.tape().constant(buffer.value().clone()))
        };
        let (gamma, beta) = (cx.param(norm.gamma()), cx.param(norm.beta()));
        let s = gamma * variance.pointwise(InverseRoot { epsilon: norm.config().epsilon });
        let bias = match b {
            Some(b) => beta + (b - mean) * s,
            None => beta - mean * s,
        };
        let falling = gamma.value().as_slice().iter().map(|&gamma| gamma < 0.0).collect();
        Ok(Folded { kernel: kernel * s, bias: Some(bias), falling })
    }

    /// Mean and variance of what batch norm would see, and queues them.
    fn batch_statistics<'t>(
        &self,
        cx: &mut Ctx<'t>,
        x: Signal<'t>,
        norm: &BatchNorm,
        (kernel, bias): (Var<'t>, Option<Var<'t>>),
        placed: &Placed,
    ) -> Result<[Var<'t>; 2], Error> {
        let y = placed.multiply(x.codes(), kernel, None, &Factors { x: x.scale(), w: vec![1.0] });
        let y = self.pooled(y, &[])?;
        normalizes(norm, y.shape(), "at least one row")?;
        let channels = norm.config().channels;
        let count = y.value().len() / channels;
        let rows = y.reshape(&[count, channels]);
        let mean = rows.mean_axis(0);
        let centered = rows - mean;
        let variance = (centered * centered).mean_axis(0);
        let mean = bias.map_or(mean, |bias| mean + bias);
        let moments = Moments { mean: mean.value(), variance: variance.value(), count };
        queue_statistics(cx, [norm.running_mean(), norm.running_var()], norm.config().momentum, &moments);
        Ok([mean, variance])
    }

    /// Behind the pool, if there is one. It takes the smallest sum of a falling channel, because the channel's sums have changed
    /// their sign in folding.
    pub(super) fn pooled<'t>(&self, y: Var<'t>, falling: &[bool]) -> Result<Var<'t>, Error> {
        let Some(pool) = self.pool else { return Ok(y) };
        let options = pool.window.options("max pool", &y.shape())?;
        if !falling.contains(&true) {
            return Ok(y.max_pool2d(&options));
        }
        let signs = Tensor::from_fn(&[falling.len()], |i| if falling[i] { -1.0 } else { 1.0 });
        let signs = y.tape().constant(signs);
        Ok((y * signs).max_pool2d(&options) * signs)
    }
}
