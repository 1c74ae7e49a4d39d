use qnn_quant::CodeSum;
use qnn_tensor::Tensor;
use qnn_tensor::parallel::for_each_chunk;

use super::IntegerOp;
use super::target::{Target, clamp, operand};
use crate::{Ctx, Error, Layer, Op, Signal};

const LAYER: &str = "residual sum";

/// The sum of two tensors of codes as codes of the activation's range, by [`CodeSum`] and a clamp; nothing where ranges are
/// not known, and in training.
pub(crate) fn integer_sum<'t>(
    cx: &mut Ctx<'t>,
    [a, b]: [Signal<'t>; 2],
    activation: &dyn Layer,
) -> Result<Option<Signal<'t>>, Error> {
    let (Some(range), Some(x), Some(other)) = (activation.relu_range(), operand(cx, a), operand(cx, b))
    else {
        return Ok(None);
    };
    let Some(target) = Target::of(range, true)? else { return Ok(None) };
    let ratio = |x: Signal<'_>| f64::from(x.scale()) / f64::from(target.scale);
    let failed = |source| Error::Quantizer { layer: LAYER, operand: "scales", source };
    let (sum, codes) = (CodeSum::new([ratio(a), ratio(b)]).map_err(failed)?, target.codes);
    let (x, other) = (x.as_slice(), other.as_slice());
    let y = Tensor::build(&a.shape(), |y| {
        for_each_chunk(y, |at, y| {
            let pairs = x[at..].iter().zip(&other[at..]);
            y.iter_mut()
                .zip(pairs)
                .for_each(|(y, (&a, &b))| *y = clamp(sum.apply(a as i32, b as i32), &codes));
        });
    });
    let y = cx.tape().constant(y);
    cx.report(LAYER, None, &[a.codes(), b.codes()], y, || Op::Integer(IntegerOp::Sum { sum, codes }));
    Ok(Some(target.signal(y)))
}
