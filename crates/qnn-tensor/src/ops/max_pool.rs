use rayon::prelude::*;

use super::pool::{PoolOptions, Window, Windows};
use crate::parallel::vectorized;
use crate::{Scalar, Tensor, Var};

impl<'t, T: Scalar> Var<'t, T> {
    /// The largest element of each window, channel by channel.
    ///
    /// Padding is never chosen, and of equal elements the first in row-major order is. A NaN in the
    /// window gives NaN (the last one, if there are several). The gradient goes to the chosen
    /// element. Shapes:
    /// `[n, height, width, channels]` gives `[n, out height, out width, channels]`.
    ///
    /// ```
    /// use qnn_tensor::{Tape, Tensor, ops::PoolOptions};
    ///
    /// let tape = Tape::<f32>::new();
    /// let x = tape.leaf(Tensor::from_vec(&[1, 2, 2, 1], vec![1.0, 5.0, 5.0, 2.0])?);
    /// let y = x.max_pool2d(&PoolOptions::tiles(2));
    /// assert_eq!(y.value().item(), 5.0);
    /// assert_eq!(tape.backward(y).of(x).unwrap().as_slice(), [0.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), qnn_tensor::ShapeError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If the value is not a batch of images, a size or stride is zero, padding is not smaller than
    /// the window, or the window larger than the padded image; with a gradient also if windows cover more than 2²⁴
    /// pixels of the image.
    #[track_caller]
    pub fn max_pool2d(self, options: &PoolOptions) -> Self {
        let x = self.value();
        let windows = Windows::new("max_pool2d", x.shape(), options);
        if !self.needs_gradient() {
            return self.tape().constant(windows.build(&x, |x, y| windows.maxima(x, y)));
        }
        let most = windows.most_positions();
        assert!(most <= MOST_POSITIONS, "max_pool2d: a window of {most} pixels, beyond {MOST_POSITIONS}");
        let [y, chosen] = windows.choose(&x);
        self.tape().record("max_pool2d", [self], y, move |dy, _| [Some(windows.chosen_gradient(dy, &chosen))])
    }
}

/// All whole numbers up to this one are numbers of f32, in which positions are kept.
const MOST_POSITIONS: usize = 1 << 24;

/// Channels that are compared together: in registers, from the window's first position to its last.
const LANES: usize = 16;

impl Windows {
    /// The largest elements of an image's windows.
    pub(super) fn maxima<T: Scalar>(&self, x: &[T], y: &mut [T]) {
        vectorized(
            #[inline(always)]
            || {
                self.for_each_block(
                    #[inline(always)]
                    |window, block| block.store(self.largest(window, block, x).0, &mut *y),
                );
            },
        );
    }

    /// The maxima, and which position of its window each takes. Positions are small integers, kept
    /// as elements so that the buffer comes from the pool and the comparisons vectorise.
    fn choose<T: Scalar>(&self, x: &Tensor<T>) -> [Tensor<T>; 2] {
        let (shape, image, out) = (self.out_shape(), self.image_len(), self.out_len());
        let mut maxima = None;
        let chosen = Tensor::build(&shape, |chosen| {
            maxima = Some(Tensor::build(&shape, |y| {
                let outputs = y.par_chunks_mut(out.max(1)).zip(chosen.par_chunks_mut(out.max(1)));
                let images = x.as_slice().par_chunks(image.max(1));
                outputs.zip(images).for_each(|((y, chosen), x)| self.choose_in(x, y, chosen));
            }));
        });
        [maxima.expect("build calls its closure"), chosen]
    }

    fn choose_in<T: Scalar>(&self, x: &[T], y: &mut [T], chosen: &mut [T]) {
        vectorized(
            #[inline(always)]
            || {
                self.for_each_block(
                    #[inline(always)]
                    |window, block| {
                        let (largest, position) = self.largest(window, block, x);
                        block.store(largest, &mut *y);
                        block.store(position, &mut *chosen);
                    },
                );
            },
        );
    }

