use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, IxDyn, Zip};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::elementwise::same_shape;
use crate::{Error, Inq, Quantizer, Result};

/// Which weights INQ freezes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InqOrder {
    /// The largest magnitudes, the paper's choice; equal ones in row-major order.
    #[default]
    Magnitude,
    /// A random order, the paper's comparison.
    Random {
        /// The same seed gives the same order.
        seed: u64,
    },
}

/// INQ's division of a tensor into weights that are quantized and frozen, and others that are retrained.
///
/// ```text
/// for each accumulated portion, 50%, 75%, 87.5%, 100%:
///     freeze more weights until ⌊portion · n⌉ are frozen:   w ← q(w) where newly frozen
///     retrain:                                              dw ← dw · (1 − frozen)
/// ```
///
/// The state is what a checkpoint needs: the [`mask`](InqPartition::mask), 1 where a weight is frozen, and the exponent of
/// the greatest level ([`top`](InqPartition::top)), measured when the first weights are frozen, unless the map
/// [has one](Inq::with_top), and kept from then on, so that frozen weights stay levels. After the last portion the tensor is its own quantization, `q(w) = w`.
///
/// ```
/// use qnn_quant::{Inq, InqPartition};
/// # use ndarray::array;
/// let mut w = array![1.3, -0.3, 0.9, 0.2].into_dyn();
/// let mut partition = InqPartition::new(Inq::new(3)?, w.shape());
/// partition.advance(0.5, w.view_mut())?;
/// assert_eq!(w, array![1.0, -0.3, 1.0, 0.2].into_dyn());
/// let mut dw = array![1.0, 2.0, 3.0, 4.0].into_dyn();
/// partition.release(dw.view_mut())?;                                // what the optimizer may move
/// assert_eq!(dw, array![0.0, 2.0, 0.0, 4.0].into_dyn());
/// partition.advance(1.0, w.view_mut())?;
/// assert_eq!(w, array![1.0, -0.5, 1.0, 0.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Zhou et al. 2017, *Incremental Network Quantization*, arXiv:1702.03044, section 2.2, formula (5), and algorithm 1.
#[derive(Clone, Debug, PartialEq)]
pub struct InqPartition {
    map: Inq,
    mask: ArrayD<f32>,
    top: Option<i32>,
}

impl InqPartition {
    /// The paper's accumulated portions.
    pub const PORTIONS: [f64; 4] = [0.5, 0.75, 0.875, 1.0];

    /// Nothing is frozen.
    pub fn new(map: Inq, shape: &[usize]) -> Self {
        InqPartition { map, mask: ArrayD::zeros(IxDyn(shape)), top: None }
    }

    /// From what a checkpoint has kept.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if the mask holds other numbers than 0 and 1, or if `top` is out of range.
    pub fn from_parts(map: Inq, mask: ArrayD<f32>, top: Option<i32>) -> Result<Self> {
        if let Some(other) = mask.iter().find(|&&frozen| frozen != 0.0 && frozen != 1.0) {
            let (value, expected) = (other.to_string(), "0 or 1");
            return Err(Error::Parameter { owner: "inq", parameter: "mask", value, expected });
        }
        if let Some(top) = top {
            map.with_top(top)?;
        }
        Ok(InqPartition { map, mask, top })
    }

    /// 1 where a weight is frozen, else 0.
    pub fn mask(&self) -> ArrayViewD<'_, f32> {
        self.mask.view()
    }

    /// n1, once the first weights are frozen.
    pub fn top(&self) -> Option<i32> {
        self.top
    }

    /// How many weights are frozen.
    pub fn frozen(&self) -> usize {
        self.mask.iter().filter(|&&frozen| frozen == 1.0).count()
    }

    /// Freezes weights until `portion` of them are frozen, in the map's [order](Inq::with_order), and quantizes those that are new
    /// among them.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] unless the portion is in [0, 1], [`Error::Shape`], [`Error::Infinite`], [`Error::NotANumber`]. In
    /// these cases nothing has changed.
    pub fn advance(&mut self, portion: f64, mut w: ArrayViewMutD<'_, f32>) -> Result<()> {
        if !(0.0..=1.0).contains(&portion) {
            let (value, expected) = (portion.to_string(), "between 0 and 1");
            return Err(Error::Parameter { owner: "inq", parameter: "portion", value, expected });
        }
        same_shape("the weight", self.mask.shape(), w.shape())?;
        let measured = self.map.top_of(w.view())?;
        let top = self.top.or(self.map.top()).or(measured);
        let map = top.map_or(Ok(self.map), |top| self.map.with_top(top))?;
        let mut quantized = ArrayD::zeros(w.raw_dim());
        map.values_into(w.view(), &map.fit(w.view())?, quantized.view_mut())?;
        let wanted = (portion * w.len() as f64).round_ties_even() as usize;
        let chosen = self.next(w.view(), wanted.saturating_sub(self.frozen()));
        let mut flags = vec![false; w.len()];
        chosen.into_iter().for_each(|index| flags[index] = true);
        for (((w, frozen), &level), new) in w.iter_mut().zip(&mut self.mask).zip(&quantized).zip(flags) {
            if new {
                (*w, *frozen) = (level, 1.0);
            }
        }
        self.top = if wanted > 0 { top } else { self.top };
        Ok(())
    }

    /// Sets a gradient, or an update, to 0 where weights are frozen.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`].
    pub fn release(&self, mut dw: ArrayViewMutD<'_, f32>) -> Result<()> {
        same_shape("the gradient", self.mask.shape(), dw.shape())?;
        Zip::from(&mut dw).and(&self.mask).for_each(|dw, &frozen| {
            if frozen == 1.0 {
                *dw = 0.0;
            }
        });
        Ok(())
    }

    /// The positions, in row-major order, of the `count` weights that are frozen next.
    fn next(&self, w: ArrayViewD<'_, f32>, count: usize) -> Vec<usize> {
        let free = self.mask.iter().zip(&w).enumerate().filter(|(_, (frozen, _))| **frozen == 0.0);
        let mut keys: Vec<(u64, usize)> = match self.map.order() {
            // The bits of non-negative floats are ordered like the floats.
            InqOrder::Magnitude => free.map(|(i, (_, w))| (u64::from(!w.abs().to_bits()), i)).collect(),
            InqOrder::Random { seed } => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let keys: Vec<u64> = (0..w.len()).map(|_| random.next_u64()).collect();
                free.map(|(i, _)| (keys[i], i)).collect()
            }
        };
        keys.sort_unstable();
        keys.into_iter().take(count).map(|(_, index)| index).collect()
    }
}
