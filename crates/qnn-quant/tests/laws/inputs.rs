//! Numbers and shapes on which quantizers go wrong.

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

/// Finite: signed zeros, ties of every bit width and their neighbours, clip ends, subnormals, extremes, ordinary numbers.
pub(crate) fn number() -> BoxedStrategy<f32> {
    let ends = prop::sample::select(vec![
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.0,
        -1.0,
        0.7,
        1e-45,
        -1e-45,
        1e-40,
        f32::MIN_POSITIVE,
    ]);
    let extremes = prop::sample::select(vec![f32::MAX, f32::MIN, 1e30, -1e30, 20.0, -20.0]);
    let ties = (1_u32..=8, 0_u32..256, -1_i32..=1, any::<bool>()).prop_map(|(bits, index, aside, below)| {
        let n = (1 << bits) - 1;
        let tie = ((f64::from(index % (n + 1)) + 0.5) / f64::from(n)) as f32;
        let tie = if below { -tie } else { tie };
        [tie.next_down(), tie, tie.next_up()][(aside + 1) as usize]
    });
    prop_oneof![6 => -1.5_f32..1.5, 2 => ties, 2 => ends, 1 => -0.01_f32..0.01, 1 => extremes].boxed()
}

/// Finite arrays of 1 to 4 axes, some of them empty, of one element, constant or zero.
pub(crate) fn array() -> BoxedStrategy<ArrayD<f32>> {
    let small = prop::collection::vec(0_usize..=5, 1..=4);
    let around_blocks =
        prop::sample::select(vec![vec![63], vec![64], vec![65, 3], vec![3, 65], vec![2, 3, 17], vec![1]]);
    let shape = prop_oneof![3 => small, 2 => around_blocks];
    shape
        .prop_flat_map(|shape| {
            let len = shape.iter().product::<usize>();
            let elements = prop_oneof![
                8 => prop::collection::vec(number(), len),
                1 => number().prop_map(move |x| vec![x; len]),
                1 => Just(vec![0.0; len]),
            ];
            (Just(shape), elements)
        })
        .prop_map(|(shape, elements)| ArrayD::from_shape_vec(IxDyn(&shape), elements).unwrap())
        .boxed()
}

pub(crate) fn bits(x: &ArrayD<f32>) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
