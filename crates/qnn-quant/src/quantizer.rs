use std::fmt::Debug;
use std::sync::Arc;

use ndarray::{Array, ArrayD, ArrayViewD, ArrayViewMutD, AsArray, Dimension};

use crate::{Dependence, Error, Estimator, Grid, Inq, Moment, Result, Trained};

/// A forward map: statistics in, levels and codes out.
///
/// The two steps are separate so that everything else follows from the [`Grid`]: [`fit`](Quantizer::fit) looks at the
/// tensor and names the levels, [`codes_into`](Quantizer::codes_into) says which level each element takes. A new map is
/// these two functions, its name and the gradient it was published with; [`elementwise`](crate::elementwise) and
/// [`statistics`](crate::statistics) are what the maps of this crate are made of.
///
/// ```
/// use std::sync::Arc;
/// use ndarray::{ArrayViewD, ArrayViewMutD, array};
/// use qnn_quant::{Alphabet, Estimator, Grid, Groups, Quantizer, Result, StraightThrough, elementwise, quantize};
///
/// /// 1 above a threshold, else 0.
/// #[derive(Debug)]
/// struct Step(f32);
///
/// impl Quantizer for Step {
///     fn name(&self) -> &'static str {
///         "step"
///     }
///     fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
///         Grid::unit(Alphabet::UNIT)
///     }
///     fn codes_into(&self, x: ArrayViewD<'_, f32>, _: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
///         let step = |x: f32| if x.is_nan() { x } else { f32::from(x > self.0) };
///         elementwise::map_into(x, Groups::Tensor, &[()], codes, |x, ()| step(x))
///     }
///     fn published(&self) -> Arc<dyn Estimator> {
///         Arc::new(StraightThrough)
///     }
/// }
///
/// assert_eq!(quantize(&Step(0.3), &[0.1, 0.5])?, array![0.0, 1.0]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
pub trait Quantizer: Debug + Send + Sync {
    /// The name on the command line, in kebab case.
    fn name(&self) -> &'static str;

    /// Measures the tensor and names its levels.
    ///
    /// A NaN among the elements makes the measured scale NaN, and every value with it: a diverging run shows. Empty,
    /// constant and zero tensors have well-defined grids. The result does not depend on the number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::Infinite`] where a statistic meets an infinite element, [`Error::AxisOutOfRange`].
    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid>;

    /// Writes the code of each element: a small integer, held in f32. NaN stays NaN, infinities saturate.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `codes` has another shape, [`Error::GroupsDoNotFit`] and [`Error::ForeignGrid`] if the grid
    /// was fitted to another shape or by another map.
    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()>;

    /// Whether [`fit`](Quantizer::fit) gives the same grid for every tensor, so that each element has its code by itself
    /// and a deployed network need not measure its activations. False unless a map says otherwise.
    ///
    /// Whoever deploys a fixed map writes it as one threshold for each code from the least to the greatest. That does not suit
    /// [`LogAp2`](crate::LogAp2), whose codes may be 2^23 apart, nor [`Ap2`](crate::Ap2), which has no scale to multiply a sum by:
    /// these two answer false, although they measure nothing, and so does [`Inq`] with a greatest level that was given.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Whether every value is its element, so that nothing need be computed: [`Identity`](crate::Identity).
    fn is_identity(&self) -> bool {
        false
    }

    /// Whether codes and values are +1 for `x ≥ 0` and −1 for `x < 0`, so that the operation before the map may compute them in its
    /// own pass over memory: [`Sign`](crate::Sign).
    fn is_sign(&self) -> bool {
        false
    }

    /// Whether codes are −127 to 127, in steps of 1/127 of the greatest magnitude of each group along the last axis: the kernels of
    /// integer-only networks, [`Affine::symmetric`](crate::Affine::symmetric) of 8 bits.
    fn is_int8_per_channel(&self) -> bool {
        false
    }

    /// The map that takes this one's place in evaluation, of maps that do something else in training.
    fn evaluated(&self) -> Option<Arc<dyn Quantizer>> {
        None
    }

    /// The map as incremental network quantization, whose weights a layer freezes portion by portion.
    fn incremental(&self) -> Option<Inq> {
        None
    }

    /// The gradient that the map was published with.
    fn published(&self) -> Arc<dyn Estimator>;

