//! What a user adds stands beside what the crate brings.

use std::sync::Arc;

use ndarray::{ArrayViewD, ArrayViewMutD, array};
use qnn_quant::*;

/// Values in {−2, −1, 0, 1, 2} times a power of two.
#[derive(Debug)]
struct Fives {
    exponent: i32,
}

impl Quantizer for Fives {
    fn name(&self) -> &'static str {
        "fives"
    }

    fn fit(&self, _: ArrayViewD<'_, f32>) -> Result<Grid> {
        Grid::new(Alphabet { first: -2, step: 1, count: 5 }, Groups::Tensor, vec![2_f32.powi(self.exponent)])
    }

    fn codes_into(&self, x: ArrayViewD<'_, f32>, grid: &Grid, codes: ArrayViewMutD<'_, f32>) -> Result<()> {
        elementwise::map_into(x, grid.groups(), grid.scales(), codes, |x, scale| {
            (x / scale).round_ties_even().clamp(-2.0, 2.0)
        })
    }

    fn published(&self) -> Arc<dyn Estimator> {
        Arc::new(Reversed)
    }
}

/// An estimator that is not pointwise: gradients change places.
#[derive(Debug)]
struct Reversed;

impl Estimator for Reversed {
    fn name(&self) -> &'static str {
        "reversed"
    }

    fn pullback_into(
        &self,
        _: ArrayViewD<'_, f32>,
        _: &Grid,
        dy: ArrayViewD<'_, f32>,
        mut dx: ArrayViewMutD<'_, f32>,
    ) -> Result<()> {
        let gradients: Vec<f32> = dy.iter().copied().collect();
        dx.iter_mut().zip(gradients.iter().rev()).for_each(|(dx, &dy)| *dx = dy);
        Ok(())
    }
}

/// A slope that looks at the levels.
#[derive(Debug)]
struct WithinLevels;

impl Slope for WithinLevels {
    fn label(&self) -> &'static str {
        "within-levels"
    }

    fn slope(&self, x: f32, levels: &Levels) -> f32 {
        f32::from((levels.lowest..=levels.highest).contains(&x))
    }
}

#[test]
fn own_maps_estimators_slopes_and_closures_form_pairs() {
    let factor = 10.0;
    let closure = Custom { name: "tenfold", f: move |_: f32| factor };
    let pairs = [
        (Pair::published(Fives { exponent: -1 }), [3.0, 2.0, 1.0]),
        (Pair::new(Fives { exponent: -1 }, WithinLevels), [1.0, 2.0, 0.0]),
        (Pair::new(Fives { exponent: -1 }, closure), [10.0, 20.0, 30.0]),
        (Pair::new(Fives { exponent: -1 }, StraightThrough), [1.0, 2.0, 3.0]),
    ];
    let (x, dy) = (array![0.3, -0.75, 5.0].into_dyn(), array![1.0, 2.0, 3.0].into_dyn());
    for (pair, want) in pairs {
        let (values, grid) = pair.value(x.view()).unwrap();
        assert_eq!(values, array![0.5, -1.0, 1.0].into_dyn());
        assert_eq!((grid.bits(), grid.scales()), (3, &[0.5][..]));
        let dx = pair.pullback(x.view(), &grid, dy.view()).unwrap();
        assert_eq!(dx.into_iter().collect::<Vec<_>>(), want, "{pair:?}");
    }
}

#[test]
fn shared_maps_and_estimators_are_maps_and_estimators() {
    let map: Arc<dyn Quantizer> = Arc::new(Sign);
    let gradient: Arc<dyn Estimator> = Arc::new(ApproxSign);
    let pair = Pair::new(map.clone(), gradient);
    assert_eq!((pair.map.name(), pair.gradient.name()), ("sign", "approx-sign"));
    assert_eq!(quantize(&map, &[-3.0, 4.0]).unwrap(), array![-1.0, 1.0]);
    assert_eq!(pair.clone().map.published().name(), "clipped-identity");
}

#[test]
fn pairs_cross_threads() {
    fn crosses<T: Send + Sync + 'static>(_: &T) {}
    crosses(&Pair::published(Sign));
}
