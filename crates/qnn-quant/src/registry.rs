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

mod entries;

use std::sync::Arc;

use self::entries::{ESTIMATORS, Entry, QUANTIZERS};
use crate::*;

/// What a command line can say about a map and its estimator. All are optional; what a map or estimator cannot use is
/// an error rather than ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parameters {
    /// `--bits`: of all maps with a choice of width.
    pub bits: Option<u32>,
    /// `--levels`: of `alphabet`, in place of bits.
    pub levels: Option<u32>,
    /// `--scale`: of `constant-scaled-sign`; the step with which `lsq` starts, 1 by default. A layer that trains the step
    /// starts from its first tensor instead.
    pub scale: Option<f32>,
    /// `--axis`: over which elements statistics are taken. Whole tensor by default.
    pub axis: Option<Granularity>,
    /// `--threshold`: of `ternary`, the factor before the mean magnitude; of `trained-ternary`, before the greatest; of `hysteresis-sign`.
    pub threshold: Option<f64>,
    /// `--unscaled`: levels −1, 0, 1 of `ternary`.
    pub unscaled: bool,
    /// `--exact`: the threshold of `ternary` with the least squared error.
    pub exact: bool,
    /// `--wp`: the positive level with which `trained-ternary` starts, 1 by default. A layer that trains the levels starts from its
    /// first tensor instead.
    pub wp: Option<f32>,
    /// `--wn`: the magnitude of the negative level, likewise.
    pub wn: Option<f32>,
    /// `--seed`: of the maps with chance. 0 by default.
    pub seed: Option<u64>,
    /// `--low`: the lower end of `affine`'s range, in place of the tensor's own.
    pub low: Option<f32>,
    /// `--high`: its upper end.
    pub high: Option<f32>,
    /// `--symmetric`: of `affine`: zero point 0.
    pub symmetric: bool,
    /// `--asymmetric`: of `uniform`: all codes of two's complement.
    pub asymmetric: bool,
    /// `--unsigned`: of `lsq`: levels from 0 up; of `affine`: stored integers from 0 up.
    pub unsigned: bool,
    /// `--sign-bit`: of `quantized-relu`: one bit is spent on the sign.
    pub sign_bit: bool,
    /// `--lowest`: the lowest exponent of `log-ap2`, -6 by default.
    pub lowest: Option<i32>,
    /// `--highest`: its highest exponent, 0 by default.
    pub highest: Option<i32>,
    /// `--clip`: where the estimator's slope ends, and the range of `alphabet`, `uniform` and `pact`.
    pub clip: Option<f32>,
    /// `--k`: the steepness of `modified-tanh`, the height of `error-decay`, which then stays the same throughout training.
    pub k: Option<f32>,
    /// `--periodic`: of `modified-tanh`: steps outside of the levels as well.
    pub periodic: bool,
    /// `--beta`: of `swish-sign`.
    pub beta: Option<f32>,
    /// `--t`: the steepness of `error-decay`, which then stays the same throughout training.
    pub t: Option<f32>,
    /// `--leak`: the slope of `leaky-clipped` outside.
    pub leak: Option<f32>,
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
/// Parameters that estimators take are left to [`estimator`], unless the map takes them as well.
///
/// # Errors
///
/// [`Error::UnknownName`], [`Error::MissingParameter`], [`Error::UnusedParameter`], and those of the constructors.
pub fn quantizer(name: &str, parameters: &Parameters) -> Result<Arc<dyn Quantizer>> {
    let entry = find("quantizer", QUANTIZERS, name)?;
    all_used(&parameters.of_map(), &[entry.listing])?;
    (entry.build)(parameters)
}

/// The estimator of this name.
///
/// Parameters of maps are left to [`quantizer`].
///
/// # Errors
///
/// [`Error::UnknownName`], [`Error::UnusedParameter`], [`Error::Parameter`].
pub fn estimator(name: &str, parameters: &Parameters) -> Result<Arc<dyn Estimator>> {
    let entry = find("estimator", ESTIMATORS, name)?;
    all_used(&parameters.of_estimator(), &[entry.listing])?;
    (entry.build)(parameters)
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
    let of_map = find("quantizer", QUANTIZERS, map)?.listing;
    let map = quantizer(map, parameters)?;
    let published = map.published();
    let entry = find("estimator", ESTIMATORS, gradient.unwrap_or(published.name()))?;
    let given = parameters.of_estimator();
    all_used(&given, &[entry.listing, of_map])?;
    let changed = given.iter().any(|parameter| entry.listing.parameters.contains(parameter));
    let gradient = if gradient.is_some() || changed { (entry.build)(parameters)? } else { published };
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
            ("levels", self.levels.is_some()),
            ("scale", self.scale.is_some()),
            ("axis", self.axis.is_some()),
            ("threshold", self.threshold.is_some()),
            ("unscaled", self.unscaled),
            ("exact", self.exact),
            ("wp", self.wp.is_some()),
            ("wn", self.wn.is_some()),
            ("seed", self.seed.is_some()),
            ("low", self.low.is_some()),
            ("high", self.high.is_some()),
            ("symmetric", self.symmetric),
            ("asymmetric", self.asymmetric),
            ("unsigned", self.unsigned),
            ("sign-bit", self.sign_bit),
            ("lowest", self.lowest.is_some()),
            ("highest", self.highest.is_some()),
        ];
        given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }

    fn of_estimator(&self) -> Vec<&'static str> {
        let given = [
            ("clip", self.clip.is_some()),
            ("k", self.k.is_some()),
            ("periodic", self.periodic),
            ("beta", self.beta.is_some()),
            ("t", self.t.is_some()),
            ("leak", self.leak.is_some()),
        ];
        given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }
}