    fn chosen_gradient<T: Scalar>(&self, dy: &Tensor<T>, chosen: &Tensor<T>) -> Tensor<T> {
        let chosen = chosen.as_slice();
        self.scatter(
            dy,
            #[inline(always)]
            |first, dy, dx| {
                let chosen = &chosen[first..first + dy.len()];
                self.for_each_block(
                    #[inline(always)]
                    |window, block| {
                        let (dy, chosen) = (block.load(dy), block.load(chosen));
                        self.for_each_position(
                            window,
                            #[inline(always)]
                            |position, pixel| {
                                let (position, block) = (T::of(position as f64), block.at(pixel));
                                let mut sums = block.load(dx);
                                for lane in 0..LANES {
                                    sums[lane] += if chosen[lane] == position { dy[lane] } else { T::zero() };
                                }
                                block.store(sums, dx);
                            },
                        );
                    },
                );
            },
        )
    }

    /// The largest elements of a window, and their positions.
    #[inline(always)]
    fn largest<T: Scalar>(&self, window: &Window, block: Block, x: &[T]) -> ([T; LANES], [T; LANES]) {
        let (mut largest, mut chosen) = ([T::neg_infinity(); LANES], [T::zero(); LANES]);
        self.for_each_position(
            window,
            #[inline(always)]
            |position, pixel| {
                let (x, position) = (block.at(pixel).load(x), T::of(position as f64));
                for lane in 0..LANES {
                    let better = exceeds(x[lane], largest[lane]);
                    largest[lane] = if better { x[lane] } else { largest[lane] };
                    chosen[lane] = if better { position } else { chosen[lane] };
                }
            },
        );
        (largest, chosen)
    }

    /// Every window of an image with every block of its channels, as they lie in the output.
    #[inline(always)]
    fn for_each_block(&self, mut f: impl FnMut(&Window, Block)) {
        for window in self.iter() {
            for first in (0..window.y.len()).step_by(LANES) {
                let count = LANES.min(window.y.len() - first);
                f(&window, Block { channel: first, first: window.y.start + first, count });
            }
        }
    }
}

/// Some neighbouring channels of a pixel.
#[derive(Clone, Copy)]
struct Block {
    /// The first of them, among the pixel's channels and where it lies.
    channel: usize,
    first: usize,
    count: usize,
}

impl Block {
    /// The same channels of the pixel that begins at `pixel`.
    #[inline(always)]
    fn at(self, pixel: usize) -> Self {
        Self { first: pixel + self.channel, ..self }
    }

    /// Lanes beyond the channels are zero.
    #[inline(always)]
    fn load<T: Scalar>(self, from: &[T]) -> [T; LANES] {
        let from = &from[self.first..self.first + self.count];
        from.first_chunk().copied().unwrap_or_else(|| {
            let mut lanes = [T::zero(); LANES];
            lanes[..from.len()].copy_from_slice(from);
            lanes
        })
    }

    #[inline(always)]
    fn store<T: Scalar>(self, lanes: [T; LANES], to: &mut [T]) {
        let to = &mut to[self.first..self.first + self.count];
        match to.first_chunk_mut() {
            Some(whole) => *whole = lanes,
            None => to.copy_from_slice(&lanes[..to.len()]),
        }
    }
}

