//! The convolutions of METU's convolution system as they stand there: plain loops over floats, and over indices into a codebook.
//!
//! They are what packed kernels are compared with. The second looks every weight up where it is used: it saves memory and loses time.

use alloc::vec::Vec;

use super::int8::check_len;
use super::{ConvGeometry, PackError};

/// A convolution in plain loops: `y[n, oy, ox, o] = Σ x · w`, one product after the other in the order `kh, kw, cin`, nothing fused.
///
/// Positions outside the image add nothing.
///
/// # Panics
///
/// If the geometry fails [`ConvGeometry::check`], or the lengths do not fit it.
#[track_caller]
pub fn plain_conv2d(geometry: &ConvGeometry, x: &[f32], w: &[f32], y: &mut [f32]) {
    if let Err(error) = geometry.check() {
        panic!("{error} in {geometry:?}");
    }
    assert!(w.len() == geometry.weight_len(), "{} weights of {}", w.len(), geometry.weight_len());
    convolve(geometry, x, y, |index| w[index]);
}

/// A convolution whose weights are indices of 1 or 2 bits into a codebook of floats.
///
/// The numbers are those of [`plain_conv2d`] with the weights looked up.
///
/// ```
/// use qnn_kernels::packed::{ConvGeometry, LookupConv};
/// let conv = LookupConv::new(&ConvGeometry::matmul(3, 1), &[-0.5, 0.0, 0.5], &[2, 1, 0])?;
/// let mut y = [0.0];
/// conv.run(&[8.0, 4.0, 2.0], &mut y);
/// assert_eq!(y, [3.0]);
/// # Ok::<(), qnn_kernels::packed::PackError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LookupConv {
    geometry: ConvGeometry,
    codebook: [f32; 4],
    bits: usize,
    /// Index `i` lies in bits `bits·i ..` of these words, the lowest first.
    words: Vec<u32>,
}

impl LookupConv {
    /// A convolution with the weights `codebook[indices[kh, kw, c, o]]`.
    ///
    /// # Errors
    ///
    /// A geometry that cannot be computed, another number of indices than it needs, a codebook of other than 2, 3 or 4 values, an index beyond it.
    pub fn new(geometry: &ConvGeometry, codebook: &[f32], indices: &[u8]) -> Result<Self, PackError> {
        geometry.check()?;
        check_len("indices", indices.len(), geometry.weight_len())?;
        let levels = codebook.len();
        if !(2..=4).contains(&levels) {
            return Err(PackError::Length { what: "codebook", found: levels, expected: 4 });
        }
        if let Some(&index) = indices.iter().find(|&&index| usize::from(index) >= levels) {
            return Err(PackError::Length {
                what: "codebook",
                found: levels,
                expected: usize::from(index) + 1,
            });
        }
        let bits = if levels == 2 { 1 } else { 2 };
        let word = |indices: &[u8]| {
            indices.iter().enumerate().fold(0, |word, (at, &index)| word | u32::from(index) << (bits * at))
        };
        let mut values = [0.0; 4];
        values[..levels].copy_from_slice(codebook);
        let words = indices.chunks(32 / bits).map(word).collect();
        Ok(Self { geometry: *geometry, codebook: values, bits, words })
    }

    /// Bits of an index.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Bytes that the indices take in memory.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        size_of_val(&self.words[..])
    }

    /// Convolves the images `x`, as many as it holds; positions outside add nothing.
    ///
    /// # Panics
    ///
    /// If `x` is no whole number of images, or the output's length does not fit them.
    #[track_caller]
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        let (per_word, mask) = (32 / self.bits, (1 << self.bits) - 1);
        convolve(&self.geometry, x, y, |index| {
            let word = self.words[index / per_word];
            self.codebook[(word >> (self.bits * (index % per_word)) & mask) as usize]
        });
    }
}

#[track_caller]
fn convolve(geometry: &ConvGeometry, x: &[f32], y: &mut [f32], weight: impl Fn(usize) -> f32) {
    let image = geometry.pixels() * geometry.channels;
    assert!(x.len().is_multiple_of(image), "{} numbers are no whole images of {image}", x.len());
    let channels = geometry.out_channels;
    let expected = x.len() / image * geometry.out_pixels() * channels;
    assert!(y.len() == expected, "the output has {} elements of {expected}", y.len());
    let (rows, columns) = (geometry.out_height(), geometry.out_width());
    let images = x.chunks_exact(image).zip(y.chunks_exact_mut(rows * columns * channels));
    for (x, y) in images {
        for oy in 0..rows {
            for ox in 0..columns {
                for o in 0..channels {
                    y[(oy * columns + ox) * channels + o] = sum(geometry, x, [oy, ox, o], &weight);
                }
            }
        }
    }
}

