//! Convolutions in `f32` that are laid out once and run often.

use alloc::vec::Vec;
use core::ops::Range;

use crate::line::{Block, Line};
use crate::plan::{Window, forward_tables, pack_plain};
use crate::product::{Product, Tables, Weights, run_whole};
use crate::real::compute::Compute;
use crate::{Algorithm, ChannelAffine, Conv2dShape, Kernels, Real, ShapeError, exact, winograd};

/// A convolution with its weights where the kernels want them: bit for bit the numbers of [`convolve`](crate::convolve), without its work before
/// the first product, and without an allocation once it has run.
///
/// ```
/// use qnn_kernels::{Algorithm, ChannelAffine, Conv2dShape, FloatConv, Kernels, Padding};
/// let shape = Conv2dShape {
///     batch: 1, height: 1, width: 3, channels: 1, out_channels: 1,
///     kernel: [1, 2], stride: [1, 1], padding: Padding { right: 1, ..Padding::NONE }, groups: 1,
/// };
/// let (w, out) = ([10.0, 1.0], ChannelAffine::bias(&[0.5]));
/// let conv = FloatConv::new(Kernels::current(), &shape, &w, -1.0, out, Algorithm::Direct)?;
/// let mut y = [0.0; 6];
/// conv.run(&[1.0, 2.0, 3.0, 0.0, 0.0, 7.0], &mut y);
/// assert_eq!(y, [12.5, 23.5, 29.5, 0.5, 7.5, 69.5]);
/// # Ok::<(), qnn_kernels::ShapeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct FloatConv {
    kernels: &'static Kernels,
    /// For one image.
    shape: Conv2dShape,
    layout: Layout,
    lines: Vec<Line<f32>>,
}

/// What the lines are for.
#[derive(Clone, Debug)]
enum Layout {
    Direct(Tables<f32>),
    Winograd(winograd::Filter<'static, f32>),
    /// The lines are of `f64`, and the affine map comes after the rounding.
    Exact {
        tables: Tables<f64>,
        lines: Vec<Line<f64>>,
        scale: Option<Vec<f32>>,
        bias: Option<Vec<f32>>,
    },
}

impl FloatConv {
    /// Lays out weights `[kh, kw, cin/groups, cout]`; the shape's batch does not matter.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] as [`Conv2dShape::check`] finds it.
    ///
    /// # Panics
    ///
    /// If weights, scale or bias have not the length that the shape asks for.
    #[track_caller]
    pub fn new(
        kernels: &'static Kernels,
        shape: &Conv2dShape,
        w: &[f32],
        pad_value: f32,
        out: ChannelAffine<'_, f32>,
        algorithm: Algorithm,
    ) -> Result<Self, ShapeError> {
        let shape = Conv2dShape { batch: 1, ..*shape };
        shape.check()?;
        let shape = shape.with_needed_strides();
        assert!(w.len() == shape.weight_len(), "{} weights of {}", w.len(), shape.weight_len());
        out.assert_channels(shape.out_channels);
        if algorithm == Algorithm::Winograd && winograd::takes(&shape) {
            let filter = winograd::Filter::forward(kernels, &shape, pad_value);
            let lines = filter.pack(w, out);
            return Ok(Self { kernels, shape, layout: Layout::Winograd(filter), lines });
        }
        if algorithm == Algorithm::Exact {
            let [scale, bias] = [out.scale, out.bias].map(|values| values.map(<[f32]>::to_vec));
            let w: Vec<f64> = w.iter().map(|&weight| weight.into()).collect();
            let (tables, lines) = laid_out(kernels, &shape, &w, pad_value.into(), ChannelAffine::IDENTITY);
            let layout = Layout::Exact { tables, lines, scale, bias };
            return Ok(Self { kernels, shape, layout, lines: Vec::new() });
        }
        let (tables, lines) = laid_out(kernels, &shape, w, pad_value, out);
        Ok(Self { kernels, shape, layout: Layout::Direct(tables), lines })
    }