/// Whether `x` takes the place of the largest element so far; nothing but another NaN exceeds NaN.
#[inline(always)]
fn exceeds<T: Scalar>(x: T, best: T) -> bool {
    (x > best) | x.is_nan()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Padding, Tape};

    /// Largest elements and gradient, channel by channel and window by window.
    fn plain(x: &Tensor, dy: &Tensor, options: &PoolOptions) -> [Vec<f32>; 2] {
        let (&[batch, height, width, channels], &[_, rows, columns, _]) = (x.shape(), dy.shape()) else {
            unreachable!()
        };
        let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
        for (n, i, j, c) in ndarray::indices((batch, rows, columns, channels)) {
            let inside = |start: usize, before: usize, size: usize, extent: usize| {
                (start..start + size).filter_map(move |at| at.checked_sub(before).filter(|&at| at < extent))
            };
            let PoolOptions { size, stride, padding, .. } = *options;
            let mut best: Option<usize> = None;
            for row in inside(i * stride[0], padding.top, size[0], height) {
                for column in inside(j * stride[1], padding.left, size[1], width) {
                    let at = ((n * height + row) * width + column) * channels + c;
                    if best.is_none_or(|best| exceeds(x.as_slice()[at], x.as_slice()[best])) {
                        best = Some(at);
                    }
                }
            }
            let best = best.expect("a window holds an element");
            y.push(x.as_slice()[best]);
            dx[best] += dy.as_slice()[y.len() - 1];
        }
        [y, dx]
    }

    #[test]
    fn any_number_of_channels_agrees_with_plain_loops() {
        let around = Padding { top: 1, bottom: 1, left: 1, right: 1 };
        let wide = PoolOptions {
            size: [3, 2],
            stride: [2, 1],
            padding: Padding { left: 0, right: 1, ..around },
            ceil: true,
        };
        for (channels, options) in
            [1, 15, 16, 33, 64].into_iter().flat_map(|c| [(c, PoolOptions::tiles(2)), (c, wide)])
        {
            // Few values, so that there are ties.
            let x = Tensor::<f32>::from_fn(&[3, 5, 7, channels], |i| ((i * 7919) % 13) as f32 - 6.0);
            let tape = Tape::new();
            let leaf = tape.leaf(x.clone());
            let y = leaf.max_pool2d(&options);
            let value = y.value();
            let dy = Tensor::from_fn(value.shape(), |i| (i as f32 * 0.37).sin());
            let [expected, gradient] = plain(&x, &dy, &options);
            assert_eq!(value.as_slice(), expected, "{channels} channels, {options:?}");
            assert_eq!(leaf.detach().max_pool2d(&options).value(), value);
            let gradients = tape.backward_from(y, dy);
            assert_eq!(gradients.of(leaf).unwrap().as_slice(), gradient, "{channels} channels, {options:?}");
        }
    }

    /// Counted from their own corner, the positions of this window are no numbers of f32.
    #[test]
    fn windows_far_larger_than_the_image_choose_one_element() {
        let x = Tensor::<f32>::from_vec(&[1, 1, 4, 1], vec![0.0, 5.0, 1.0, 2.0]).unwrap();
        let around = Padding { left: (1 << 25) - 1, ..Padding::NONE };
        let options = PoolOptions { size: [1, 1 << 25], stride: [1, 1], padding: around, ceil: false };
        let tape = Tape::new();
        let leaf = tape.leaf(x.clone());
        let y = leaf.max_pool2d(&options);
        assert_eq!(y.value().as_slice(), [0.0, 5.0, 5.0, 5.0]);
        let gradients = tape.backward_from(y, Tensor::full(&[1, 1, 4, 1], 1.0));
        assert_eq!(gradients.of(leaf).unwrap().as_slice(), [1.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn ties_go_to_the_first_and_nan_exceeds_all() {
        let x = [1.0, f32::NAN, 2.0, f32::NAN, -0.0, 0.0, -1.0, 0.0];
        let shape = [2, 2, 2, 1];
        let tape = Tape::<f32>::new();
        let leaf = tape.leaf(Tensor::from_vec(&shape, x.to_vec()).unwrap());
        let y = leaf.max_pool2d(&PoolOptions::tiles(2));
        assert!(y.value().as_slice()[0].is_nan());
        assert!(leaf.detach().max_pool2d(&PoolOptions::tiles(2)).value().as_slice()[0].is_nan());
        let gradients = tape.backward_from(y, Tensor::full(&[2, 1, 1, 1], 1.0));
        let expected = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(gradients.of(leaf).unwrap().as_slice(), expected);
    }

    #[test]
    fn an_infinite_window_has_its_first_position() {
        let tape = Tape::<f32>::new();
        let x = tape.leaf(Tensor::full(&[1, 2, 2, 1], f32::NEG_INFINITY));
        let y = x.max_pool2d(&PoolOptions::tiles(2));
        assert_eq!(y.value().item(), f32::NEG_INFINITY);
        let gradients = tape.backward_from(y, Tensor::full(&[1, 1, 1, 1], 1.0));
        assert_eq!(gradients.of(x).unwrap().as_slice(), [1.0, 0.0, 0.0, 0.0]);
    }
}
