use crate::{Levels, Slope};

/// The straight-through estimator: the map's derivative is taken for 1.
///
/// ```text
/// dx = dy
/// ```
///
#[doc = include_str!("../../plots/estimator-identity.svg")]
///
/// ```
/// # use qnn_quant::{Pair, Sign, StraightThrough};
/// # use ndarray::array;
/// let pair = Pair::new(Sign, StraightThrough);
/// let (x, dy) = (array![-0.5, 3.0].into_dyn(), array![2.0, -7.0].into_dyn());
/// let grid = pair.map.fit(x.view())?;
/// assert_eq!(pair.pullback(x.view(), &grid, dy.view())?, dy);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Hinton 2012, *Neural Networks for Machine Learning* (lectures); Bengio, Léonard, Courville 2013,
/// arXiv:1308.3432.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StraightThrough;

impl Slope for StraightThrough {
    fn label(&self) -> &'static str {
        "identity"
    }

    #[inline(always)]
    fn slope(&self, _: f32, _: &Levels) -> f32 {
        1.0
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn is_identity(&self) -> bool {
        true
    }
}
