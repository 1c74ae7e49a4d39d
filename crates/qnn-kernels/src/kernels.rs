//! The kernels' public face: safe, checked, for slices.

use crate::arch::{self, Kernels};
use crate::packed::sign_product::sign_product;
use crate::visitor::{Visitor, visit_all};
use crate::{
    Algorithm, ChannelAffine, Conv2dGradients, Conv2dShape, Convolution, GradientRows, Isa, MatmulShape,
    OutputGradient, Padding, Real, Vectorize, takes_rows,
};
use crate::{exact, gradients, kernel_gradient, matrix, plan, reference, winograd};

impl Kernels {
    /// The kernels of an instruction set, or nothing where this machine lacks it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<&'static Self> {
        arch::table(isa)
    }

    /// The kernels in use: those that the environment variable `QNN_ISA` names (`scalar`, `popcnt`, `avx2`, `avx512`, `neon`), or the best that
    /// this machine has. Chosen once in a process. Without the feature `std` those of the instruction set that the crate was compiled for.
    ///
    /// # Panics
    ///
    /// If `QNN_ISA` names no instruction set, or one that this machine lacks.
    #[must_use]
    pub fn current() -> &'static Self {
        let best = || Isa::available().find_map(Self::of).expect("scalar kernels run everywhere");
        #[cfg(feature = "std")]
        {
            static CURRENT: std::sync::OnceLock<&'static Kernels> = std::sync::OnceLock::new();
            CURRENT.get_or_init(|| {
                std::env::var_os("QNN_ISA").map_or_else(best, |name| forced(&name.to_string_lossy()))
            })
        }
        #[cfg(not(feature = "std"))]
        best()
    }

    /// Their instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// [`vectorized`](crate::vectorized) with these kernels.
    pub fn vectorized<W: Vectorize>(&self, work: W) -> W::Output {
        arch::vectorized(self.isa, work)
    }

    /// [`conv2d`](crate::conv2d) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn conv2d<T: Real>(
        &self,
        shape: &Conv2dShape,
        x: &[T],
        w: &[T],
        pad_value: T,
        out: ChannelAffine<'_, T>,
        y: &mut [T],
    ) {
        let algorithm = Algorithm::Direct;
        self.convolve(shape, &Convolution { x, w, pad_value, out, algorithm }, y);
    }

    /// [`convolve`](crate::convolve) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn convolve<T: Real>(&self, shape: &Conv2dShape, convolution: &Convolution<'_, T>, y: &mut [T]) {
        let Convolution { x, w, pad_value, out, .. } = *convolution;
        let shape = &checked(shape, x.len(), w.len(), y.len());
        out.assert_channels(shape.out_channels);
        if y.is_empty() {
            return;
        }
        if convolution.algorithm == Algorithm::Exact {
            exact::convolve(self, shape, convolution, y);
        } else if let Some(filter) = self.filter(shape, convolution) {
            filter.with_weights(w, out, |weights| filter.run(x, weights, y));
        } else if !self.by_bits(shape, x, w, pad_value, out, y) {
            plan::forward(self, &plan::flattened(shape), x, w, pad_value, out, y);
        }
    }

    /// [`convolve_visited`](crate::convolve_visited) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn convolve_visited<T: Real>(
        &self,
        shape: &Conv2dShape,
        convolution: &Convolution<'_, T>,
        y: &mut [T],
        visitor: Visitor<'_, T>,
    ) {
        let Convolution { x, w, pad_value, out, .. } = *convolution;
        let shape = &checked(shape, x.len(), w.len(), y.len());
        out.assert_channels(shape.out_channels);
        assert!(visitor.together > 0, "a visit needs an image");
        if y.is_empty() {
            return;
        }
        if let Some(filter) = self.filter(shape, convolution) {
            return filter.with_weights(w, out, |weights| filter.run_visited(x, weights, y, visitor));
        }
        let lengths = [shape.input_len() / shape.batch, shape.output_len() / shape.batch];
        if convolution.algorithm == Algorithm::Exact {
            exact::convolve(self, shape, convolution, y);
            return visit_all(y, lengths[1], visitor);
        }
        if self.by_bits(shape, x, w, pad_value, out, y) {
            return visit_all(y, lengths[1], visitor);
        }
        plan::with_forward(self, shape, w, pad_value, out, |product| {
            product.run_visited(x, y, lengths, visitor);
        });
    }

    /// What makes the output in tiles, if that is wanted and can be.
    fn filter<T: Real>(
        &self,
        shape: &Conv2dShape,
        convolution: &Convolution<'_, T>,
    ) -> Option<winograd::Filter<'_, T>> {
        let taken = convolution.algorithm == Algorithm::Winograd && winograd::takes(shape);
        taken.then(|| winograd::Filter::forward(self, shape, convolution.pad_value))
    }

    /// [`conv2d_input_gradient`](crate::conv2d_input_gradient) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn conv2d_input_gradient<T: Real>(&self, shape: &Conv2dShape, dy: &[T], w: &[T], dx: &mut [T]) {
        let shape = &checked(shape, dx.len(), w.len(), dy.len());
        if winograd::takes(shape) && shape.batch > 0 {
            let filter = winograd::Filter::input_gradient(self, shape);
            filter.with_weights(w, ChannelAffine::IDENTITY, |weights| filter.run(dy, weights, dx));
        } else {
            plan::input_gradient(self, &plan::flattened(shape), dy, w, dx);
        }
    }

    /// [`conv2d_kernel_gradient`](crate::conv2d_kernel_gradient) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn conv2d_kernel_gradient<T: Real>(
        &self,
        shape: &Conv2dShape,
        x: &[T],
        pad_value: T,
        dy: &[T],
        dw: &mut [T],
    ) {
        let shape = &checked(shape, x.len(), dw.len(), dy.len());
        if winograd::takes(shape) && shape.batch > 0 {
            winograd::KernelGradient::new(self, shape, pad_value).run(x, dy, dw);
        } else {
            kernel_gradient::kernel_gradient(self, shape, x, pad_value, dy, dw);
        }
    }

    /// [`conv2d_gradients`](crate::conv2d_gradients) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn conv2d_gradients<T: Real>(
        &self,
        shape: &Conv2dShape,
        job: Conv2dGradients<'_, T>,
        dy: &OutputGradient<'_, T>,
    ) {
        let inputs = [Some(job.x.len()), job.dx.as_deref().map(<[T]>::len)];
        let weights = [Some(job.w.len()), job.dw.as_deref().map(<[T]>::len)];
        for (input, weights) in inputs.into_iter().zip(weights) {
            let (input, weights) =
                (input.unwrap_or(shape.input_len()), weights.unwrap_or(shape.weight_len()));
            checked(shape, input, weights, shape.output_len());
        }
        assert!(gradients::takes_pieces(shape), "the gradients of {shape:?} take no pieces");
        gradients::gradients(self, &shape.with_needed_strides(), job, dy);
    }

    /// Runs `rounds` rounds of this table's fused multiply-adds in `f32` on registers alone, and returns how many that were, besides a number that
    /// depends on them all: by the clock, the limit of every kernel in `f32` on this machine.
    #[must_use]
    pub fn f32_limit(&self, rounds: usize) -> (u64, f32) {
        self.f32.peak(rounds)
    }

    /// [`matmul`](crate::matmul) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn matmul<T: Real>(
        &self,
        dims: MatmulShape,
        a: &[T],
        b: &[T],
        out: ChannelAffine<'_, T>,
        y: &mut [T],
    ) {
        assert_matmul(dims, a.len(), b.len(), y.len());
        out.assert_channels(dims.columns);
        if dims.inner == 0 {
            reference::matmul(dims, a, b, out, y);
        } else if dims.output_len() > 0 && self.by_bits(&pixels(dims), a, b, T::zero(), out, y) {
            // Signs by signs are done.
        } else if matrix::is_large(dims) {
            matrix::product(self, dims, a, b, out, y);
        } else if dims.output_len() > 0 {
            plan::forward(self, &plan::pixel_rows(&pointwise(dims), dims.rows), a, b, T::zero(), out, y);
        }
    }

    /// [`matmul_exact`](crate::matmul_exact) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn matmul_exact<T: Real>(
        &self,
        dims: MatmulShape,
        a: &[T],
        b: &[T],
        out: ChannelAffine<'_, T>,
        y: &mut [T],
    ) {
        assert_matmul(dims, a.len(), b.len(), y.len());
        out.assert_channels(dims.columns);
        if !y.is_empty() {
            exact::matmul(self, dims, [a, b], out, y);
        }
    }

    /// Computes a convolution of signs by signs, and says whether it was one.
    fn by_bits<T: Real>(
        &self,
        shape: &Conv2dShape,
        x: &[T],
        w: &[T],
        pad_value: T,
        out: ChannelAffine<'_, T>,
        y: &mut [T],
    ) -> bool {
        let scale = out.scale.map_or(Some(None), |scale| T::as_f32(scale).map(Some));
        let bias = out.bias.map_or(Some(None), |bias| T::as_f32(bias).map(Some));
        let (Some(x), Some(w), Some(y), Some(scale), Some(bias)) =
            (T::as_f32(x), T::as_f32(w), T::as_f32_mut(y), scale, bias)
        else {
            return false;
        };
        let pad_value = pad_value.to_f32().unwrap_or(f32::NAN);
        sign_product(self, shape, x, w, pad_value, ChannelAffine { scale, bias }, y)
    }

    /// [`matmul_left_gradient`](crate::matmul_left_gradient) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn matmul_left_gradient<T: Real>(&self, dims: MatmulShape, dy: &[T], b: &[T], da: &mut [T]) {
        assert_matmul(dims, da.len(), b.len(), dy.len());
        if dims.columns == 0 {
            da.fill(T::zero());
        } else if matrix::is_large(dims) {
            matrix::left_gradient(self, dims, dy, b, da);
        } else if dims.left_len() > 0 {
            plan::input_gradient(self, &plan::pixel_rows(&pointwise(dims), dims.rows), dy, b, da);
        }
    }

    /// [`matmul_right_gradient`](crate::matmul_right_gradient) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn matmul_right_gradient<T: Real>(&self, dims: MatmulShape, a: &[T], dy: &[T], db: &mut [T]) {
        assert_matmul(dims, a.len(), db.len(), dy.len());
        if dims.rows == 0 {
            db.fill(T::zero());
        } else if matrix::is_large(dims) {
            matrix::right_gradient(self, dims, a, dy, db);
        } else if dims.right_len() > 0 {
            kernel_gradient::kernel_gradient(self, &pointwise(dims), a, T::zero(), dy, db);
        }
    }

    /// [`with_matmul_right_gradient`](crate::with_matmul_right_gradient) with these kernels.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn with_matmul_right_gradient<T: Real, R>(
        &self,
        dims: MatmulShape,
        a: &[T],
        dy: &[T],
        visit: impl FnOnce(usize, &GradientRows<'_, T>) -> R,
    ) -> R {
        assert_matmul(dims, a.len(), dims.right_len(), dy.len());
        assert!(takes_rows(dims), "the gradient of {dims:?} is not made in rows");
        matrix::with_right_gradient(self, dims, a, dy, |gradient| {
            visit(gradient.few_rows(), &|first, db| gradient.rows(first, db))
        })
    }
}

