use ndarray::ArrayViewD;

/// What the codes of a map depend on besides the tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dependence {
    /// The same tensor always has the same codes.
    #[default]
    Nothing,
    /// On chance: each [`Moment::draw`] gives other codes.
    Chance,
    /// On the codes that the same elements had before: [`Moment::previous`].
    Memory,
}

/// When codes are taken, for the maps that care: see [`Dependence`].
///
/// A layer keeps what the moment is made of. For chance it counts, so that each step and each parameter has a draw of its
/// own and a resumed run draws what the uninterrupted one would have drawn. For memory it holds one array per weight, the
/// codes that were last written, and saves it with the weight.
///
/// ```
/// # use qnn_quant::{HysteresisSign, Moment, Quantizer};
/// # use ndarray::{ArrayD, array};
/// let map = HysteresisSign::new(0.1)?;
/// let mut state = ArrayD::zeros(vec![2]);
/// let w = array![0.5, -0.5].into_dyn();
/// map.codes_into(w.view(), &map.fit(w.view())?, state.view_mut())?; // the start: the signs of w
/// // One weight has crossed zero, though not the threshold on the other side; the other weight has.
/// let w = array![-0.05, 0.5].into_dyn();
/// let mut codes = ArrayD::zeros(vec![2]);
/// map.codes_at_into(w.view(), &map.fit(w.view())?, &Moment::after(state.view()), codes.view_mut())?;
/// assert_eq!(codes, array![1.0, 1.0].into_dyn());
/// # Ok::<(), qnn_quant::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Moment<'a> {
    /// Which draw of the map's random numbers: a counter of steps, say.
    pub draw: u64,
    /// The codes these elements had before; `None` at the start.
    pub previous: Option<ArrayViewD<'a, f32>>,
}

impl<'a> Moment<'a> {
    /// The given draw of random numbers.
    pub fn draw(draw: u64) -> Self {
        Moment { draw, previous: None }
    }

    /// The moment after these codes were taken.
    pub fn after(previous: ArrayViewD<'a, f32>) -> Self {
        Moment { draw: 0, previous: Some(previous) }
    }
}