fn sum(geometry: &ConvGeometry, x: &[f32], [oy, ox, o]: [usize; 3], weight: &impl Fn(usize) -> f32) -> f32 {
    let group_channels = geometry.group_channels();
    let first = o / geometry.group_outputs() * group_channels;
    let mut sum = 0.0;
    for kh in 0..geometry.kernel[0] {
        let Some(row) = geometry.source(0, oy, kh) else { continue };
        for kw in 0..geometry.kernel[1] {
            let Some(column) = geometry.source(1, ox, kw) else { continue };
            let pixel = &x[(row * geometry.width + column) * geometry.channels + first..];
            let tap = (kh * geometry.kernel[1] + kw) * group_channels;
            for c in 0..group_channels {
                sum += pixel[c] * weight((tap + c) * geometry.out_channels + o);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::int8_tests::{any_geometry, bytes};
    use super::*;
    use crate::{ChannelAffine, reference};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn looking_up_gives_the_numbers_of_the_looked_up(
            geometry in any_geometry(), levels in 2_usize..=4, batch in 0_usize..3, seed in any::<u32>(),
        ) {
            let codebook = &[-0.3, 0.7, 0.0, 1.9][..levels];
            let indices: Vec<u8> = bytes(geometry.weight_len(), seed.into()).iter().map(|byte| byte % levels as u8).collect();
            let w: Vec<f32> = indices.iter().map(|&index| codebook[usize::from(index)]).collect();
            let x: Vec<f32> = bytes(batch * geometry.pixels() * geometry.channels, 3).iter().map(|&byte| f32::from(byte) / 9.0).collect();
            let len = batch * geometry.out_pixels() * geometry.out_channels;
            let (mut plain, mut looked_up) = (vec![f32::NAN; len], vec![f32::NAN; len]);
            plain_conv2d(&geometry, &x, &w, &mut plain);
            let conv = LookupConv::new(&geometry, codebook, &indices).unwrap();
            conv.run(&x, &mut looked_up);
            prop_assert_eq!(&plain, &looked_up);
            prop_assert_eq!(conv.bits(), if levels == 2 { 1 } else { 2 });
            prop_assert!(conv.index_bytes() < geometry.weight_len().div_ceil(8 / conv.bits()) + 4);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Of whole numbers any order of summation is exact.
        #[test]
        fn the_thesis_base_is_the_convolution(geometry in any_geometry(), batch in 0_usize..3, seed in any::<u32>()) {
            let geometry = ConvGeometry { dilation: [1, 1], ..geometry };
            let shape = geometry.undilated(batch).unwrap();
            let numbers = |len, seed| bytes(len, seed).into_iter().map(|byte| f32::from(byte.cast_signed())).collect::<Vec<_>>();
            let (x, w) = (numbers(shape.input_len(), seed.into()), numbers(shape.weight_len(), 5));
            let (mut plain, mut expected) = (vec![f32::NAN; shape.output_len()], vec![f32::NAN; shape.output_len()]);
            plain_conv2d(&geometry, &x, &w, &mut plain);
            reference::conv2d(&shape, &x, &w, 0.0, ChannelAffine::IDENTITY, &mut expected);
            prop_assert_eq!(plain, expected);
        }
    }

    #[test]
    fn by_hand() {
        // Two rows of two pixels; one filter of two rows, stride 1: columns 1·3 + 10·5 and so on.
        let geometry = ConvGeometry::new([2, 2, 1], [2, 1], 1);
        let mut y = [0.0; 2];
        plain_conv2d(&geometry, &[1.0, 2.0, 10.0, 20.0], &[3.0, 5.0], &mut y);
        assert_eq!(y, [53.0, 106.0]);
    }

    #[test]
    fn faults_are_errors() {
        let geometry = ConvGeometry::matmul(2, 1);
        assert!(LookupConv::new(&geometry, &[1.0], &[0, 0]).is_err());
        assert!(LookupConv::new(&geometry, &[1.0; 5], &[0, 0]).is_err());
        assert!(LookupConv::new(&geometry, &[1.0; 3], &[0, 3]).is_err());
        assert!(LookupConv::new(&geometry, &[1.0; 2], &[0]).is_err());
        let none = ConvGeometry { groups: 0, ..geometry };
        assert!(LookupConv::new(&none, &[1.0; 2], &[0, 0]).is_err());
    }
}
