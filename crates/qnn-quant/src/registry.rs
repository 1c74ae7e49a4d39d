//! Maps and estimators by their names on the command line.
//!
//! ```
//! use qnn_quant::registry::{self, Parameters};
//!
//! let map = registry::quantizer("dorefa-weights", &Parameters { bits: Some(4), ..Parameters::default() })?;
//! assert_eq!(map.published().name(), "dorefa-tanh");
//! for listing in registry::quantizers() {
//!     assert!(!listing.name.is_empty() && !listing.formula.is_empty());
//! }
//! # Ok::<(), qnn_quant::Error>(())
//! ```

use std::sync::Arc;

use crate::*;

/// What a command line can say about a map and its estimator. All are optional; what a map or estimator cannot use is
/// an error rather than ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parameters {
    /// `--bits`: of the DoReFa maps.
    pub bits: Option<u32>,
    /// `--scale`: of `constant-scaled-sign`.
    pub scale: Option<f32>,
    /// `--axis`: over which elements statistics are taken. Whole tensor by default.
    pub axis: Option<Granularity>,
    /// `--threshold`: of `ternary`, the factor before the mean magnitude.
    pub threshold: Option<f64>,
    /// `--unscaled`: levels −1, 0, 1 of `ternary`.
    pub unscaled: bool,
    /// `--clip`: where the estimator's slope ends.
    pub clip: Option<f32>,
}

/// One line of the list of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The name on the command line.
    pub name: &'static str,
    /// The formula in one line.
    pub formula: &'static str,
    /// The parameters it takes, without the leading dashes.
    pub parameters: &'static [&'static str],
}

/// The map of this name.
///
/// Parameters of estimators are left to [`estimator`].
///
/// # Errors
///
/// [`Error::UnknownName`], [`Error::MissingParameter`], [`Error::UnusedParameter`], and those of the constructors.
pub fn quantizer(name: &str, parameters: &Parameters) -> Result<Arc<dyn Quantizer>> {
    build("quantizer", QUANTIZERS, name, &parameters.of_map(), parameters)
}

/// The estimator of this name.
///
/// Parameters of maps are left to [`quantizer`].
///
/// # Errors
///
/// [`Error::UnknownName`], [`Error::UnusedParameter`], [`Error::Parameter`].
pub fn estimator(name: &str, parameters: &Parameters) -> Result<Arc<dyn Estimator>> {
    build("estimator", ESTIMATORS, name, &parameters.of_estimator(), parameters)
}

/// The map of this name with the estimator of that name, or with the gradient it was published with.
///
/// ```
/// # use qnn_quant::registry::{Parameters, pair};
/// let pair = pair("sign", None, &Parameters { clip: Some(2.0), ..Parameters::default() })?;
/// assert_eq!(format!("{:?}", pair.gradient), "ClippedIdentity { c: 2.0 }");
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`quantizer`] and [`estimator`].
pub fn pair(map: &str, gradient: Option<&str>, parameters: &Parameters) -> Result<Pair> {
    let map = quantizer(map, parameters)?;
    let gradient = match gradient {
        Some(name) => estimator(name, parameters)?,
        None if parameters.of_estimator().is_empty() => map.published(),
        None => estimator(map.published().name(), parameters)?,
    };
    Ok(Pair { map, gradient })
}

/// All maps.
pub fn quantizers() -> impl Iterator<Item = Listing> {
    QUANTIZERS.iter().map(|entry| entry.listing)
}

/// All estimators.
pub fn estimators() -> impl Iterator<Item = Listing> {
    ESTIMATORS.iter().map(|entry| entry.listing)
}

