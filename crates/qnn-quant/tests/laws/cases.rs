//! All maps, each with the plainest second implementation: f64, element by element, no sharing with the library.

use std::sync::Arc;

use qnn_quant::*;

pub(crate) type Map = Arc<dyn Quantizer>;

/// A map and what is known about it.
#[derive(Clone)]
pub(crate) struct Case {
    /// With one group for the whole tensor.
    pub(crate) map: Map,
    /// With one group per index of an axis, where the map has statistics.
    pub(crate) along: Option<fn(&Case, Granularity) -> Map>,
    pub(crate) plain: Plain,
    /// `q(q(x)) = q(x)`.
    pub(crate) idempotent: bool,
    /// An infinite element is an error.
    pub(crate) measures: bool,
}

/// Codes and scale of a whole tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plain {
    Sign,
    MeanSign,
    ConstantSign(f32),
    Ternary { scaled: bool },
    DorefaWeights(u32),
    Unit(u32),
}

impl Plain {
    /// Integer codes and the factor that makes them values.
    pub(crate) fn quantize(self, x: &[f32]) -> (Vec<i32>, f64) {
        let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let mean = |x: &[f64]| if x.is_empty() { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 };
        let magnitudes: Vec<f64> = wide.iter().map(|x| x.abs()).collect();
        let signs = || wide.iter().map(|&x| if x >= 0.0 { 1 } else { -1 }).collect();
        match self {
            Plain::Sign => (signs(), 1.0),
            Plain::MeanSign => (signs(), mean(&magnitudes)),
            Plain::ConstantSign(scale) => (signs(), scale.into()),
            Plain::Ternary { scaled } => {
                let threshold = 0.7 * mean(&magnitudes);
                let large: Vec<f64> = magnitudes.iter().copied().filter(|&x| x > threshold).collect();
                let code = |&x: &f64| i32::from(x > threshold) - i32::from(x < -threshold);
                (wide.iter().map(code).collect(), if scaled { mean(&large) } else { 1.0 })
            }
            Plain::DorefaWeights(bits) => {
                let n = f64::from((1_u32 << bits) - 1);
                let max = wide.iter().map(|x| x.tanh().abs()).fold(0.0, f64::max);
                let squash = |x: f64| if max == 0.0 { 0.5 } else { x.tanh() / (2.0 * max) + 0.5 };
                let code = |&x: &f64| (2.0 * (n * squash(x)).round_ties_even() - n) as i32;
                (wide.iter().map(code).collect(), 1.0 / n)
            }
            Plain::Unit(bits) => {
                let n = f64::from((1_u32 << bits) - 1);
                (wide.iter().map(|x| (n * x.clamp(0.0, 1.0)).round_ties_even() as i32).collect(), 1.0 / n)
            }
        }
    }
}

/// Every quantizing map of the crate, every number of bits.
pub(crate) fn all() -> Vec<Case> {
    let fixed = |map: Map, plain| Case { map, along: None, plain, idempotent: true, measures: false };
    let measuring = |map: Map, plain, idempotent, along| Case {
        map,
        along: Some(along),
        plain,
        idempotent,
        measures: true,
    };
    let scaled: fn(&Case, Granularity) -> Map = |_, granularity| Arc::new(ScaledSign { granularity });
    let ternary: fn(&Case, Granularity) -> Map = |case, granularity| {
        let map = Ternary::per_tensor().with_granularity(granularity);
        Arc::new(if matches!(case.plain, Plain::Ternary { scaled: false }) { map.unscaled() } else { map })
    };
    let dorefa: fn(&Case, Granularity) -> Map = |case, granularity| {
        let bits = case.map.fit(ndarray::aview0(&1.0).into_dyn()).unwrap().bits();
        Arc::new(DorefaWeights::new(bits).unwrap().with_granularity(granularity))
    };
    let unscaled = Arc::new(Ternary::per_tensor().unscaled());
    let mut cases = vec![
        fixed(Arc::new(Sign), Plain::Sign),
        fixed(Arc::new(ConstantScaledSign::new(0.125).unwrap()), Plain::ConstantSign(0.125)),
        fixed(Arc::new(ConstantScaledSign::new(0.1).unwrap()), Plain::ConstantSign(0.1)),
        fixed(Arc::new(BinaryUnit), Plain::Unit(1)),
        measuring(Arc::new(ScaledSign::per_tensor()), Plain::MeanSign, true, scaled),
        measuring(Arc::new(Ternary::per_tensor()), Plain::Ternary { scaled: true }, true, ternary),
        measuring(unscaled, Plain::Ternary { scaled: false }, true, ternary),
        measuring(Arc::new(DorefaWeights::new(1).unwrap()), Plain::MeanSign, true, dorefa),
    ];
    for bits in 1..=8 {
        cases.push(fixed(Arc::new(DorefaActivations::new(bits).unwrap()), Plain::Unit(bits)));
    }
    for bits in 2..=8 {
        let map = Arc::new(DorefaWeights::new(bits).unwrap());
        cases.push(measuring(map, Plain::DorefaWeights(bits), false, dorefa));
    }
    cases
}

#[test]
fn every_registered_map_is_among_the_cases() {
    let cases = all();
    for listing in registry::quantizers().filter(|listing| listing.name != "identity") {
        assert!(cases.iter().any(|case| case.map.name() == listing.name), "{} has no case", listing.name);
    }
}
