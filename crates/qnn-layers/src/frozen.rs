use std::sync::Arc;

use qnn_quant::{Grid, Inq, InqOrder, InqPartition, Pair, Quantizer};
use qnn_tensor::{Tensor, Var};

use crate::quantize::{Quantized, try_build};
use crate::{Buffer, Ctx, module};

/// The weights that incremental network quantization has frozen.
///
/// ```text
/// progress of training   0 – 1/4    1/4 – 1/2    1/2 – 3/4    3/4 – 1
/// share that is frozen     50 %        75 %        87.5 %      100 %
/// ```
///
/// A frozen weight is a level, whatever the optimizer's momentum still does to the latent one behind
/// it. Zhou et al. 2017, arXiv:1702.03044, algorithm 1.
#[derive(Debug)]
pub(crate) struct Frozen {
    map: Inq,
    /// 1 where a weight is frozen.
    mask: Buffer,
    /// The values of frozen weights, 0 elsewhere.
    levels: Buffer,
    /// The exponent of the greatest level, and whether it is known.
    top: Buffer,
}

module!(Frozen { mask, levels, top });

impl Frozen {
    /// What a kernel of this shape needs if the pair's map is INQ's.
    pub(crate) fn of(pair: &Pair, shape: &[usize]) -> Option<Self> {
        if pair.map.name() != "inq" {
            return None;
        }
        let bits = pair.map.fit(Tensor::zeros(&[1]).view()).ok()?.bits();
        let zeros = |shape: &[usize]| Buffer::new(Tensor::zeros(shape)).optional();
        Some(Self { map: Inq::new(bits).ok()?, mask: zeros(shape), levels: zeros(shape), top: zeros(&[2]) })
    }

    pub(crate) fn apply<'t>(
        &self,
        cx: &mut Ctx<'t>,
        pair: &Pair,
        x: Var<'t>,
    ) -> qnn_quant::Result<Quantized<'t>> {
        if cx.is_training() {
            self.advance(cx, &x.value())?;
        }
        let mask = cx.buffer(&self.mask);
        if mask.as_slice().iter().all(|&frozen| frozen == 1.0) && !mask.is_empty() {
            return self.finished(cx, x);
        }
        let levels = cx.buffer(&self.levels);
        let (value, frozen) = (x.value(), mask.as_slice());
        let mut mixed = levels;
        let pairs = mixed.as_mut_slice().iter_mut().zip(value.as_slice()).zip(frozen);
        pairs.for_each(|((level, &w), &frozen)| *level = if frozen == 1.0 { *level } else { w });
        let pullback = move |dy: &Tensor, _: [bool; 1]| {
            [Some(dy.zip_map(&mask, |dy, frozen| if frozen == 1.0 { 0.0 } else { dy }))]
        };
        let codes = x.tape().record("freeze", [x], mixed, pullback);
        Ok(Quantized { codes, grid: Arc::new(Grid::unquantized()), map: Arc::clone(&pair.map) })
    }

    /// All weights are levels: their codes, without a gradient.
    fn finished<'t>(&self, cx: &mut Ctx<'t>, x: Var<'t>) -> qnn_quant::Result<Quantized<'t>> {
        let levels = cx.buffer(&self.levels);
        let map = self.top(cx).map_or(Ok(self.map), |top| self.map.with_top(top))?;
        let grid = Arc::new(map.fit(levels.view())?);
        let codes = try_build(levels.shape(), |codes| map.codes_into(levels.view(), &grid, codes))?;
        let zeros = |dy: &Tensor, _: [bool; 1]| [Some(Tensor::zeros(dy.shape()))];
        Ok(Quantized { codes: x.tape().record("freeze", [x], codes, zeros), grid, map: Arc::new(map) })
    }

    /// Freezes the share that the training's progress asks for.
    fn advance(&self, cx: &mut Ctx<'_>, w: &Tensor) -> qnn_quant::Result<()> {
        let stages = InqPartition::PORTIONS.len();
        let stage = ((cx.progress() * stages as f64) as usize).min(stages - 1);
        let portion = InqPartition::PORTIONS[stage];
        let mask = cx.buffer(&self.mask);
        let frozen = mask.as_slice().iter().filter(|&&frozen| frozen == 1.0).count();
        if frozen >= (portion * w.len() as f64).round_ties_even() as usize {
            return Ok(());
        }
        let mut partition = InqPartition::from_parts(self.map, mask.to_array(), self.top(cx))?;
        let mut values = w.to_array();
        partition.advance(portion, InqOrder::Magnitude, values.view_mut())?;
        let after = Tensor::from_array(&partition.mask());
        let mut levels = cx.buffer(&self.levels);
        let flags = mask.as_slice().iter().zip(after.as_slice());
        let values = levels.as_mut_slice().iter_mut().zip(&values).zip(flags);
        values.for_each(|((level, &value), (&before, &now))| {
            *level = if now > before { value } else { *level };
        });
        cx.update(&self.levels, levels);
        cx.update(&self.mask, after);
        if let Some(top) = partition.top() {
            cx.update(&self.top, Tensor::from_fn(&[2], |i| [top as f32, 1.0][i]));
        }
        Ok(())
    }

    fn top(&self, cx: &Ctx<'_>) -> Option<i32> {
        let top = cx.buffer(&self.top);
        (top.as_slice()[1] != 0.0).then(|| top.as_slice()[0] as i32)
    }
}