impl Parameters {
    fn of_map(&self) -> Vec<&'static str> {
        let given = [
            ("bits", self.bits.is_some()),
            ("scale", self.scale.is_some()),
            ("axis", self.axis.is_some()),
            ("threshold", self.threshold.is_some()),
            ("unscaled", self.unscaled),
        ];
        given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }

    fn of_estimator(&self) -> Vec<&'static str> {
        self.clip.map(|_| "clip").into_iter().collect()
    }

    fn bits(&self, owner: &'static str) -> Result<u32> {
        self.bits.ok_or(Error::MissingParameter { owner, parameter: "bits" })
    }

    fn granularity(&self) -> Granularity {
        self.axis.unwrap_or_default()
    }

    fn clip(&self, owner: &'static str) -> Result<f32> {
        let clip = self.clip.unwrap_or(1.0);
        if clip >= 0.0 {
            return Ok(clip);
        }
        let (value, expected) = (clip.to_string(), "at least 0; `inf` clips nothing");
        Err(Error::Parameter { owner, parameter: "clip", value, expected })
    }
}

struct Entry<T: ?Sized> {
    listing: Listing,
    build: fn(&Parameters) -> Result<Arc<T>>,
}

const fn entry<T: ?Sized>(
    name: &'static str,
    parameters: &'static [&'static str],
    formula: &'static str,
    build: fn(&Parameters) -> Result<Arc<T>>,
) -> Entry<T> {
    Entry { listing: Listing { name, formula, parameters }, build }
}

const QUANTIZERS: &[Entry<dyn Quantizer>] = &[
    entry("identity", &[], "x", |_| Ok(Arc::new(Identity))),
    entry("sign", &[], "+1 if x >= 0, else -1", |_| Ok(Arc::new(Sign))),
    entry("scaled-sign", &["axis"], "mean|x| * sign(x)", |p| {
        Ok(Arc::new(ScaledSign { granularity: p.granularity() }))
    }),
    entry("constant-scaled-sign", &["scale"], "scale * sign(x)", |p| {
        let missing = Error::MissingParameter { owner: "constant-scaled-sign", parameter: "scale" };
        Ok(Arc::new(ConstantScaledSign::new(p.scale.ok_or(missing)?)?))
    }),
    entry("binary-unit", &[], "1 if x > 1/2, else 0", |_| Ok(Arc::new(BinaryUnit))),
    entry(
        "ternary",
        &["axis", "threshold", "unscaled"],
        "a * sign(x) if |x| > D, else 0; D = threshold * mean|x| (0.7), a = mean|x| over |x| > D, or 1 if unscaled",
        |p| {
            let map = Ternary::per_tensor().with_granularity(p.granularity());
            let map = p.threshold.map_or(Ok(map), |threshold| map.with_threshold(threshold))?;
            Ok(Arc::new(if p.unscaled { map.unscaled() } else { map }))
        },
    ),
    entry(
        "dorefa-weights",
        &["bits", "axis"],
        "2 * round(n * (tanh(x) / (2 max|tanh x|) + 1/2)) / n - 1, n = 2^bits - 1; 1 bit: mean|x| * sign(x)",
        |p| Ok(Arc::new(DorefaWeights::new(p.bits("dorefa-weights")?)?.with_granularity(p.granularity()))),
    ),
    entry("dorefa-activations", &["bits"], "round(n * clip(x, 0, 1)) / n, n = 2^bits - 1", |p| {
        Ok(Arc::new(DorefaActivations::new(p.bits("dorefa-activations")?)?))
    }),
];

const ESTIMATORS: &[Entry<dyn Estimator>] = &[
    entry("identity", &[], "dy", |_| Ok(Arc::new(StraightThrough))),
    entry("clipped-identity", &["clip"], "dy if |x| <= clip (1), else 0", |p| {
        Ok(Arc::new(ClippedIdentity { c: p.clip("clipped-identity")? }))
    }),
    entry("clipped-unit", &[], "dy if 0 <= x <= 1, else 0", |_| Ok(Arc::new(ClippedUnit))),
    entry("approx-sign", &[], "dy * (2 - 2|x|) if |x| <= 1, else 0", |_| Ok(Arc::new(ApproxSign))),
    entry("dorefa-tanh", &[], "dy * (1 - tanh(x)^2) / max|tanh x|", |_| Ok(Arc::new(DorefaTanh))),
    entry(
        "xnor-net",
        &[],
        "dy * (1/n + a) if |x| <= 1, else dy / n; a = greatest level, n = group size",
        |_| Ok(Arc::new(XnorNetGradient)),
    ),
    entry(
        "scaled-sign",
        &["clip"],
        "a * dy * [|x| <= clip (1)] + sign(x) * mean(dy sign(x)); a = greatest level, the exact chain rule",
        |p| Ok(Arc::new(ScaledSignGradient { c: p.clip("scaled-sign")? })),
    ),
];

