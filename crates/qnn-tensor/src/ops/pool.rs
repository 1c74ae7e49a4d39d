use std::ops::Range;

use qnn_kernels::Padding;

use super::slices::global_mean;
use crate::parallel::for_each_chunk_of;
use crate::{Scalar, Tensor, Var};

/// How a pooling window moves over its input.
///
/// ```text
/// out = round((in + before + after − size) / stride) + 1      round: ⌊·⌋, or ⌈·⌉ if `ceil`
/// ```
///
/// In ceil mode a last window that would start behind the input is left out, as in PyTorch: each
/// window holds an element at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolOptions {
    /// Rows and columns of the window.
    pub size: [usize; 2],
    /// The step in rows and columns.
    pub stride: [usize; 2],
    /// Rows and columns around the input that a window may cover but never counts.
    pub padding: Padding,
    /// Whether a window that reaches beyond the input and its padding is kept.
    pub ceil: bool,
}

impl PoolOptions {
    /// Square windows side by side.
    ///
    /// ```
    /// use qnn_tensor::ops::PoolOptions;
    /// assert_eq!(PoolOptions::tiles(2).stride, [2, 2]);
    /// ```
    pub fn tiles(size: usize) -> Self {
        Self { size: [size; 2], stride: [size; 2], padding: Padding::NONE, ceil: false }
    }
}

impl<'t, T: Scalar> Var<'t, T> {
    /// The mean of each window, channel by channel, over the elements inside the image: padding is
    /// not counted.
    ///
    /// Shapes: `[n, height, width, channels]` gives `[n, out height, out width, channels]`.
    ///
    /// # Panics
    ///
    /// If the value is not a batch of images, a size or stride is zero, padding is not smaller than
    /// the window, or the window larger than the padded image.
    #[track_caller]
    pub fn average_pool2d(self, options: &PoolOptions) -> Self {
        let x = self.value();
        let windows = Windows::new("average_pool2d", x.shape(), options);
        let y = windows.build(&x, |x, y| windows.means(x, y));
        self.tape().record("average_pool2d", [self], y, move |dy, _| [Some(windows.mean_gradient(dy))])
    }

    /// The mean of each image, channel by channel, added in f64.
    ///
    /// Shapes: `[n, height, width, channels]` gives `[n, channels]`.
    ///
    /// # Panics
    ///
    /// If the value is not a batch of images of one pixel at least.
    #[track_caller]
    pub fn global_average_pool(self) -> Self {
        let x = self.value();
        let &[batch, height, width, channels] = x.shape() else {
            panic!("global_average_pool: expected images [n, height, width, channels], got {:?}", x.shape());
        };
        let pixels = height * width;
        assert!(pixels > 0, "global_average_pool: images of shape {:?} have no mean", x.shape());
        let (images, image) = (x.as_slice(), pixels * channels);
        let y = Tensor::build(&[batch, channels], |y| {
            for_each_chunk_of(channels.max(1), y, |at, y| {
                let image = &images[at * pixels..at * pixels + image];
                global_mean(image, y);
            });
        });
        let shape = [batch, height, width, channels];
        self.tape().record("global_average_pool", [self], y, move |dy, _| {
            [Some(Tensor::build(&shape, |dx| spread(dy.as_slice(), pixels, channels, dx)))]
        })
    }
}

/// Gives each of an image's pixels its share of the image's gradient.
fn spread<T: Scalar>(dy: &[T], pixels: usize, channels: usize, dx: &mut [T]) {
    let share = T::of(pixels as f64);
    for_each_chunk_of((pixels * channels).max(1), dx, |at, dx| {
        let dy = &dy[at / pixels..at / pixels + channels];
        for pixel in dx.chunks_exact_mut(channels) {
            pixel.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy / share);
        }
    });
}

/// The windows of one pooling operation.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    input: [usize; 4],
    out: [usize; 2],
    options: PoolOptions,
}

