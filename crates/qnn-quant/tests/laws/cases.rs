//! All maps, each beside its reference.

use std::sync::Arc;

use ndarray::ArrayD;
use qnn_quant::*;

use crate::reference::{Pairs, affine, binary, learned, multi_bit, powers, ternary};

pub(crate) type Map = Arc<dyn Quantizer>;

/// Codes and values of a tensor.
type Plain = Arc<dyn Fn(&ArrayD<f32>) -> Pairs>;

/// A map and what is known about it.
#[derive(Clone)]
pub(crate) struct Case {
    /// With one group for the whole tensor, where there is a choice.
    pub(crate) map: Map,
    /// With one group per index of an axis, where there is a choice.
    pub(crate) along: Option<Arc<dyn Fn(Granularity) -> Map>>,
    pub(crate) plain: Plain,
    /// `q(q(x)) = q(x)`.
    pub(crate) idempotent: bool,
    /// An infinite element is an error.
    pub(crate) measures: bool,
    /// A grid reads any other tensor, and there is no chance: codes increase with x.
    pub(crate) increasing: bool,
    /// The nearest of evenly spaced levels.
    pub(crate) nearest: bool,
}

impl Case {
    fn fixed(map: impl Quantizer + 'static, plain: impl Fn(&ArrayD<f32>) -> Pairs + 'static) -> Self {
        let (map, plain) = (Arc::new(map), Arc::new(plain));
        Case { map, along: None, plain, idempotent: true, measures: false, increasing: true, nearest: false }
    }

    fn measuring<Q: Quantizer + 'static>(
        along: impl Fn(Granularity) -> Q + 'static,
        plain: impl Fn(&ArrayD<f32>) -> Pairs + 'static,
    ) -> Self {
        let case = Case::fixed(along(Granularity::Tensor), plain);
        Case {
            measures: true,
            along: Some(Arc::new(move |granularity| Arc::new(along(granularity)))),
            ..case
        }
    }

    fn nearest(self) -> Self {
        Case { nearest: true, ..self }
    }

    fn not_idempotent(self) -> Self {
        Case { idempotent: false, ..self }
    }

    fn measures(self) -> Self {
        Case { measures: true, ..self }
    }

    fn not_increasing(self) -> Self {
        Case { increasing: false, ..self }
    }
}

/// Every quantizing map of the crate, every number of bits.
pub(crate) fn all() -> Vec<Case> {
    [binary_maps(), ternary_maps(), dorefa_maps(), even_maps(), affine_maps(), power_maps(), learned_maps()]
        .concat()
}

fn binary_maps() -> Vec<Case> {
    let constant = |scale: f32| {
        Case::fixed(ConstantScaledSign::new(scale).unwrap(), move |x| binary::scaled(x, scale.into()))
    };
    let hysteresis = |granularity| HysteresisSign::new(0.1).unwrap().with_granularity(granularity);
    vec![
        Case::fixed(Sign, |x| binary::scaled(x, 1.0)),
        Case::fixed(StochasticSign::new(5), |x| binary::stochastic(x, 5)).not_increasing(),
        constant(0.125),
        constant(0.1),
        Case::fixed(BinaryUnit, binary::unit).nearest(),
        Case::fixed(Heaviside, binary::heaviside),
        Case::measuring(|granularity| ScaledSign { granularity }, binary::mean_sign),
        Case::measuring(hysteresis, binary::mean_sign),
        Case::fixed(MagnitudeAwareSign, binary::magnitude_aware).measures().not_increasing(),
    ]
}

fn ternary_maps() -> Vec<Case> {
    let of = |granularity| Ternary::per_tensor().with_granularity(granularity);
    let trained = TrainedTernary::new(0.7, 0.4).unwrap();
    let mut cases = vec![
        Case::measuring(of, |x| ternary::published(x, 0.7, true)),
        Case::measuring(move |g| of(g).unscaled(), |x| ternary::published(x, 0.7, false)),
        Case::measuring(move |g| of(g).exact(), ternary::exact),
        Case::fixed(trained, |x| ternary::trained(x, 0.05, 0.7, 0.4)).measures(),
    ];
    for factor in [0.0, 0.4, 1.3] {
        let with = move |g| of(g).with_threshold(factor).unwrap();
        cases.push(Case::measuring(with, move |x| ternary::published(x, factor, true)));
        let trained = trained.with_threshold(factor).unwrap();
        let plain = move |x: &ArrayD<f32>| ternary::trained(x, factor, 0.7, 0.4);
        cases.push(Case::fixed(trained, plain).measures());
    }
    cases
}

