use qnn_quant::Alphabet;
use qnn_tensor::{Tensor, Var};

use crate::{Ctx, Error, QuantizeRange, Signal};

/// The codes that an integer expression ends in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) scale: f32,
    pub(super) codes: Alphabet,
}

impl Target {
    /// Those of a range, once it is known; with a ReLU the ones that are not negative.
    pub(super) fn of(range: &QuantizeRange, relu: bool) -> Result<Option<Self>, Error> {
        let Some(grid) = range.grid()? else { return Ok(None) };
        let (Some(codes), &[scale]) = (grid.alphabet(), grid.scales()) else { return Ok(None) };
        let first = if relu { codes.first.max(0) } else { codes.first };
        let count = (codes.last() - first + 1).max(1) as u32;
        Ok(Some(Self { scale, codes: Alphabet { first, step: 1, count } }))
    }

    pub(super) fn signal<'t>(&self, codes: Var<'t>) -> Signal<'t> {
        Signal::factored(codes, self.scale).with_alphabet(self.codes)
    }
}

/// Codes that integers may be made of: those of an observed range, in an evaluation.
pub(super) fn operand<'t>(cx: &Ctx<'t>, x: Signal<'t>) -> Option<Tensor> {
    let codes = x.alphabet().filter(|codes| codes.step == 1 && codes.first >= -255 && codes.last() <= 255);
    (cx.mode() == crate::Mode::Eval && codes.is_some()).then(|| x.codes().value())
}

/// A code's value.
pub(super) fn clamp(code: i32, codes: &Alphabet) -> f32 {
    code.clamp(codes.first, codes.last()) as f32
}
