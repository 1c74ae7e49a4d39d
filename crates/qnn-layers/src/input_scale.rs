//! The scales that XNOR-Net takes from the inputs of a product.

use qnn_quant::Pair;
use qnn_tensor::ops::Conv2dOptions;
use qnn_tensor::parallel::for_each_chunk;
use qnn_tensor::{Tensor, Var};

use crate::{Ctx, Error, Signal};

/// The mean of |x| over the last axis, as a constant of one channel.
pub(crate) fn row_scales<'t>(cx: &mut Ctx<'t>, x: Signal<'t>) -> Var<'t> {
    let value = cx.value(x).value();
    let (shape, x) = (value.shape(), value.as_slice());
    let (&channels, rest) = shape.split_last().expect("the layer has checked the shape");
    let shape: Vec<usize> = rest.iter().copied().chain([1]).collect();
    let means = Tensor::build(&shape, |means| {
        for_each_chunk(means, |at, means| {
            for (mean, row) in means.iter_mut().zip(x[at * channels..].chunks_exact(channels)) {
                let sum: f64 = row.iter().map(|x| f64::from(x.abs())).sum();
                *mean = (sum / channels as f64) as f32;
            }
        });
    });
    cx.tape().constant(means)
}

/// [`row_scales`] of each pixel, averaged over the window of each output. Padding counts as zeros.
pub(crate) fn pixel_scales<'t>(
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
    [height, width]: [usize; 2],
    options: &Conv2dOptions,
) -> Var<'t> {
    let means = row_scales(cx, x);
    let window = Tensor::full(&[height, width, 1, 1], 1.0 / (height * width) as f32);
    let options = Conv2dOptions { pad_value: 0.0, groups: 1, ..*options };
    means.conv2d(cx.tape().constant(window), None, &options)
}

/// The product with its scales and the bias.
pub(crate) fn scaled<'t>(product: Var<'t>, scales: Var<'t>, bias: Option<Var<'t>>) -> Signal<'t> {
    let y = product * scales;
    bias.map_or(y, |bias| y + bias).into()
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
