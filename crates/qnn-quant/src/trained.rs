use std::sync::Arc;

use ndarray::ArrayViewD;

use crate::{Quantizer, Result};

/// A forward map with parameters that are trained along with the network: PACT, LSQ, TTQ.
///
/// A map is immutable, so a layer holds the parameters where it holds its weights and asks for the map that has them
/// ([`with_parameters`](Trained::with_parameters)) in each forward pass. The gradient of the input comes from the
/// estimator that the map was published with, as for any other map; that of the parameters from here.
///
/// ```
/// use qnn_quant::{Lsq, Quantizer, Trained, quantize};
/// # use ndarray::array;
///
/// let w = array![0.3, -0.8, 0.1, 0.6].into_dyn();
/// let template = Lsq::for_weights(3, 1.0)?;
/// let mut parameters = template.initial(w.view())?;         // s = 2 E|w| / √Qp
/// let map = template.with_parameters(&parameters)?;         // each forward pass
/// let dy = quantize(&map, &w)?.mapv(|y| 2.0 * y);
/// let gradients = map.trained().unwrap().parameter_gradients(w.view(), dy.view())?;
/// parameters[0] -= 0.01 * gradients[0] as f32;              // the optimizer's step
/// # Ok::<(), qnn_quant::Error>(())
/// ```
pub trait Trained: Quantizer {
    /// What the parameters are called in state dicts and on the command line.
    fn parameter_names(&self) -> &'static [&'static str];

    /// The parameters' values, in the order of the names.
    fn parameters(&self) -> Vec<f32>;

    /// The same map with other parameters.
    ///
    /// All parameters of this crate's maps are positive. A step of an optimizer can lead out of the positive numbers; such
    /// a parameter is taken for [`LEAST`], so that training goes on. NaN stays NaN: a diverging run shows.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`](crate::Error::Parameter) if there are too few or too many, or if one or a level is infinite.
    fn with_parameters(&self, parameters: &[f32]) -> Result<Arc<dyn Quantizer>>;

    /// The parameters with which training starts, given the tensor at that time.
    ///
    /// # Errors
    ///
    /// [`Error::Infinite`](crate::Error::Infinite), and [`Error::Parameter`](crate::Error::Parameter) if a parameter is beyond f32.
    fn initial(&self, x: ArrayViewD<'_, f32>) -> Result<Vec<f32>>;

    /// The gradients with respect to the parameters, given that with respect to the quantized value.
    ///
    /// Sums are taken in f64, in chunks of constant size: the same bits for any number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape), and those of [`Quantizer::fit`].
    fn parameter_gradients(&self, x: ArrayViewD<'_, f32>, dy: ArrayViewD<'_, f32>) -> Result<Vec<f64>>;
}

/// What a parameter is taken for that training has made smaller than this, zero or negative.
pub const LEAST: f32 = 1e-6;

/// `N` parameters in the range where a map is defined.
pub(crate) fn in_range<const N: usize>(owner: &'static str, parameters: &[f32]) -> Result<[f32; N]> {
    let refuse = |value: String, expected| {
        Err(crate::Error::Parameter { owner, parameter: "trained parameters", value, expected })
    };
    let Ok(parameters) = <[f32; N]>::try_from(parameters) else {
        return refuse(format!("{} numbers", parameters.len()), "as many as there are names");
    };
    match parameters.iter().find(|parameter| parameter.is_infinite()) {
        Some(infinite) => refuse(infinite.to_string(), "finite"),
        // Not `max`, which would hide a NaN.
        None => Ok(parameters.map(|parameter| if parameter < LEAST { LEAST } else { parameter })),
    }
}

/// A parameter that a person gives: there, what is not positive is a mistake.
pub(crate) fn positive(owner: &'static str, parameter: &'static str, value: f32) -> Result<f32> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(crate::Error::Parameter {
        owner,
        parameter,
        value: value.to_string(),
        expected: "positive and finite",
    })
}
