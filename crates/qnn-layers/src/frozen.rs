use std::sync::Arc;

use qnn_quant::{Estimator, Grid, Inq, InqPartition, Pair, Quantizer};
use qnn_tensor::{Tensor, Var};

use crate::quantize::{Quantized, try_build};
use crate::{Buffer, Ctx, Leaf, Module, Path, module};

/// The weights that incremental network quantization has frozen.
///
/// ```text
/// progress of training   0 – 1/4    1/4 – 1/2    1/2 – 3/4    3/4 – 1
/// share that is frozen     50 %        75 %        87.5 %      100 %
/// ```
///
/// A frozen weight is a level, whatever the optimizer's momentum still does to the latent one behind
/// it, and has no gradient; the others have the pair's. Zhou et al. 2017, arXiv:1702.03044, algorithm 1.
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

/// Whether a layer of the model still has to freeze weights, as incremental network quantization does portion by portion: until it
/// has, the model is not quantized.
///
/// ```
/// use qnn_layers::{Dense, DenseConfig, Init, has_weights_to_freeze};
/// use qnn_quant::{Inq, Pair};
/// let config = DenseConfig { kernel_quantizer: Some(Pair::published(Inq::new(5)?)), ..DenseConfig::new(3, 2) };
/// let fresh = Dense::new(&config, &mut Init::new(0))?;
/// assert!(has_weights_to_freeze(&fresh));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn has_weights_to_freeze(module: &dyn Module) -> bool {
    let mut awaits = false;
    module.visit(&mut Path::default(), &mut |_, leaf| {
        if let Leaf::Buffer(buffer) = leaf {
            awaits |= buffer.awaits_freezing();
        }
    });
    awaits
}

impl Frozen {
    /// What a kernel of this shape needs if the pair's map is INQ's.
    pub(crate) fn of(pair: &Pair, shape: &[usize]) -> Option<Self> {
        let zeros = |shape: &[usize]| Buffer::new(Tensor::zeros(shape)).optional();
        let map = pair.map.incremental()?;
        Some(Self { map, mask: zeros(shape).marking_frozen(), levels: zeros(shape), top: zeros(&[2]) })
    }

    /// The kernel `x`, part of it frozen, with this gradient for the rest.
    pub(crate) fn apply<'t>(
        &self,
        cx: &mut Ctx<'t>,
        gradient: Arc<dyn Estimator>,
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
        let map = self.map(cx)?;
        let grid = map.fit(value.view())?;
        let pullback = move |dy: &Tensor, _: [bool; 1]| {
            let dx =
                try_build(value.shape(), |dx| gradient.pullback_into(value.view(), &grid, dy.view(), dx));
            let dx = dx.expect("the grid was fitted to this kernel");
            [Some(dx.zip_map(&mask, |dx, frozen| if frozen == 1.0 { 0.0 } else { dx }))]
        };
        let codes = x.tape().record("freeze", [x], mixed, pullback);
        Ok(Quantized { codes, grid: Arc::new(Grid::unquantized()), map: Arc::new(map) })
    }

    /// INQ's map, with the greatest level once it is known.
    fn map(&self, cx: &Ctx<'_>) -> qnn_quant::Result<Inq> {
        self.top(cx).map_or(Ok(self.map), |top| self.map.with_top(top))
    }

    /// All weights are levels: their codes, without a gradient.
    fn finished<'t>(&self, cx: &mut Ctx<'t>, x: Var<'t>) -> qnn_quant::Result<Quantized<'t>> {
        let levels = cx.buffer(&self.levels);
        let map = self.map(cx)?;
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
        partition.advance(portion, values.view_mut())?;
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
