use qnn_tensor::ops::PoolOptions;
use qnn_tensor::ops::slices::pool_output;

use crate::{Ctx, Error, Layer, Op, PaddingRule, Signal, module};

/// The largest element of each window of each channel; padding never wins.
///
/// A factored signal stays factored: the largest code belongs to the largest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// The windows.
    pub window: Window,
}

/// The mean of each window of each channel; padding does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AveragePool2d {
    /// The windows.
    pub window: Window,
}

/// The mean of each channel: `[n, h, w, c]` becomes `[n, c]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalAveragePool;

/// How a pool moves over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub size: [usize; 2],
    /// The distance of neighbouring windows.
    pub stride: [usize; 2],
    /// What surrounds the input.
    pub padding: PaddingRule,
    /// Whether a last, incomplete window counts.
    pub ceil: bool,
}

impl Window {
    /// Square windows side by side, without padding.
    pub fn square(size: usize) -> Self {
        let side = [size, size];
        Self { size: side, stride: side, padding: PaddingRule::Valid, ceil: false }
    }

    pub(crate) fn options(&self, layer: &'static str, shape: &[usize]) -> Result<PoolOptions, Error> {
        let &[_, height, width, _] = shape else {
            return Err(shape_error(layer, "[n, h, w, c]".to_owned(), shape));
        };
        let Self { size, stride, padding, ceil } = *self;
        let fits = !size.contains(&0) && padding.output([height, width], size, stride).is_some();
        let options = || {
            let padding = padding.resolve([height, width], size, stride);
            PoolOptions { size, stride, padding, ceil }
        };
        fits.then(options).filter(|options| pool_output([height, width], options).is_some()).ok_or_else(
            || {
                let [h, w] = size;
                let expected =
                    format!("[n, h ≥ {h}, w ≥ {w}, c] with a padding that is smaller than the window");
                shape_error(layer, expected, shape)
            },
        )
    }
}

impl MaxPool2d {
    /// Square windows side by side.
    pub fn new(size: usize) -> Self {
        Self { window: Window::square(size) }
    }
}

impl AveragePool2d {
    /// Square windows side by side.
    pub fn new(size: usize) -> Self {
        Self { window: Window::square(size) }
    }
}

module!(MaxPool2d {});
module!(AveragePool2d {});
module!(GlobalAveragePool {});

impl Layer for MaxPool2d {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let options = self.window.options("max pool", &x.shape())?;
        let x = if x.scale() > 0.0 { x } else { cx.value(x).into() };
        let y = x.map_codes(|codes| codes.max_pool2d(&options));
        cx.report("max pool", None, &[x.codes()], y.codes(), || Op::MaxPool(options));
        Ok(y)
    }
}

impl Layer for AveragePool2d {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let options = self.window.options("average pool", &x.shape())?;
        let x = cx.value(x);
        let y = x.average_pool2d(&options);
        cx.report("average pool", None, &[x], y, || Op::AveragePool(options));
        Ok(y.into())
    }
}

impl Layer for GlobalAveragePool {
    fn forward<'t>(&self, cx: &mut Ctx<'t>, x: Signal<'t>) -> Result<Signal<'t>, Error> {
        let shape = x.shape();
        if shape.len() != 4 || shape[1] * shape[2] == 0 {
            return Err(shape_error("global average pool", "[n, h ≥ 1, w ≥ 1, c]".to_owned(), &shape));
        }
        let x = cx.value(x);
        let y = x.global_average_pool();
        cx.report("global average pool", None, &[x], y, || Op::GlobalAveragePool);
        Ok(y.into())
    }
}

fn shape_error(layer: &'static str, expected: String, got: &[usize]) -> Error {
    Error::Shape { layer, expected, got: got.to_vec() }
}

#[cfg(test)]
mod tests {
    use qnn_tensor::{Padding, Tape, Tensor};

    use super::*;
    use crate::Mode;

    #[test]
    fn pools_reduce_and_max_keeps_the_factor() {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let x = tape.leaf(Tensor::from_fn(&[1, 4, 4, 2], |i| i as f32));
        let factored = Signal::factored(x, 0.5);
        let max = MaxPool2d::new(2).forward(&mut cx, factored).unwrap();
        assert_eq!((max.shape(), max.scale()), (vec![1, 2, 2, 2], 0.5));
        assert_eq!(max.value().value().as_slice()[0], 5.0);
        let mean = AveragePool2d::new(4).forward(&mut cx, factored).unwrap().value().value();
        assert_eq!(mean.as_slice(), [7.5, 8.0]);
        let global = GlobalAveragePool.forward(&mut cx, factored).unwrap().value().value();
        assert_eq!((global.shape(), global.as_slice()), (&[1, 2][..], &[7.5, 8.0][..]));
    }

    #[test]
    fn unfit_shapes_are_errors() {
        let tape = Tape::new();
        let mut cx = Ctx::new(&tape, Mode::Train, 0, 0);
        let flat: Signal<'_> = tape.leaf(Tensor::zeros(&[2, 3])).into();
        let small: Signal<'_> = tape.leaf(Tensor::zeros(&[2, 1, 1, 3])).into();
        for layer in [&MaxPool2d::new(2) as &dyn Layer, &AveragePool2d::new(2), &MaxPool2d::new(0)] {
            assert!(matches!(layer.forward(&mut cx, flat), Err(Error::Shape { .. })));
            assert!(matches!(layer.forward(&mut cx, small), Err(Error::Shape { .. })));
        }
        assert!(matches!(GlobalAveragePool.forward(&mut cx, flat), Err(Error::Shape { .. })));
        let image: Signal<'_> = tape.leaf(Tensor::zeros(&[1, 4, 4, 1])).into();
        let none: Signal<'_> = tape.leaf(Tensor::zeros(&[1, 0, 4, 1])).into();
        let two = Padding { top: 2, bottom: 2, left: 2, right: 2 };
        for (x, padding) in [(image, PaddingRule::Explicit(two)), (none, PaddingRule::Same)] {
            let window = Window { padding, ..Window::square(2) };
            assert!(matches!(MaxPool2d { window }.forward(&mut cx, x), Err(Error::Shape { .. })));
            assert!(matches!(AveragePool2d { window }.forward(&mut cx, x), Err(Error::Shape { .. })));
        }
    }
}