/// One window: its place in the image's output, and what it covers of the image.
pub(super) struct Window {
    pub(super) y: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Windows {
    #[track_caller]
    pub(super) fn new(op: &str, x: &[usize], options: &PoolOptions) -> Self {
        let &[batch, height, width, channels] = x else {
            panic!("{op}: expected images [n, height, width, channels], got {x:?}");
        };
        let out = Self::out([height, width], options)
            .unwrap_or_else(|| panic!("{op}: {options:?} does not fit images of shape {x:?}"));
        Self { input: [batch, height, width, channels], out, options: *options }
    }

    /// Height and width of the output.
    pub(super) fn out([height, width]: [usize; 2], options: &PoolOptions) -> Option<[usize; 2]> {
        let PoolOptions { size, stride, padding, ceil } = *options;
        let rows = out_size(height, size[0], stride[0], [padding.top, padding.bottom], ceil)?;
        Some([rows, out_size(width, size[1], stride[1], [padding.left, padding.right], ceil)?])
    }

    /// Runs `f(image, image's output)` on all images, in parallel.
    pub(super) fn build<T: Scalar>(&self, x: &Tensor<T>, f: impl Fn(&[T], &mut [T]) + Sync) -> Tensor<T> {
        let (image, out) = (self.image_len(), self.out_len());
        let x = x.as_slice();
        Tensor::build(&self.out_shape(), |y| {
            for_each_chunk_of(
                out.max(1),
                y,
                #[inline(always)]
                |at, y| {
                    let first = at / out * image;
                    f(&x[first..first + image], y);
                },
            );
        })
    }

    /// Runs `f(image's offset in dy, its part of dy, its part of dx)` on all images, in parallel; dx
    /// starts from zeros.
    pub(super) fn scatter<T: Scalar>(
        &self,
        dy: &Tensor<T>,
        f: impl Fn(usize, &[T], &mut [T]) + Sync,
    ) -> Tensor<T> {
        let (image, out) = (self.image_len(), self.out_len());
        let dy = dy.as_slice();
        Tensor::build(&self.input, |dx| {
            for_each_chunk_of(
                image.max(1),
                dx,
                #[inline(always)]
                |at, dx| {
                    dx.fill(T::zero());
                    let first = at / image * out;
                    f(first, &dy[first..first + out], dx);
                },
            );
        })
    }

    #[inline(always)]
    pub(super) fn means<T: Scalar>(&self, x: &[T], y: &mut [T]) {
        for window in self.iter() {
            let y = &mut y[window.y.clone()];
            y.fill(T::zero());
            self.for_each_position(&window, |_, at| {
                y.iter_mut().zip(&x[at..]).for_each(|(y, &x)| *y += x);
            });
            let count = T::of(window.count() as f64);
            y.iter_mut().for_each(|y| *y /= count);
        }
    }

    fn mean_gradient<T: Scalar>(&self, dy: &Tensor<T>) -> Tensor<T> {
        self.scatter(
            dy,
            #[inline(always)]
            |_, dy, dx| {
                for window in self.iter() {
                    let dy = &dy[window.y.clone()];
                    let count = T::of(window.count() as f64);
                    self.for_each_position(&window, |_, at| {
                        dx[at..].iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy / count);
                    });
                }
            },
        )
    }

    /// The windows of an image, in the order of the output.
    #[inline(always)]
    pub(super) fn iter(&self) -> impl Iterator<Item = Window> {
        let [_, height, width, channels] = self.input;
        let PoolOptions { size, stride, padding, .. } = self.options;
        let [out_height, out_width] = self.out;
        (0..out_height * out_width).map(move |i| {
            let (row, column) = (i / out_width * stride[0], i % out_width * stride[1]);
            Window {
                y: i * channels..(i + 1) * channels,
                rows: row.saturating_sub(padding.top)..height.min(row + size[0] - padding.top),
                columns: column.saturating_sub(padding.left)..width.min(column + size[1] - padding.left),
            }
        })
    }