fn find<T: ?Sized>(
    kind: &'static str,
    entries: &'static [Entry<T>],
    name: &str,
) -> Result<&'static Entry<T>> {
    entries.iter().find(|entry| entry.listing.name == name).ok_or_else(|| {
        let known = entries.iter().map(|entry| entry.listing.name).collect();
        Error::UnknownName { kind, name: name.to_owned(), known }
    })
}

/// Whether one of the listed has a use for each parameter; the first of them is blamed if not.
fn all_used(given: &[&'static str], listings: &[Listing]) -> Result<()> {
    let unused = |parameter: &&&str| !listings.iter().any(|listing| listing.parameters.contains(parameter));
    match given.iter().find(unused) {
        Some(parameter) => Err(Error::UnusedParameter { owner: listings[0].name, parameter }),
        None => Ok(()),
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
            levels: None,
            scale: takes("scale").then_some(0.125),
            axis: takes("axis").then_some(Granularity::Axis(0)),
            threshold: takes("threshold").then_some(0.5),
            unscaled: takes("unscaled"),
            // Not beside a threshold of one's own.
            exact: false,
            wp: takes("wp").then_some(0.5),
            wn: takes("wn").then_some(0.25),
            seed: takes("seed").then_some(1),
            low: takes("low").then_some(-1.0),
            high: takes("high").then_some(2.0),
            symmetric: takes("symmetric"),
            asymmetric: takes("asymmetric"),
            unsigned: takes("unsigned") && !takes("symmetric"),
            sign_bit: takes("sign-bit"),
            lowest: takes("lowest").then_some(-3),
            highest: takes("highest").then_some(0),
            clip: takes("clip").then_some(2.0),
            k: takes("k").then_some(4.0),
            periodic: takes("periodic"),
            beta: takes("beta").then_some(6.0),
            t: takes("t").then_some(2.0),
            leak: takes("leak").then_some(0.2),
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
    fn parameters_that_exclude_each_other_are_refused() {
        let none = Parameters::default();
        for (name, given) in [
            ("ternary", Parameters { exact: true, threshold: Some(0.5), ..none }),
            ("affine", Parameters { symmetric: true, unsigned: true, ..none }),
            ("alphabet", Parameters { bits: Some(2), levels: Some(4), ..none }),
        ] {
            let error = quantizer(name, &given).unwrap_err();
            assert!(matches!(error, Error::UnusedParameter { .. }), "{name}: {error}");
        }
        assert!(matches!(
            quantizer("affine", &Parameters { low: Some(0.0), ..none }),
            Err(Error::MissingParameter { parameter: "high", .. })
        ));
    }

    #[test]
    fn a_range_that_the_map_takes_need_not_suit_the_estimator() {
        let given = Parameters { bits: Some(2), clip: Some(2.0), k: Some(4.0), ..Parameters::default() };
        let pair = pair("alphabet", Some("modified-tanh"), &given).unwrap();
        let debug = format!("{pair:?}");
        assert!(debug.contains("end: 2.0") && debug.contains("k: 4.0"), "{debug}");
        let published = super::pair("alphabet", None, &Parameters { k: None, ..given }).unwrap();
        assert_eq!(format!("{:?}", published.gradient), "ClippedIdentity { c: 2.0 }");
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let none = Parameters::default();
        assert!(matches!(
            quantizer("dorefa-weights", &none),
            Err(Error::MissingParameter { parameter: "bits", .. })
        ));
        for Listing { name, parameters, .. } in quantizers().filter(|one| one.parameters.contains(&"bits")) {
            for bits in [0, 9, 33, u32::MAX] {
                let given = Parameters { bits: Some(bits), ..all_of(parameters) };
                let outcome = quantizer(name, &given);
                assert!(matches!(outcome, Err(Error::Bits { .. })), "{name} of {bits} bits: {outcome:?}");
            }
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
    fn what_training_replaces_need_not_be_given() {
        let bits = Parameters { bits: Some(3), ..Parameters::default() };
        let start =
            |name, given: Parameters| quantizer(name, &given).unwrap().trained().unwrap().parameters();
        let none = Parameters::default();
        assert_eq!(start("trained-ternary", none), [1.0, 1.0]);
        assert_eq!(start("trained-ternary", Parameters { wn: Some(0.5), ..none }), [1.0, 0.5]);
        assert_eq!(start("lsq", bits), [1.0]);
        let levels = quantizer("log-ap2", &none).unwrap();
        let grid = levels.fit(ndarray::aview1(&[]).into_dyn()).unwrap();
        assert_eq!((grid.bits(), grid.scales(), grid.levels(0, 0).highest), (4, &[2_f32.powi(-6)][..], 1.0));
    }

    #[test]
    fn error_decay_follows_training_unless_its_shape_is_given() {
        let decay = |given: Parameters| estimator("error-decay", &given).unwrap();
        let none = Parameters::default();
        let end = decay(none).scheduled(1.0).expect("it is scheduled");
        assert_eq!(format!("{end:?}"), format!("{:?}", ErrorDecay::at(1.0)));
        for fixed in [Parameters { t: Some(2.0), ..none }, Parameters { k: Some(5.0), ..none }] {
            assert!(decay(fixed).scheduled(0.5).is_none(), "{fixed:?}");
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let message = quantizer("sgin", &Parameters::default()).unwrap_err().to_string();
        assert!(message.starts_with("unknown quantizer `sgin`; known are identity, sign, "), "{message}");
    }
}