    /// Convolves the images `x`, as many as it holds. Runs on rayon's current pool.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or `y` has not the elements for their outputs.
    #[track_caller]
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        let expected = self.pixels(x) * self.shape.out_channels;
        assert!(y.len() == expected, "the output has {} elements of {expected}", y.len());
        match &self.layout {
            Layout::Direct(tables) => self.product(tables).run(x, y),
            Layout::Winograd(filter) => filter.run(x, &self.lines, y),
            Layout::Exact { tables, lines, scale, bias } => {
                let out = ChannelAffine { scale: scale.as_deref(), bias: bias.as_deref() };
                exact::rounded(x, self.shape.out_channels, out, y, |x, sums| {
                    let weights = Weights::Packed(lines);
                    Product { tiles: f64::tiles(self.kernels), tables, weights }.run(x, sums);
                });
            }
        }
    }

    /// Convolves as [`run`](Self::run) does, and shows the output to a function in runs of pixels, while they lie in the cache. Several threads
    /// may visit, in no order.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or `bytes` are no equal parts, of a byte at least, for the output pixels.
    #[track_caller]
    pub fn run_tiles(&self, x: &[f32], bytes: &mut [u8], visit: &(dyn Fn(FloatTile<'_>) + Sync)) {
        let (pixels, channels) = (self.pixels(x), self.shape.out_channels);
        assert_parts(pixels, bytes);
        let visit = visit_tiles(channels, visit);
        match &self.layout {
            Layout::Direct(tables) => self.product(tables).run_tiles(x, pixels, bytes, &visit),
            Layout::Winograd(filter) => filter.run_tiles(x, &self.lines, pixels, bytes, &visit),
            Layout::Exact { .. } => run_whole(pixels, channels, bytes, &visit, |y| self.run(x, y)),
        }
    }

    fn product<'a>(&'a self, tables: &'a Tables<f32>) -> Product<'a, f32> {
        Product { tiles: f32::tiles(self.kernels), tables, weights: Weights::Packed(&self.lines) }
    }

    /// Output pixels of all images.
    #[track_caller]
    fn pixels(&self, x: &[f32]) -> usize {
        let image = self.shape.input_len();
        assert!(x.len().is_multiple_of(image), "{} numbers are no whole images of {image}", x.len());
        x.len() / image * self.shape.out_height() * self.shape.out_width()
    }
}

/// A run of output pixels of a convolution in `f32`.
#[derive(Debug)]
pub struct FloatTile<'a> {
    /// Their indices, counted over the whole batch.
    pub pixels: Range<usize>,
    /// Their outputs, `[pixel, cout]`; the function may use them as it likes.
    pub numbers: &'a mut [f32],
    /// Their part of the bytes that the function fills.
    pub bytes: &'a mut [u8],
}

/// The tables of a direct convolution, with its weights.
fn laid_out<T: Real>(
    kernels: &Kernels,
    shape: &Conv2dShape,
    w: &[T],
    pad_value: T,
    out: ChannelAffine<'_, T>,
) -> (Tables<T>, Vec<Line<T>>) {
    let tables = forward_tables(T::tiles(kernels), &Window::plain(shape), pad_value);
    let pack = |panel: Block, vectors: usize, lines: &mut [Line<T>]| {
        pack_plain(shape, w, panel, vectors, lines);
    };
    let lines = tables.pack(&pack, out);
    (tables, lines)
}

#[track_caller]
pub(crate) fn run_tiles(
    product: &Product<'_, f32>,
    x: &[f32],
    pixels: usize,
    bytes: &mut [u8],
    visit: &(dyn Fn(FloatTile<'_>) + Sync),
) {
    assert_parts(pixels, bytes);
    product.run_tiles(x, pixels, bytes, &visit_tiles(product.tables.channels, visit));
}

#[track_caller]
fn assert_parts(pixels: usize, bytes: &[u8]) {
    let whole = bytes.len().is_multiple_of(pixels.max(1)) && bytes.is_empty() == (pixels == 0);
    assert!(whole, "{} bytes are no equal parts for {pixels} output pixels", bytes.len());
}

fn visit_tiles(
    channels: usize,
    visit: &(dyn Fn(FloatTile<'_>) + Sync),
) -> impl Fn(usize, &mut [f32], &mut [u8]) + Sync {
    move |first, numbers, bytes| {
        visit(FloatTile { pixels: first..first + numbers.len() / channels, numbers, bytes });
    }
}