    /// The positions of a window inside the image, in row-major order: `f` takes their numbers, from 0 on, and where their channels begin.
    #[inline(always)]
    pub(super) fn for_each_position(&self, window: &Window, mut f: impl FnMut(usize, usize)) {
        let [_, _, width, channels] = self.input;
        let mut number = 0;
        for row in window.rows.clone() {
            for column in window.columns.clone() {
                f(number, (row * width + column) * channels);
                number += 1;
            }
        }
    }

    /// No window has more positions inside the image.
    pub(super) fn most_positions(&self) -> usize {
        let [_, height, width, _] = self.input;
        height.min(self.options.size[0]) * width.min(self.options.size[1])
    }

    pub(super) fn image_len(&self) -> usize {
        self.input[1..].iter().product()
    }

    pub(super) fn out_shape(&self) -> [usize; 4] {
        [self.input[0], self.out[0], self.out[1], self.input[3]]
    }

    pub(super) fn out_len(&self) -> usize {
        self.out_shape()[1..].iter().product()
    }
}

impl Window {
    fn count(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// The number of windows along an axis; `None` if one would hold nothing.
fn out_size(input: usize, size: usize, stride: usize, padding: [usize; 2], ceil: bool) -> Option<usize> {
    let [before, after] = padding;
    if input == 0 || stride == 0 || before >= size || after >= size {
        return None;
    }
    let free = (input.checked_add(before)?.checked_add(after)?).checked_sub(size)?;
    let steps = if ceil { free.div_ceil(stride) } else { free / stride };
    let starts_behind = steps * stride >= input + before;
    Some(if starts_behind { steps } else { steps + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::with_threads;
    use crate::{Tape, gradcheck};

    /// Distinct numbers without order.
    fn numbers(shape: &[usize]) -> Tensor<f64> {
        Tensor::from_fn(shape, |i| ((i * 7919) % 1009) as f64 * 0.01 - 3.0)
    }

    fn cases() -> Vec<([usize; 4], PoolOptions)> {
        let around = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let uneven = Padding { top: 1, bottom: 0, left: 0, right: 1 };
        let options = |size, stride, padding, ceil| PoolOptions { size, stride, padding, ceil };
        vec![
            ([2, 4, 6, 3], PoolOptions::tiles(2)),
            ([1, 5, 5, 2], options([3, 3], [2, 2], Padding::NONE, false)),
            ([2, 5, 4, 1], options([3, 3], [2, 2], around, false)),
            ([1, 6, 5, 2], options([3, 2], [2, 2], uneven, true)),
            ([1, 5, 5, 3], PoolOptions { ceil: true, ..PoolOptions::tiles(2) }),
            ([1, 3, 3, 2], options([2, 2], [3, 3], around, true)),
            ([1, 3, 4, 2], options([1, 1], [2, 3], Padding::NONE, true)),
            ([1, 1, 1, 2], PoolOptions::tiles(1)),
        ]
    }

    /// Each window's elements, by testing every position of the image.
    fn plain(x: &Tensor<f64>, o: &PoolOptions, out: &[usize], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let (shape, view) = (x.shape(), x.view());
        let mut y = Vec::new();
        for (n, i, j, c) in ndarray::indices((out[0], out[1], out[2], out[3])) {
            let mut inside = Vec::new();
            for (row, column) in ndarray::indices((shape[1], shape[2])) {
                let down = (row + o.padding.top).wrapping_sub(i * o.stride[0]);
                let right = (column + o.padding.left).wrapping_sub(j * o.stride[1]);
                if down < o.size[0] && right < o.size[1] {
                    inside.push(view[[n, row, column, c]]);
                }
            }
            y.push(f(&inside));
        }
        y
    }

    #[test]
    fn values_agree_with_the_formula() {
        for (shape, options) in cases() {
            let (x, tape) = (numbers(&shape), Tape::new());
            let var = tape.leaf(x.clone());
            let (largest, mean) = (var.max_pool2d(&options).value(), var.average_pool2d(&options).value());
            let max = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(largest.as_slice(), plain(&x, &options, largest.shape(), max));
            assert_eq!(largest, var.detach().max_pool2d(&options).value());
            let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let expected = plain(&x, &options, mean.shape(), average);
            for (y, expected) in mean.as_slice().iter().zip(expected) {
                assert!((y - expected).abs() < 1e-12, "{options:?}");
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        for (shape, options) in cases() {
            gradcheck([numbers(&shape)], |[x]| x.max_pool2d(&options)).unwrap();
            gradcheck([numbers(&shape)], |[x]| x.average_pool2d(&options)).unwrap();
            gradcheck([numbers(&shape)], |[x]| x.global_average_pool()).unwrap();
        }
    }

    #[test]
    fn output_sizes_follow_the_rule() {
        let sizes = |input, size, stride, padding, ceil| out_size(input, size, stride, [padding; 2], ceil);
        assert_eq!(sizes(32, 3, 2, 1, false), Some(16));
        assert_eq!(sizes(5, 2, 2, 0, false), Some(2));
        assert_eq!(sizes(5, 2, 2, 0, true), Some(3));
        assert_eq!(sizes(112, 3, 2, 0, true), Some(56));
        // The third window would start in the padding behind the input.
        assert_eq!(sizes(3, 2, 2, 1, true), Some(2));
        assert_eq!(sizes(2, 3, 1, 0, true), None);
        assert_eq!(sizes(4, 2, 0, 0, false), None);
        assert_eq!(sizes(4, 2, 1, 2, false), None);
        assert_eq!(sizes(0, 2, 1, 1, false), None);
        assert_eq!(out_size(usize::MAX, 2, 1, [1, 1], false), None);
    }

    #[test]
    fn padding_is_never_chosen() {
        let around = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let options = PoolOptions { size: [3, 3], stride: [2, 2], padding: around, ceil: false };
        let tape = Tape::<f32>::new();
        let x = tape.constant(Tensor::full(&[1, 4, 4, 2], f32::NEG_INFINITY));
        let infinite = x.max_pool2d(&options).value();
        assert!(infinite.as_slice().iter().all(|&y| y == f32::NEG_INFINITY));
        let x = tape.constant(Tensor::full(&[1, 4, 4, 2], -3.0));
        assert_eq!(x.average_pool2d(&options).value(), Tensor::full(&[1, 2, 2, 2], -3.0));
    }

    #[test]
    fn empty_batches_are_legal() {
        for shape in [[0, 4, 4, 3], [2, 4, 4, 0]] {
            let tape = Tape::<f32>::new();
            let x = tape.leaf(Tensor::zeros(&shape));
            let y =
                x.max_pool2d(&PoolOptions::tiles(2)).sum() + x.average_pool2d(&PoolOptions::tiles(2)).sum();
            let loss = y + x.global_average_pool().sum();
            assert_eq!(tape.backward(loss).of(x).unwrap().shape(), shape);
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let run = || {
            let tape = Tape::<f32>::new();
            let x = tape.leaf(numbers(&[7, 16, 16, 20]).cast());
            let options = PoolOptions { size: [3, 3], ..PoolOptions::tiles(2) };
            let (a, b) = (x.max_pool2d(&options), x.average_pool2d(&options));
            let (c, loss) = (x.global_average_pool(), (a * b).sum());
            let loss = loss + (c * c).sum();
            (a.value(), b.value(), c.value(), tape.backward(loss).take(x).unwrap())
        };
        assert_eq!(with_threads(1, run), with_threads(3, run));
    }

    #[test]
    #[should_panic(expected = "max_pool2d: PoolOptions")]
    fn a_window_larger_than_the_image_panics() {
        Tape::<f32>::new().leaf(Tensor::zeros(&[1, 2, 2, 1])).max_pool2d(&PoolOptions::tiles(3));
    }
}
