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
/// # use qnn_quant::{Estimator, StraightThrough};
/// assert_eq!(StraightThrough.name(), "identity");
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

    fn is_identity(&self) -> bool {
        true
    }
}