fn build<T: ?Sized>(
    kind: &'static str,
    entries: &'static [Entry<T>],
    name: &str,
    given: &[&'static str],
    parameters: &Parameters,
) -> Result<Arc<T>> {
    let Some(Entry { listing, build }) = entries.iter().find(|entry| entry.listing.name == name) else {
        let known = entries.iter().map(|entry| entry.listing.name).collect();
        return Err(Error::UnknownName { kind, name: name.to_owned(), known });
    };
    match given.iter().find(|parameter| !listing.parameters.contains(parameter)) {
        Some(parameter) => Err(Error::UnusedParameter { owner: listing.name, parameter }),
        None => build(parameters),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every parameter, so that each map finds what it needs.
    fn all_of(names: &[&str]) -> Parameters {
        let takes = |name| names.contains(&name);
        Parameters {
            bits: takes("bits").then_some(3),
            scale: takes("scale").then_some(0.125),
            axis: takes("axis").then_some(Granularity::Axis(0)),
            threshold: takes("threshold").then_some(0.5),
            unscaled: takes("unscaled"),
            clip: takes("clip").then_some(2.0),
        }
    }

    #[test]
    fn every_entry_is_built_under_its_own_name() {
        for Listing { name, parameters, .. } in quantizers() {
            assert_eq!(quantizer(name, &all_of(parameters)).unwrap().name(), name);
        }
        for Listing { name, parameters, .. } in estimators() {
            assert_eq!(estimator(name, &all_of(parameters)).unwrap().name(), name);
        }
    }

    #[test]
    fn published_gradients_are_registered() {
        for Listing { name, parameters, .. } in quantizers() {
            let published = quantizer(name, &all_of(parameters)).unwrap().published();
            assert!(estimators().any(|listing| listing.name == published.name()), "{name}: {published:?}");
        }
    }

    #[test]
    fn parameters_without_meaning_are_refused() {
        let bits = all_of(&["bits"]);
        let unused = Error::UnusedParameter { owner: "sign", parameter: "bits" };
        assert_eq!(quantizer("sign", &bits).unwrap_err(), unused);
        let unused = Error::UnusedParameter { owner: "identity", parameter: "clip" };
        assert_eq!(pair("sign", Some("identity"), &all_of(&["clip"])).unwrap_err(), unused);
        assert_eq!(pair("scaled-sign", None, &all_of(&["clip"])).unwrap_err(), unused);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let none = Parameters::default();
        assert!(matches!(
            quantizer("dorefa-weights", &none),
            Err(Error::MissingParameter { parameter: "bits", .. })
        ));
        for bits in [0, 9, 33, u32::MAX] {
            let given = Parameters { bits: Some(bits), ..none };
            assert!(matches!(quantizer("dorefa-activations", &given), Err(Error::Bits { .. })));
            assert!(matches!(quantizer("dorefa-weights", &given), Err(Error::Bits { .. })));
        }
        for value in [f32::NAN, -1.0] {
            let given = Parameters { clip: Some(value), ..none };
            assert!(matches!(estimator("clipped-identity", &given), Err(Error::Parameter { .. })));
            let given = Parameters { scale: Some(value), ..none };
            assert!(matches!(quantizer("constant-scaled-sign", &given), Err(Error::Parameter { .. })));
            let given = Parameters { threshold: Some(value.into()), ..none };
            assert!(matches!(quantizer("ternary", &given), Err(Error::Parameter { .. })));
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let message = quantizer("sgin", &Parameters::default()).unwrap_err().to_string();
        assert!(message.starts_with("unknown quantizer `sgin`; known are identity, sign, "), "{message}");
    }
}
