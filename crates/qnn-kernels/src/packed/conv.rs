//! Convolutions and matrix products of packed codes.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::plan::Plan;
use super::{ConvGeometry, Encoding, Layout, Output, PackError};
use crate::{Kernels, ShapeError};

/// A convolution whose weights are packed, ready to run over packed images. Matrix products are convolutions of single pixels
/// ([`ConvGeometry::matmul`]).
///
/// ```
/// use qnn_kernels::{Kernels, packed::{ConvGeometry, Encoding, Output, PackedConv}};
/// let conv = PackedConv::new(&ConvGeometry::matmul(3, 2), Encoding::Sign, 0, Encoding::Sign, &[1., -1., 1., 1., -1., 1.])?;
/// let mut x = [0];
/// conv.x_layout().pack(&[1.0, -1.0, -1.0], &mut x)?;
/// let mut y = [0; 2];
/// conv.run(Kernels::current(), &x, Output::Accumulators(&mut y));
/// assert_eq!(y, [1 - 1 + 1, -1 - 1 - 1]);
/// # Ok::<(), qnn_kernels::packed::PackError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PackedConv {
    geometry: ConvGeometry,
    layout: Layout,
    weights: Encoding,
    pad_code: i32,
    plan: Plan,
}

impl PackedConv {
    /// Packs the weights `codes`, `[kh, kw, channels/groups, out_channels]`.
    ///
    /// Positions outside the image hold `pad_code`: a code of `x`, or 0, which then adds nothing to a sum even where `x` cannot say it.
    ///
    /// # Errors
    ///
    /// A geometry that cannot be computed, weights that are no codes of `w`, encodings that are not made of planes, a padding that is neither a
    /// code nor zero, sums beyond 32 bits.
    pub fn new(
        geometry: &ConvGeometry,
        x: Encoding,
        pad_code: i32,
        w: Encoding,
        codes: &[f32],
    ) -> Result<Self, PackError> {
        check(geometry, x, pad_code, w)?;
        let geometry = &geometry.with_needed_strides();
        let expected = geometry.weight_len();
        if codes.len() != expected {
            return Err(PackError::Length { what: "weights", found: codes.len(), expected });
        }
        let levels = codes.iter().enumerate().map(|(index, &code)| w.level_of(code, index, codes.len()));
        let levels: Vec<u8> = levels.map(|level| level.map(|level| level as u8)).collect::<Result<_, _>>()?;
        let layout = Layout::new(x, geometry.channels)?;
        let plan = Plan::new(geometry, layout, pad_code, w, &levels);
        Ok(Self { geometry: *geometry, layout, weights: w, pad_code, plan })
    }

    /// The geometry it was made for, with strides no larger than its image needs.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// How the input's pixels lie.
    #[must_use]
    pub fn x_layout(&self) -> Layout {
        self.layout
    }

    /// The encoding of the weights.
    #[must_use]
    pub fn weight_encoding(&self) -> Encoding {
        self.weights
    }

    /// What the padded positions hold.
    #[must_use]
    pub fn pad_code(&self) -> i32 {
        self.pad_code
    }

    /// Bounds of every accumulator.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<i32> {
        // The product was checked when the weights were packed.
        let most =
            self.geometry.terms() as i32 * self.layout.encoding().magnitude() * self.weights.magnitude();
        -most..=most
    }

    /// Convolves the packed images `x`, as many as it holds. Runs on rayon's current pool; the integers are the same for every schedule and every
    /// instruction set.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or the output's lengths, channels or levels do not fit them.
    #[track_caller]
    pub fn run(&self, kernels: &Kernels, x: &[u8], out: Output<'_>) {
        let image = self.layout.bytes_for(self.geometry.pixels());
        assert!(x.len().is_multiple_of(image), "{} bytes are no whole images of {image} bytes", x.len());
        let pixels = x.len() / image * self.geometry.out_pixels();
        out.assert_fits(pixels, self.geometry.out_channels);
        self.plan.run(&kernels.bits, x, pixels, out);
    }
}

/// Rows and columns of an output beyond which no image is meant.
const MOST_PIXELS: usize = 1 << 22;

fn check(geometry: &ConvGeometry, x: Encoding, pad_code: i32, w: Encoding) -> Result<(), PackError> {
    geometry.check()?;
    if geometry.out_height().max(geometry.out_width()) > MOST_PIXELS {
        return Err(ShapeError::Overflow { what: "output, of more than 2^22 rows or columns," }.into());
    }
    for (what, encoding) in [("the input", x), ("the weights", w)] {
        if encoding.checked()? == Encoding::Int8 {
            let remedy = "these kernels take planes of bits; bytes have kernels of their own";
            return Err(PackError::Unsupported { what, encoding, remedy });
        }
    }
    if x.level(pad_code).is_none() && pad_code != 0 {
        return Err(PackError::Padding { code: pad_code, encoding: x });
    }
    let (terms, product) = (geometry.terms(), i64::from(x.magnitude()) * i64::from(w.magnitude()));
    let sum = i64::try_from(terms).ok().and_then(|terms| terms.checked_mul(product));
    match sum {
        Some(sum) if sum < i64::from(i32::MAX) => Ok(()),
        _ => Err(PackError::Accumulator { terms, product }),
    }
}
