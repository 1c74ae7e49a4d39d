//! The scales that XNOR-Net takes from the inputs of a product.

use qnn_quant::Pair;
use qnn_tensor::ops::{Conv2dOptions, Factors};
use qnn_tensor::parallel::for_each_chunk;
use qnn_tensor::{Algorithm, Tensor, Var};

use crate::{Ctx, Error, Op, Product, Signal};

const LAYER: &str = "input scale";

/// The mean of |x| for as many rows as there are means, added in f64.
///
/// ```
/// let mut means = [0.0; 2];
/// qnn_layers::mean_magnitudes(&[1.0, -3.0, 0.5, 0.0], &mut means);
/// assert_eq!(means, [2.0, 0.25]);
/// ```
///
/// # Panics
///
/// If `x` is not as many equal rows of at least one number.
pub fn mean_magnitudes(x: &[f32], means: &mut [f32]) {
    let len = x.len().checked_div(means.len()).unwrap_or(0);
    assert!(
        len * means.len() == x.len() && (len > 0 || means.is_empty()),
        "{} numbers in {} rows",
        x.len(),
        means.len()
    );
    for (mean, row) in means.iter_mut().zip(x.chunks_exact(len.max(1))) {
        let sum: f64 = row.iter().map(|x| f64::from(x.abs())).sum();
        *mean = (sum / len as f64) as f32;
    }
}

/// The mean of |x| over the last axis, as a constant of one channel.
pub(crate) fn row_scales<'t>(cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Var<'t>, Error> {
    let x = cx.value(x);
    let value = x.value();
    let (&channels, rest) = value.shape().split_last().expect("the layer has checked the shape");
    let shape: Vec<usize> = rest.iter().copied().chain([1]).collect();
    let means = Tensor::build(&shape, |means| {
        let x = value.as_slice();
        for_each_chunk(means, |at, means| {
            mean_magnitudes(&x[at * channels..(at + means.len()) * channels], means);
        });
    });
    check_finite(&means, &value)?;
    let means = cx.tape().constant(means);
    cx.report(LAYER, None, &[x], means, || Op::MeanMagnitude);
    Ok(means)
}

/// A mean of finite numbers is finite, so the numbers need not be looked at first.
fn check_finite(means: &Tensor, x: &Tensor) -> Result<(), Error> {
    if means.as_slice().iter().all(|mean| mean.is_finite()) {
        return Ok(());
    }
    match x.as_slice().iter().enumerate().find(|(_, value)| value.is_infinite()) {
        None => Ok(()),
        Some((index, &value)) => {
            let source = qnn_quant::Error::Infinite { statistic: "the mean of |x|", index, value };
            Err(Error::Quantizer { layer: LAYER, operand: "input", source })
        }
    }
}

/// [`row_scales`] of each pixel, averaged over the window of each output. Padding counts as zeros.
///
/// Means are rounded to f32, and the window's sum is one of f32, as a packed network computes both: the last bits may differ from those of
/// [`ActivationScaling`](qnn_quant::ActivationScaling), which rounds once.
pub(crate) fn pixel_scales<'t>(
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
    [height, width]: [usize; 2],
    options: &Conv2dOptions,
) -> Result<Var<'t>, Error> {
    let means = row_scales(cx, x)?;
    let window = Tensor::full(&[height, width, 1, 1], 1.0 / (height * width) as f32);
    let options = Conv2dOptions { pad_value: 0.0, groups: 1, algorithm: Algorithm::Direct, ..*options };
    let scales = means.conv2d(cx.tape().constant(window.clone()), None, &options);
    let product = || Product { kernel: window, alphabet: None, factors: Factors::unit(), bias: None };
    cx.report(LAYER, None, &[means], scales, || Op::Conv2d { product: product(), options });
    Ok(scales)
}

/// The product with its scales and the bias.
pub(crate) fn scaled<'t>(
    cx: &mut Ctx<'t>,
    product: Var<'t>,
    scales: Var<'t>,
    bias: Option<Var<'t>>,
) -> Signal<'t> {
    let y = product * scales;
    let y = bias.map_or(y, |bias| y + bias);
    cx.report(LAYER, None, &[product, scales], y, || Op::PixelScale { bias: bias.map(Var::value) });
    y.into()
}

/// Refuses scales of inputs that are not quantized: they would be counted twice.
pub(crate) fn check_input_scaling(
    layer: &'static str,
    input_scaling: bool,
    input_quantizer: Option<&Pair>,
) -> Result<(), Error> {
    if !input_scaling || input_quantizer.is_some() {
        return Ok(());
    }
    let (value, expected) = ("true".to_owned(), "false without an input quantizer".to_owned());
    Err(Error::Setting { layer, setting: "input_scaling", value, expected })
}
