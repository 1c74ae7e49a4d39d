//! The kernels as free functions, on the best instruction set of the machine.

use crate::arch::numbers_mut;
use crate::line::LANES;
use crate::matrix;
use crate::scratch::with_lines;
use crate::{
    ChannelAffine, Conv2dGradients, Conv2dShape, Convolution, Kernels, MatmulShape, OutputGradient, Real,
    Visitor,
};

/// Work that [`vectorized`] compiles once for each instruction set.
///
/// Every closure is such work. A long one may stay a function of its own, compiled for the least machine, unless it says
/// `#[inline(always)]`, as the [`run`](Vectorize::run) of a type should.
pub trait Vectorize {
    /// What the work gives.
    type Output;

    /// Does the work.
    fn run(self) -> Self::Output;
}

// Not `FnOnce`: closures that could be called twice get an adapter to it, a function of its own that no attribute reaches.
impl<R, F: FnMut() -> R> Vectorize for F {
    type Output = R;

    #[inline(always)]
    fn run(mut self) -> R {
        self()
    }
}

/// Does `work` in code compiled for the widest vectors of the machine.
///
/// For plain loops over slices: a program for every x86-64 may use 128-bit vectors only, the same loop in here 256 or 512 bits. No bit of the
/// result changes, because the compiler neither reorders nor fuses floating-point operations.
///
/// ```
/// let x = [1.0_f32, 2.0, 3.0];
/// let mut y = [0.5_f32; 3];
/// qnn_kernels::vectorized(|| y.iter_mut().zip(&x).for_each(|(y, x)| *y += 2.0 * x));
/// assert_eq!(y, [2.5, 4.5, 6.5]);
/// ```
pub fn vectorized<W: Vectorize>(work: W) -> W::Output {
    Kernels::current().vectorized(work)
}

/// Two-dimensional convolution `[n, h, w, cin] → [n, oh, ow, cout]`, weights `[kh, kw, cin/groups, cout]`.
///
/// ```text
/// acc = Σ x[n, oy·s₀ + kh − top, ox·s₁ + kw − left, c] · w[kh, kw, c, o]          y[n, oy, ox, o] = acc · scale[o] + bias[o]
/// ```
///
/// Every output is one accumulator that starts at `+0` and takes its terms by fused multiply-add in the order `kh, kw, c`, positions outside
/// the image included with the value `pad_value` (0, or ±1 for binary activations).
///
/// ```
/// use qnn_kernels::{ChannelAffine, Conv2dShape, Padding, conv2d};
/// let shape = Conv2dShape {
///     batch: 1, height: 1, width: 3, channels: 1, out_channels: 1,
///     kernel: [1, 2], stride: [1, 1], padding: Padding { right: 1, ..Padding::NONE }, groups: 1,
/// };
/// let mut y = [0.0_f32; 3];
/// conv2d(&shape, &[1.0, 2.0, 3.0], &[10.0, 1.0], -1.0, ChannelAffine::bias(&[0.5]), &mut y);
/// assert_eq!(y, [12.5, 23.5, 29.5]);
/// ```
///
/// # Panics
///
/// If the shape fails [`Conv2dShape::check`], or a slice has not the length that it asks for.
#[track_caller]
pub fn conv2d<T: Real>(
    shape: &Conv2dShape,
    x: &[T],
    w: &[T],
    pad_value: T,
    out: ChannelAffine<'_, T>,
    y: &mut [T],
) {
    Kernels::current().conv2d(shape, x, w, pad_value, out, y);
}

/// A convolution by the [`Algorithm`](crate::Algorithm) that it asks for; [`conv2d`] is the direct one.
///
/// # Panics
///
/// As [`conv2d`].
#[track_caller]
pub fn convolve<T: Real>(shape: &Conv2dShape, convolution: &Convolution<'_, T>, y: &mut [T]) {
    Kernels::current().convolve(shape, convolution, y);
}

/// [`convolve`], with an output that is visited while it is in the cache: `visit(first, images)` gets every `together` images, once they are
/// written, in any order and on several threads, and may change them.
///
/// # Panics
///
/// As [`conv2d`], and if the visitor takes no image at a time.
#[track_caller]
pub fn convolve_visited<T: Real>(
    shape: &Conv2dShape,
    convolution: &Convolution<'_, T>,
    y: &mut [T],
    visitor: Visitor<'_, T>,
) {
    Kernels::current().convolve_visited(shape, convolution, y, visitor);
}

/// The gradient of a convolution's input: `dx[n, iy, ix, c] = Σ dy[n, oy, ox, o] · w[kh, kw, c, o]` over the outputs that saw the input.
///
/// One accumulator for each input, in the order `kh, kw, o`; where [`by_tiles`](crate::reference::by_tiles) says so, sixteen accumulators
/// over `o` for each tile of 2×2 inputs.
///
/// # Panics
///
/// If the shape fails [`Conv2dShape::check`], or a slice has not the length that it asks for.
#[track_caller]
pub fn conv2d_input_gradient<T: Real>(shape: &Conv2dShape, dy: &[T], w: &[T], dx: &mut [T]) {
    Kernels::current().conv2d_input_gradient(shape, dy, w, dx);
}