#[cfg(any(feature = "std", test))]
fn forced(name: &str) -> &'static Kernels {
    let isa: Isa = name.parse().unwrap_or_else(|error| panic!("QNN_ISA: {error}"));
    let has = || Isa::available().map(Isa::name).collect::<alloc::vec::Vec<_>>().join(", ");
    Kernels::of(isa)
        .unwrap_or_else(|| panic!("QNN_ISA={isa}: this machine has no such instructions, it has {}", has()))
}

/// A matrix product as a convolution of images of one pixel each.
fn pixels(dims: MatmulShape) -> Conv2dShape {
    Conv2dShape { batch: dims.rows, width: 1, ..pointwise(dims) }
}

/// A matrix product as a convolution: each row is a pixel, all in one row of one image.
fn pointwise(dims: MatmulShape) -> Conv2dShape {
    Conv2dShape {
        batch: 1,
        height: 1,
        width: dims.rows,
        channels: dims.inner,
        out_channels: dims.columns,
        kernel: [1, 1],
        stride: [1, 1],
        padding: Padding::NONE,
        groups: 1,
    }
}

/// The shape as kernels compute it.
#[track_caller]
fn checked(shape: &Conv2dShape, input: usize, weights: usize, output: usize) -> Conv2dShape {
    if let Err(error) = shape.check() {
        panic!("{error} in {shape:?}");
    }
    let found = [input, weights, output];
    let expected = [shape.input_len(), shape.weight_len(), shape.output_len()];
    assert!(
        found == expected,
        "input, weights and output have {found:?} elements, {shape:?} needs {expected:?}"
    );
    shape.with_needed_strides()
}

#[track_caller]
fn assert_matmul(dims: MatmulShape, left: usize, right: usize, output: usize) {
    let found = [left, right, output];
    let expected = [dims.left_len(), dims.right_len(), dims.output_len()];
    assert!(
        found == expected,
        "left, right and product have {found:?} elements, {dims:?} needs {expected:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_has_a_table_of_its_own() {
        for isa in Isa::ALL {
            assert_eq!(Kernels::of(isa).map(Kernels::isa), isa.is_available().then_some(isa));
        }
    }

    #[test]
    fn a_forced_set_is_taken() {
        assert_eq!(forced("scalar").isa(), Isa::Scalar);
    }

    #[test]
    #[should_panic(expected = "QNN_ISA: \"sse9\" is no instruction set")]
    fn an_unknown_forced_set_is_named() {
        let _ = forced("sse9");
    }
}
