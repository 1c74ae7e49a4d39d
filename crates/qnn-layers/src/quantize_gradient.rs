use ndarray::ArrayViewMutD;
use qnn_quant::{DorefaGradients, Moment, Quantizer};
use qnn_tensor::{Tensor, Var};
use rand::Rng;

use crate::quantize::try_build;
use crate::{Ctx, Error, Layer, Signal, module};

/// The identity, whose gradient is quantized on its way back: the gradients of DoReFa-Net.
///
/// ```text
/// forward    y = x
/// backward   dx = f(dy),    f of k bits with noise, scaled to each example's greatest gradient
/// ```
///
/// See [`DorefaGradients`] for f, and an example for an index of the first axis. The noise is a function of the context's seed and step.
/// A diverging run shows: a NaN makes its whole example NaN, and with an infinite gradient the batch passes as it is. Source: Zhou et al. 2016,
/// arXiv:1606.06160, its part on the quantization of gradients.
///
/// ```
/// use qnn_layers::{Ctx, Layer, Mode, QuantizeGradient};
/// use qnn_tensor::{Tape, Tensor};
///
/// let tape = Tape::new();
/// let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
/// let x = tape.leaf(Tensor::zeros(&[1, 3]));
/// let y = QuantizeGradient::new(1)?.forward(&mut cx, x.into())?.value();
/// let gradients = tape.backward_from(y, Tensor::from_vec(&[1, 3], vec![0.5, -2.0, 0.125])?);
/// assert!(gradients.of(x).unwrap().as_slice().iter().all(|dx| dx.abs() == 2.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeGradient {
    bits: u32,
}

impl QuantizeGradient {
    /// Gradients of 1 to 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Quantizer`] for other numbers of bits.
    pub fn new(bits: u32) -> Result<Self, Error> {
        match DorefaGradients::new(bits, 0) {
            Ok(_) => Ok(Self { bits }),
            Err(source) => Err(Error::Quantizer { layer: "quantize gradient", operand: "gradient", source }),
        }
    }

    /// Bits of the gradients.
    pub fn bits(self) -> u32 {
        self.bits
    }

    fn node<'t>(self, cx: &mut Ctx<'t>, x: Var<'t>) -> Var<'t> {
        if !cx.is_training() || !x.needs_gradient() {
            return x;
        }
        let map = DorefaGradients::new(self.bits, cx.draw().random()).expect("the bits were checked");
        x.tape().record("quantize_gradient", [x], x.value(), move |dy, _| {
            let values = |mut dx: ArrayViewMutD<'_, f32>| {
                let grid = map.fit(dy.view())?;
                map.codes_at_into(dy.view(), &grid, &Moment::default(), dx.view_mut())?;
                grid.dequantize_mut(dx)
            };
            [Some(try_build(dy.shape(), values).unwrap_or_else(|_| Tensor::clone(dy)))]
        })
    }
}

module!(QuantizeGradient {});

impl Layer for QuantizeGradient {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        Ok(x.map_codes(|codes| self.node(cx, codes)))
    }
}
