//! Pooling of packed codes.

use core::ops::Range;

use super::{Encoding, Layout};
use crate::threads;
use crate::threads::prelude::*;
use crate::{Conv2dShape, Kernels, Padding, ShapeError, vectorized};

/// Bytes of input beyond which threads share them: some microseconds.
const WORTH_SHARING: usize = 1 << 14;

/// Windows over images `[height, width, channels]`. Positions outside the image do not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Rows and columns of a window.
    pub window: [usize; 2],
    /// Step between windows, down and right.
    pub stride: [usize; 2],
    /// Rows and columns around the image; less than a window, so that every window sees the image.
    pub padding: Padding,
}

impl PoolGeometry {
    fn shape(&self) -> Conv2dShape {
        Conv2dShape {
            batch: 1,
            height: self.height,
            width: self.width,
            channels: 1,
            out_channels: 1,
            kernel: self.window,
            stride: self.stride,
            padding: self.padding,
            groups: 1,
        }
    }

    /// Whether it can be computed.
    ///
    /// # Errors
    ///
    /// As [`Conv2dShape::check`]; [`ShapeError::Overflow`] where padding is as large as a window.
    pub fn check(&self) -> Result<(), ShapeError> {
        self.shape().check()?;
        let Padding { top, bottom, left, right } = self.padding;
        let [rows, columns] = self.window;
        if top.max(bottom) >= rows || left.max(right) >= columns {
            return Err(ShapeError::Overflow { what: "pooling padding beyond the window" });
        }
        Ok(())
    }

    /// Output rows.
    #[must_use]
    pub fn out_height(&self) -> usize {
        self.shape().out_height()
    }

    /// Output columns.
    #[must_use]
    pub fn out_width(&self) -> usize {
        self.shape().out_width()
    }
}

/// Which code of a window is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extreme<'a> {
    /// The largest: max pooling.
    Largest,
    /// For each channel the smallest where it is set, else the largest: max pooling of accumulators that fell through thresholds of which
    /// some are flipped ([`Thresholds::flips`](super::Thresholds::flips)), done on the codes instead.
    SmallestWhere(&'a [bool]),
}

impl Kernels {
    /// Pools packed images `x` into `y`, exactly.
    ///
    /// # Panics
    ///
    /// If the geometry fails its check, `x` is no whole number of images, `y` has not the bytes of as many pooled ones, or a flag for each channel is
    /// missing.
    #[track_caller]
    pub fn pool_codes(
        &self,
        geometry: &PoolGeometry,
        layout: Layout,
        extreme: Extreme<'_>,
        x: &[u8],
        y: &mut [u8],
    ) {
        if let Err(error) = geometry.check() {
            panic!("{error} in {geometry:?}");
        }
        let image = layout.bytes_for(geometry.height * geometry.width);
        assert!(x.len().is_multiple_of(image), "{} bytes are no whole images of {image} bytes", x.len());
        let pixels = x.len() / image * geometry.out_height() * geometry.out_width();
        assert!(
            y.len() == layout.bytes_for(pixels),
            "{} bytes for {pixels} pooled pixels of {}",
            y.len(),
            layout.pixel_bytes()
        );
        if let Extreme::SmallestWhere(flags) = extreme {
            assert!(
                flags.len() == layout.channels(),
                "{} flags for {} channels",
                flags.len(),
                layout.channels()
            );
        }
        let row_bytes = layout.bytes_for(geometry.out_width());
        let rows = geometry.out_height();
        let pool_row = |(row, y): (usize, &mut [u8])| {
            let image = &x[row / rows * image..][..image];
            let keys = Keys { geometry, layout, extreme };
            keys.pool_row(row % rows, image, y);
        };
        if x.len() > WORTH_SHARING && threads::current_num_threads() > 1 {
            y.par_chunks_exact_mut(row_bytes).with_min_len(rows.div_ceil(4)).enumerate().for_each(pool_row);
        } else {
            y.chunks_exact_mut(row_bytes).enumerate().for_each(pool_row);
        }
    }
}