/// The gradient of a convolution's weights: `dw[kh, kw, c, o] = Σ x[…] · dy[n, oy, ox, o]`, with `pad_value` outside the image.
///
/// Chunks of [`chunk_images`](crate::reference::chunk_images) images are summed each in the order `n, oy, ox`, then added in order; where
/// [`by_tiles`](crate::reference::by_tiles) says so, over tiles of 2×2 outputs.
///
/// # Panics
///
/// If the shape fails [`Conv2dShape::check`], or a slice has not the length that it asks for.
#[track_caller]
pub fn conv2d_kernel_gradient<T: Real>(shape: &Conv2dShape, x: &[T], pad_value: T, dy: &[T], dw: &mut [T]) {
    Kernels::current().conv2d_kernel_gradient(shape, x, pad_value, dy, dw);
}

/// Both gradients of a convolution in one go: each piece of the output's gradient is written by `dy` when it is needed, and read by both while it
/// is in the cache.
///
/// `dy(images, out)` is called for every image once, in any order and by several threads. The same bits as
/// [`conv2d_input_gradient`] and [`conv2d_kernel_gradient`] of the whole; with `add`, `dx` becomes `dx + gradient`, each sum rounded once.
///
/// # Panics
///
/// If the shape fails [`Conv2dShape::check`] or [`takes_pieces`](crate::takes_pieces), or a slice has not the length that it asks for.
#[track_caller]
pub fn conv2d_gradients<T: Real>(
    shape: &Conv2dShape,
    job: Conv2dGradients<'_, T>,
    dy: &OutputGradient<'_, T>,
) {
    Kernels::current().conv2d_gradients(shape, job, dy);
}

/// Matrix product `y = (a · b) · scale + bias`, `[m, k] · [k, n]`: one accumulator for each element, over `k` in order.
///
/// ```
/// use qnn_kernels::{ChannelAffine, MatmulShape, matmul};
/// let dims = MatmulShape { rows: 1, inner: 2, columns: 2 };
/// let mut y = [0.0_f32; 2];
/// matmul(dims, &[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0], ChannelAffine::IDENTITY, &mut y);
/// assert_eq!(y, [13.0, 16.0]);
/// ```
///
/// # Panics
///
/// If a slice has not the length that `dims` asks for.
#[track_caller]
pub fn matmul<T: Real>(dims: MatmulShape, a: &[T], b: &[T], out: ChannelAffine<'_, T>, y: &mut [T]) {
    Kernels::current().matmul(dims, a, b, out, y);
}

/// [`matmul`] for codes: each sum in `f64`, rounded once at its end, which is exact while sums are at most 2⁵³, in two to three times the time.
///
/// # Panics
///
/// As [`matmul`].
#[track_caller]
pub fn matmul_exact<T: Real>(dims: MatmulShape, a: &[T], b: &[T], out: ChannelAffine<'_, T>, y: &mut [T]) {
    Kernels::current().matmul_exact(dims, a, b, out, y);
}

/// The gradient of a product's left factor, `da = dy · bᵀ`: one accumulator for each element, over the columns in order.
///
/// # Panics
///
/// If a slice has not the length that `dims` asks for.
#[track_caller]
pub fn matmul_left_gradient<T: Real>(dims: MatmulShape, dy: &[T], b: &[T], da: &mut [T]) {
    Kernels::current().matmul_left_gradient(dims, dy, b, da);
}

/// The gradient of a product's right factor, `db = aᵀ · dy`: one accumulator for each element, over the rows in order.
///
/// # Panics
///
/// If a slice has not the length that `dims` asks for.
#[track_caller]
pub fn matmul_right_gradient<T: Real>(dims: MatmulShape, a: &[T], dy: &[T], db: &mut [T]) {
    Kernels::current().matmul_right_gradient(dims, a, dy, db);
}

/// Writes the rows of a gradient from one on, as many as fit the slice, on the calling thread.
pub type GradientRows<'a, T> = dyn Fn(usize, &mut [T]) + Sync + 'a;

/// Whether [`with_matmul_right_gradient`] can make the gradient of a right factor some rows at a time: of large ones.
#[must_use]
pub fn takes_rows(dims: MatmulShape) -> bool {
    matrix::is_large(dims)
}

/// Lends what makes the gradient of a product's right factor some rows at a time, with the bits of [`matmul_right_gradient`]: for those who
/// use up each row while it is in the cache.
///
/// `visit` takes a number of rows that are made together at full speed and stay in a core's cache, and the function that makes them.
///
/// # Panics
///
/// If a slice has not the length that `dims` asks for, or [`takes_rows`] says no.
#[track_caller]
pub fn with_matmul_right_gradient<T: Real, R>(
    dims: MatmulShape,
    a: &[T],
    dy: &[T],
    visit: impl FnOnce(usize, &GradientRows<'_, T>) -> R,
) -> R {
    Kernels::current().with_matmul_right_gradient(dims, a, dy, visit)
}

/// Lends `len` numbers with unspecified contents, which the thread keeps from call to call.
pub fn with_scratch<T: Real, R>(len: usize, visit: impl FnOnce(&mut [T]) -> R) -> R {
    with_lines(len.div_ceil(LANES), |lines| visit(&mut numbers_mut(lines)[..len]))
}
