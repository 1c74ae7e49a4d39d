use qnn_quant::Multiplier;
use qnn_tensor::Tensor;

use super::IntegerOp;
use super::target::{Target, clamp, operand};
use crate::{Ctx, Error, GlobalAveragePool, Layer, Op, QuantizeRange, Signal};

const LAYER: &str = "global average pool";

/// The mean of each channel, `[n, h, w, c]` to `[n, c]`, quantized to an observed range.
///
/// In evaluation of known codes x with the scale S_x, by integers:
///
/// ```text
/// y = clamp( (Σ x) · multiplier )          multiplier = S_x / (S_y · pixels), two roundings: see Multiplier
/// ```
///
/// # Errors
///
/// Those of [`GlobalAveragePool`] and [`QuantizeRange`].
pub fn average_in_range<'t>(
    cx: &mut Ctx<'t>,
    x: Signal<'t>,
    range: &QuantizeRange,
) -> Result<Signal<'t>, Error> {
    let (shape, target) = (x.shape(), Target::of(range, false)?);
    let (Some(codes), Some(target), &[images, height, width, channels], false) =
        (operand(cx, x), target, &shape[..], shape.iter().skip(1).any(|&axis| axis == 0))
    else {
        let mean = GlobalAveragePool.forward(cx, x)?;
        return range.forward(cx, mean);
    };
    let pixels = height * width;
    let scale = f64::from(x.scale()) / (f64::from(target.scale) * pixels as f64);
    let failed = |source| Error::Quantizer { layer: LAYER, operand: "scales", source };
    let multiplier = Multiplier::new(scale).map_err(failed)?;
    let mut sums = vec![0_i32; images * channels];
    let per_image = codes.as_slice().chunks_exact(pixels * channels).zip(sums.chunks_exact_mut(channels));
    for (image, sums) in per_image {
        for pixel in image.chunks_exact(channels) {
            sums.iter_mut().zip(pixel).for_each(|(sum, &code)| *sum += code as i32);
        }
    }
    let y = Tensor::from_fn(&[images, channels], |i| clamp(multiplier.apply(sums[i]), &target.codes));
    let y = cx.tape().constant(y);
    let op = || Op::Integer(IntegerOp::Mean { multiplier, codes: target.codes });
    cx.report(LAYER, None, &[x.codes()], y, op);
    Ok(target.signal(y))
}
