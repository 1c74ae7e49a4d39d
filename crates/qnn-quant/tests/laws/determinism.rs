//! Neither threads nor memory layout change a bit.

use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::Normal;
use proptest::prelude::*;
use qnn_quant::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::cases::{Map, all};
use crate::estimators::published;
use crate::inputs::{array, bits};

fn random(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let normal = Normal::new(0.0, 0.5).unwrap();
    ArrayD::random_using(IxDyn(shape), normal, &mut ChaCha8Rng::seed_from_u64(seed))
}

fn maps() -> Vec<Map> {
    let along =
        |case: &crate::cases::Case, axis| case.along.as_ref().map(|along| along(Granularity::Axis(axis)));
    let cases = all();
    let per_axis = (0..2).flat_map(|axis| cases.iter().filter_map(move |case| along(case, axis)));
    cases.iter().map(|case| case.map.clone()).chain(per_axis).collect()
}

/// Values, scales and gradient, as bits.
fn everything(map: &Map, x: &ArrayD<f32>, dy: &ArrayD<f32>) -> (Vec<u32>, Grid, Vec<u32>) {
    let pair = Pair::published(map.clone());
    let (values, grid) = pair.value(x.view()).unwrap();
    let dx = pair.pullback(x.view(), &grid, dy.view()).unwrap();
    (bits(&values), grid, bits(&dx))
}

#[test]
fn threads_do_not_matter() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (x, dy) = (random(&[700, 90], 1), random(&[700, 90], 2));
    for map in maps() {
        let alone = pool(1).install(|| everything(&map, &x, &dy));
        for threads in [2, 3] {
            assert!(
                pool(threads).install(|| everything(&map, &x, &dy)) == alone,
                "{map:?} on {threads} threads"
            );
        }
    }
}

#[test]
fn threads_and_layout_matter_to_no_estimator() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (x, dy) = (random(&[700, 90], 3), random(&[700, 90], 4));
    let columns = x.t().as_standard_layout().into_owned().reversed_axes();
    let maps: [Map; 3] =
        [Arc::new(Sign), Arc::new(EvenLevels::new(5, 1.0).unwrap()), Arc::new(Ternary::per_axis(1))];
    for map in maps {
        let grid = map.fit(x.view()).unwrap();
        for gradient in published() {
            let pair = Pair { map: map.clone(), gradient };
            let slopes = |x: &ArrayD<f32>| bits(&pair.pullback(x.view(), &grid, dy.view()).unwrap());
            let alone = pool(1).install(|| slopes(&x));
            assert!(pool(3).install(|| slopes(&x)) == alone, "{pair:?} on 3 threads");
            assert!(slopes(&columns) == alone, "{pair:?} of columns");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn memory_layout_does_not_matter(x in array()) {
        let columns = x.t().as_standard_layout().into_owned().reversed_axes();
        prop_assert_eq!(&columns, &x);
        let dy = x.mapv(|x| (x * 3.0).clamp(-2.0, 2.0));
        for map in all().into_iter().map(|case| case.map) {
            prop_assert_eq!(everything(&map, &columns, &dy), everything(&map, &x, &dy), "{:?}", map);
        }
    }
}