fn dorefa_maps() -> Vec<Case> {
    let weights = |bits| move |g| DorefaWeights::new(bits).unwrap().with_granularity(g);
    let mut cases = vec![Case::measuring(weights(1), binary::mean_sign)];
    for bits in 2..=8 {
        let plain = move |x: &ArrayD<f32>| multi_bit::dorefa_weights(x, bits);
        cases.push(Case::measuring(weights(bits), plain).not_idempotent());
    }
    for bits in 1..=8 {
        let activations = DorefaActivations::new(bits).unwrap();
        cases.push(Case::fixed(activations, move |x| multi_bit::unit(x, bits)).nearest());
        let gradients = DorefaGradients::new(bits, 9).unwrap();
        let plain = move |x: &ArrayD<f32>| multi_bit::dorefa_gradients(x, bits, 9);
        cases.push(Case::fixed(gradients, plain).measures().not_increasing().not_idempotent());
    }
    cases
}

fn even_maps() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [3, 5, 100] {
        let map = EvenLevels::new(count, 1.5).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::alphabet(x, count, 1.5)).nearest());
    }
    for bits in 1..=8 {
        let map = EvenLevels::of_bits(bits, 0.75).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::alphabet(x, 1 << bits, 0.75)).nearest());
        let map = Uniform::asymmetric(bits, 1.25).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::uniform_asymmetric(x, bits, 1.25)).nearest());
        cases.push(
            Case::fixed(FixedPoint::new(bits).unwrap(), move |x| multi_bit::fixed_point(x, bits)).nearest(),
        );
        let map = QuantizedHardTanh::new(bits).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::fixed_point(x, bits)).nearest());
        let map = QuantizedRelu::new(bits).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::relu(x, bits as i32)).nearest());
    }
    for bits in 2..=8 {
        let map = Uniform::symmetric(bits, 1.25).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::uniform_symmetric(x, bits, 1.25)).nearest());
        let map = QuantizedRelu::with_sign_bit(bits).unwrap();
        cases.push(Case::fixed(map, move |x| multi_bit::relu(x, bits as i32 - 1)).nearest());
    }
    cases
}

fn affine_maps() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 2..=8 {
        let symmetric = move |g| Affine::symmetric(bits).unwrap().with_granularity(g);
        cases
            .push(Case::measuring(symmetric, move |x| affine::symmetric(x, bits)).not_idempotent().nearest());
    }
    for bits in 1..=8 {
        let asymmetric = move |g| Affine::asymmetric(bits).unwrap().with_granularity(g);
        cases.push(
            Case::measuring(asymmetric, move |x| affine::asymmetric(x, bits)).not_idempotent().nearest(),
        );
        let unsigned = move |g| Affine::asymmetric(bits).unwrap().unsigned().with_granularity(g);
        cases.push(Case::measuring(unsigned, move |x| affine::unsigned(x, bits)).not_idempotent().nearest());
        let range = Range::new(-0.3, 1.1).unwrap();
        let map = Affine::asymmetric(bits).unwrap().with_ranges(vec![range]).unwrap();
        let plain = move |x: &ArrayD<f32>| affine::ranged(x, bits, range.low().into(), range.high().into());
        cases.push(Case::fixed(map, plain).nearest());
    }
    cases
}

fn power_maps() -> Vec<Case> {
    let mut cases = vec![
        Case::fixed(Ap2, powers::ap2),
        Case::fixed(LogAp2::new(-3, 1).unwrap(), |x| powers::log_ap2(x, -3.0, 1.0)),
    ];
    for bits in 2..=6 {
        cases.push(Case::fixed(Inq::new(bits).unwrap(), move |x| powers::inq(x, bits)).measures());
        let given = Inq::new(bits).unwrap().with_top(-1).unwrap();
        cases.push(Case::fixed(given, move |x| powers::inq_below(x, bits, -1.0)));
    }
    cases
}

fn learned_maps() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..=8 {
        cases.push(
            Case::fixed(Pact::new(bits, 1.3).unwrap(), move |x| learned::pact(x, bits, 1.3_f32.into()))
                .nearest(),
        );
        let high = 2_f64.powi(bits as i32) - 1.0;
        let map = Lsq::for_activations(bits, 0.2).unwrap();
        cases.push(Case::fixed(map, move |x| learned::lsq(x, 0.0, high, 0.2_f32.into())).nearest());
    }
    for bits in 2..=8 {
        let half = 2_f64.powi(bits as i32 - 1);
        let map = Lsq::for_weights(bits, 0.2).unwrap();
        cases.push(Case::fixed(map, move |x| learned::lsq(x, -half, half - 1.0, 0.2_f32.into())).nearest());
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