/// Pooling by words of 64 channels.
///
/// Every code becomes a key of bits whose order is that of the codes: a plane of signs complemented, planes of zeros and ones as they are, a ternary
/// code as "positive, not negative". Two keys are compared from the highest plane down, all channels at once. Where the smallest is wanted,
/// the key is complemented.
struct Keys<'a> {
    geometry: &'a PoolGeometry,
    layout: Layout,
    extreme: Extreme<'a>,
}

impl Keys<'_> {
    fn pool_row(&self, row: usize, image: &[u8], y: &mut [u8]) {
        match self.layout.encoding() {
            Encoding::Int8 => self.pool_bytes(row, image, y),
            encoding => match encoding.planes() {
                1 => match self.layout.plane_bytes() {
                    1 => self.pool_plane::<1>(row, image, y),
                    2 => self.pool_plane::<2>(row, image, y),
                    4 => self.pool_plane::<4>(row, image, y),
                    _ => self.pool_plane::<8>(row, image, y),
                },
                2 => self.pool_words::<2>(row, image, y),
                3 | 4 => self.pool_words::<4>(row, image, y),
                _ => self.pool_words::<8>(row, image, y),
            },
        }
    }

    fn pool_bytes(&self, row: usize, image: &[u8], y: &mut [u8]) {
        let channels = self.layout.channels();
        vectorized(
            #[inline(always)]
            || {
                for (column, pooled) in y.chunks_exact_mut(channels).enumerate() {
                    let mut window = self.geometry.pixels(row, column);
                    let first = window.next().expect("a pixel in every window");
                    pooled.copy_from_slice(&image[first * channels..][..channels]);
                    window.for_each(|pixel| self.keep_bytes(pooled, &image[pixel * channels..][..channels]));
                }
            },
        );
    }

    /// Keeps the wanted one of two codes in each channel.
    #[inline(always)]
    fn keep_bytes(&self, kept: &mut [u8], codes: &[u8]) {
        let pairs = kept.iter_mut().zip(codes);
        match self.extreme {
            Extreme::Largest => pairs.for_each(|(kept, &code)| *kept = (*kept as i8).max(code as i8) as u8),
            Extreme::SmallestWhere(flags) => pairs.zip(flags).for_each(|((kept, &code), &smallest)| {
                let (a, b) = (*kept as i8, code as i8);
                *kept = if smallest { a.min(b) } else { a.max(b) } as u8;
            }),
        }
    }

    /// For a single plane, in words of so many bytes: the bits that all pixels of a window have, after those of channels that keep the other extreme
    /// were turned.
    fn pool_plane<const BYTES: usize>(&self, row: usize, image: &[u8], y: &mut [u8]) {
        let pixel_bytes = self.layout.pixel_bytes();
        let load = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..BYTES].copy_from_slice(&bytes[..BYTES]);
            u64::from_le_bytes(word)
        };
        // A set bit is the smaller sign, and the larger of zero and one.
        let turned = if matches!(self.layout.encoding(), Encoding::Unsigned { .. }) { u64::MAX } else { 0 };
        for word in 0..pixel_bytes / BYTES {
            let turned = turned ^ self.smallest_of_word(word);
            for (column, pooled) in y.chunks_exact_mut(pixel_bytes).enumerate() {
                let [rows, columns] = self.geometry.window(row, column);
                let mut kept = u64::MAX;
                for row in rows {
                    let start = row * self.geometry.width;
                    let pixels =
                        &image[(start + columns.start) * pixel_bytes..(start + columns.end) * pixel_bytes];
                    for pixel in pixels.chunks_exact(pixel_bytes) {
                        kept &= load(&pixel[word * BYTES..]) ^ turned;
                    }
                }
                let stored = (kept ^ turned).to_le_bytes();
                pooled[word * BYTES..][..BYTES].copy_from_slice(&stored[..BYTES]);
            }
        }
    }

    /// The channels of a word of which the smallest code is wanted.
    fn smallest_of_word(&self, word: usize) -> u64 {
        let Extreme::SmallestWhere(flags) = self.extreme else { return 0 };
        let flags = flags.chunks(64).nth(word).unwrap_or_default().iter().enumerate();
        flags.fold(0, |bits, (bit, &flag)| bits | u64::from(flag) << bit)
    }

    /// For up to `P` planes; the lowest keys of the others stay clear.
    fn pool_words<const P: usize>(&self, row: usize, image: &[u8], y: &mut [u8]) {
        let (pixel_bytes, plane_bytes) = (self.layout.pixel_bytes(), self.layout.plane_bytes());
        for word in 0..plane_bytes.div_ceil(8) {
            let width = plane_bytes.min(8);
            let flip = self.smallest_of_word(word);
            for (column, pooled) in y.chunks_exact_mut(pixel_bytes).enumerate() {
                let mut best = [0; P];
                for pixel in self.geometry.pixels(row, column) {
                    let pixel = &image[pixel * pixel_bytes..][..pixel_bytes];
                    best = larger(best, self.key(pixel, word * 8, width).map(|plane| plane ^ flip));
                }
                self.store(best.map(|plane| plane ^ flip), &mut pooled[word * 8..], width);
            }
        }
    }

    /// The key's planes, the lowest first.
    fn key<const P: usize>(&self, pixel: &[u8], at: usize, width: usize) -> [u64; P] {
        let plane_bytes = self.layout.plane_bytes();
        let stored = |plane: usize| match pixel.get(plane * plane_bytes + at..) {
            Some(plane) => word_from(&plane[..width]),
            None => 0,
        };
        let planes = self.layout.encoding().planes();
        match self.layout.encoding() {
            Encoding::Ternary => {
                let (nonzero, negative) = (stored(0), stored(1));
                core::array::from_fn(|plane| if plane == 0 { !negative } else { nonzero & !negative })
            }
            Encoding::Unsigned { .. } => {
                core::array::from_fn(|plane| if plane < planes { stored(plane) } else { 0 })
            }
            _ => core::array::from_fn(|plane| if plane < planes { !stored(plane) } else { 0 }),
        }
    }

    fn store<const P: usize>(&self, key: [u64; P], pooled: &mut [u8], width: usize) {
        let stored = match self.layout.encoding() {
            Encoding::Ternary => {
                let negative = !key[0];
                core::array::from_fn(|plane| if plane == 0 { negative | key[1 % P] } else { negative })
            }
            Encoding::Unsigned { .. } => key,
            _ => key.map(|plane| !plane),
        };
        for (plane, word) in stored.iter().take(self.layout.encoding().planes()).enumerate() {
            pooled[plane * self.layout.plane_bytes()..][..width]
                .copy_from_slice(&word.to_le_bytes()[..width]);
        }
    }
}

/// The larger key of each channel.
fn larger<const P: usize>(a: [u64; P], b: [u64; P]) -> [u64; P] {
    let (mut above, mut equal) = (0, u64::MAX);
    for plane in (0..P).rev() {
        above |= equal & b[plane] & !a[plane];
        equal &= !(a[plane] ^ b[plane]);
    }
    core::array::from_fn(|plane| (b[plane] & above) | (a[plane] & !above))
}

fn word_from(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk)),
    }
}

impl PoolGeometry {
    /// Rows and columns of an output pixel's window.
    fn window(&self, row: usize, column: usize) -> [Range<usize>; 2] {
        let inside = |start: usize, before: usize, len: usize, extent: usize| {
            start.saturating_sub(before)..(start + len - before).min(extent)
        };
        let rows = inside(row * self.stride[0], self.padding.top, self.window[0], self.height);
        let columns = inside(column * self.stride[1], self.padding.left, self.window[1], self.width);
        [rows, columns]
    }

    /// Its pixels.
    fn pixels(&self, row: usize, column: usize) -> impl Iterator<Item = usize> {
        let ([rows, columns], width) = (self.window(row, column), self.width);
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }
}