    /// Writes the quantized values: the grid's values of the codes.
    ///
    /// The maps of this crate do it in one pass over the memory; the default writes codes and replaces them.
    ///
    /// # Errors
    ///
    /// Those of [`codes_into`](Quantizer::codes_into).
    fn values_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        mut values: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        self.codes_into(x, grid, values.view_mut())?;
        grid.dequantize_mut(values)
    }

    /// [`fit`](Quantizer::fit) and [`codes_into`](Quantizer::codes_into) in one call.
    ///
    /// The maps of this crate read the tensor once for what they measure and once for codes or values, and so do [`quantize`] and
    /// [`Pair`](crate::Pair). [`Ternary`](crate::Ternary) with a scale measures twice, first the threshold and then the scale above
    /// it: three times in all, but twice here, where the second pass writes the codes, too.
    ///
    /// # Errors
    ///
    /// Those of both.
    fn fit_codes_into(&self, x: ArrayViewD<'_, f32>, codes: ArrayViewMutD<'_, f32>) -> Result<Grid> {
        let grid = self.fit(x.view())?;
        self.codes_into(x, &grid, codes)?;
        Ok(grid)
    }

    /// What codes depend on besides the tensor: nothing for most maps.
    fn dependence(&self) -> Dependence {
        Dependence::Nothing
    }

    /// [`codes_into`](Quantizer::codes_into) at a moment of training, for maps with chance or memory.
    ///
    /// # Errors
    ///
    /// Those of [`codes_into`](Quantizer::codes_into), and [`Error::Shape`] if the previous codes have another shape.
    fn codes_at_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        _: &Moment<'_>,
        codes: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        self.codes_into(x, grid, codes)
    }

    /// The map with its trained parameters, if it has any.
    fn trained(&self) -> Option<&dyn Trained> {
        None
    }

    /// The codes as integers, for packing and export.
    ///
    /// # Errors
    ///
    /// Those of [`codes_into`](Quantizer::codes_into), [`Error::NotANumber`], and [`Error::Unquantized`] if there are no
    /// codes.
    fn codes(&self, x: ArrayViewD<'_, f32>, grid: &Grid) -> Result<ArrayD<i32>> {
        if grid.alphabet().is_none() {
            return Err(Error::Unquantized { map: self.name() });
        }
        let mut codes = ArrayD::zeros(x.raw_dim());
        self.codes_into(x, grid, codes.view_mut())?;
        match codes.iter().position(|code: &f32| code.is_nan()) {
            Some(index) => Err(Error::NotANumber { index }),
            None => Ok(codes.mapv(|code| code as i32)),
        }
    }
}

impl<Q: Quantizer + ?Sized> Quantizer for Arc<Q> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn fit(&self, x: ArrayViewD<'_, f32>) -> Result<Grid> {
        (**self).fit(x)
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        (**self).codes_into(x, grid, codes)
    }

    fn is_fixed(&self) -> bool {
        (**self).is_fixed()
    }

    fn is_identity(&self) -> bool {
        (**self).is_identity()
    }

    fn is_sign(&self) -> bool {
        (**self).is_sign()
    }

    fn is_int8_per_channel(&self) -> bool {
        (**self).is_int8_per_channel()
    }

    fn evaluated(&self) -> Option<Arc<dyn Quantizer>> {
        (**self).evaluated()
    }

    fn incremental(&self) -> Option<Inq> {
        (**self).incremental()
    }

    fn published(&self) -> Arc<dyn Estimator> {
        (**self).published()
    }

    fn values_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, values: ArrayViewMutD<'_, f32>) -> Result<()> {
        (**self).values_into(x, grid, values)
    }

    fn fit_codes_into(&self, x: ArrayViewD<'_, f32>, codes: ArrayViewMutD<'_, f32>) -> Result<Grid> {
        (**self).fit_codes_into(x, codes)
    }

    fn dependence(&self) -> Dependence {
        (**self).dependence()
    }

    fn codes_at_into(
        &self,
        x: ArrayViewD<'_, f32>,
        grid: &Grid,
        moment: &Moment<'_>,
        codes: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        (**self).codes_at_into(x, grid, moment, codes)
    }

    fn trained(&self) -> Option<&dyn Trained> {
        (**self).trained()
    }

    fn codes(&self, x: ArrayViewD<'_, f32>, grid: &Grid) -> Result<ArrayD<i32>> {
        (**self).codes(x, grid)
    }
}

/// The quantized values of an array of any rank: fit, codes, values.
///
/// ```
/// # use qnn_quant::{ScaledSign, Sign, quantize};
/// # use ndarray::array;
/// assert_eq!(quantize(&Sign, &[-0.5, 0.0, 2.0])?, array![-1.0, 1.0, 1.0]);
/// let w = array![[1.0, -2.0], [-3.0, 0.0]];
/// assert_eq!(quantize(&ScaledSign::per_axis(0), &w)?, array![[1.5, -1.5], [-1.5, 1.5]]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`Quantizer::fit`].
pub fn quantize<'a, D: Dimension>(map: &dyn Quantizer, x: impl AsArray<'a, f32, D>) -> Result<Array<f32, D>> {
    let x = x.into();
    let mut values = Array::zeros(x.raw_dim());
    let x = x.into_dyn();
    let grid = map.fit(x.view())?;
    map.values_into(x, &grid, values.view_mut().into_dyn())?;
    Ok(values)
}
