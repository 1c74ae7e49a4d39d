//! Images of another size or another number of channels.

use crate::{Images, Result};

impl Images {
    /// Bilinear interpolation to `height` × `width`, exactly rounded (half up).
    ///
    /// Pixel centres are at half-integers and the border is repeated, so sample `i` of `d` reads the source
    /// position
    ///
    /// ```text
    /// s(i) = clamp((i + ½) · source / d − ½, 0, source − 1)
    /// ```
    ///
    /// in each direction. There is no low-pass filter: reducing by more than two skips pixels.
    ///
    /// # Errors
    /// [`Error::Images`](crate::Error::Images) if a size is zero or the result is larger than 16 GiB.
    pub fn resize(&self, height: usize, width: usize) -> Result<Self> {
        let [h, w, channels] = self.shape();
        self.checked_bytes([height, width, channels])?;
        self.map([height, width, channels], {
            let (rows, columns) = (samples(h, height), samples(w, width));
            let unit = 4 * height as u64 * width as u64;
            move |source, target| {
                let pixels = target.chunks_exact_mut(channels);
                let places = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
                for ((row, column), pixel) in places.zip(pixels) {
                    interpolate(source, w, row, column, unit, pixel);
                }
            }
        })
    }

    /// Grey to colour by repeating the one channel, or colour to grey by luma:
    ///
    /// ```text
    /// y = 0.299 r + 0.587 g + 0.114 b
    /// ```
    ///
    /// rounded to the nearest integer (ITU-R BT.601).
    ///
    /// # Errors
    /// [`Error::Images`](crate::Error::Images) unless the set has one channel, or three and one is wanted, or
    /// the number already fits.
    pub fn with_channels(&self, channels: usize) -> Result<Self> {
        let [h, w, c] = self.shape();
        match (c, channels) {
            _ if c == channels => Ok(self.clone()),
            (1, _) => self.map([h, w, channels], |source, target| {
                target.chunks_exact_mut(channels).zip(source).for_each(|(pixel, &grey)| pixel.fill(grey));
            }),
            (3, 1) => self.map([h, w, 1], |source, target| {
                target.iter_mut().zip(source.as_chunks().0).for_each(|(grey, &rgb)| *grey = luma(rgb));
            }),
            _ => Err(self.wrong(
                "the number of channels",
                c,
                format!("1, or 3 to become 1, to make {channels}"),
            )),
        }
    }

    /// A border of `by` zero pixels on each of the four sides: 2 makes MNIST 32×32.
    ///
    /// # Errors
    /// [`Error::Images`](crate::Error::Images) if the result is larger than 16 GiB.
    pub fn pad(&self, by: usize) -> Result<Self> {
        let [h, w, c] = self.shape();
        let grow =
            |size: usize| by.checked_mul(2).and_then(|twice| size.checked_add(twice)).unwrap_or(usize::MAX);
        self.map([grow(h), grow(w), c], |source, target| {
            let inner = target.chunks_exact_mut(grow(w) * c).skip(by);
            for (from, to) in source.chunks_exact(w * c).zip(inner) {
                to[by * c..(by + w) * c].copy_from_slice(from);
            }
        })
    }

    /// The set at `[height, width, channels]`, whatever it is now: a margin of two or four pixels, the same
    /// in both directions, is padded evenly (28×28 in 32×32, as is usual for MNIST), any other size interpolated; channels as
    /// [`with_channels`](Self::with_channels).
    ///
    /// # Errors
    /// Those of [`resize`](Self::resize) and [`with_channels`](Self::with_channels).
    ///
    /// ```
    /// # use qnn_data::{load, DatasetName, Source};
    /// let digits = load(DatasetName::Digits, &Source::Embedded)?.dataset.train;
    /// assert_eq!(digits.fit_to([32, 32, 3])?.shape(), [32, 32, 3]);
    /// # Ok::<(), qnn_data::Error>(())
    /// ```
    pub fn fit_to(&self, [height, width, channels]: [usize; 3]) -> Result<Self> {
        let [h, w, _] = self.shape();
        let margin = height.wrapping_sub(h);
        let sized = if (h, w) == (height, width) {
            return self.with_channels(channels);
        } else if margin == width.wrapping_sub(w) && matches!(margin, 2 | 4) {
            self.pad(margin / 2)
        } else {
            self.resize(height, width)
        };
        sized?.with_channels(channels)
    }
}

/// The two source positions of one output position and their integer weights, which sum to twice the output
/// size.
struct Sample {
    places: [usize; 2],
    weights: [u64; 2],
}

fn samples(source: usize, target: usize) -> Vec<Sample> {
    (0..target).map(|i| sample(i as u64, source as u64, target as u64)).collect()
}

/// `s(i)` as a fraction over `2 · target`.
fn sample(i: u64, source: u64, target: u64) -> Sample {
    let unit = 2 * target;
    let position = ((2 * i + 1) * source).saturating_sub(target).min((source - 1) * unit);
    let (low, part) = (position / unit, position % unit);
    let high = (low + 1).min(source - 1);
    Sample { places: [low as usize, high as usize], weights: [unit - part, part] }
}

fn interpolate(source: &[u8], width: usize, row: &Sample, column: &Sample, unit: u64, pixel: &mut [u8]) {
    let channels = pixel.len();
    for (channel, value) in pixel.iter_mut().enumerate() {
        let mut sum = 0;
        for (y, wy) in row.places.iter().zip(row.weights) {
            for (x, wx) in column.places.iter().zip(column.weights) {
                sum += wy * wx * u64::from(source[(y * width + x) * channels + channel]);
            }
        }
        *value = ((sum + unit / 2) / unit) as u8;
    }
}

fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn images(shape: [usize; 3], pixels: Vec<u8>) -> Images {
        let n = pixels.len() / shape.iter().product::<usize>();
        Images::new("t", shape, pixels, vec![0; n], vec!["0".into()]).unwrap()
    }

    /// The documented formula in f64.
    fn plain(
        image: &[u8],
        [h, w, c]: [usize; 3],
        [y, x, channel]: [usize; 3],
        [height, width]: [usize; 2],
    ) -> f64 {
        let place = |i: usize, source: usize, d: usize| {
            ((i as f64 + 0.5) * source as f64 / d as f64 - 0.5).clamp(0.0, source as f64 - 1.0)
        };
        let (sy, sx) = (place(y, h, height), place(x, w, width));
        let at = |y: f64, x: f64| {
            f64::from(image[((y as usize).min(h - 1) * w + (x as usize).min(w - 1)) * c + channel])
        };
        let (ty, tx) = (sy.fract(), sx.fract());
        let row = |y: f64| at(y, sx.floor()) * (1.0 - tx) + at(y, sx.floor() + 1.0) * tx;
        row(sy.floor()) * (1.0 - ty) + row(sy.floor() + 1.0) * ty
    }

    proptest! {
        #[test]
        fn resizing_is_the_formula(
            h in 1_usize..9, w in 1_usize..9, c in 1_usize..4, height in 1_usize..20, width in 1_usize..20,
            bytes in prop::collection::vec(any::<u8>(), 2 * 8 * 8 * 3),
        ) {
            let set = images([h, w, c], bytes[..2 * h * w * c].to_vec());
            let resized = set.resize(height, width).unwrap();
            prop_assert_eq!(resized.shape(), [height, width, c]);
            for (i, &value) in resized.as_bytes().iter().enumerate() {
                let (image, at) = (i / (height * width * c), i % (height * width * c));
                let place = [at / (width * c), at / c % width, at % c];
                let expected = plain(set.pixels(image), [h, w, c], place, [height, width]);
                prop_assert!((f64::from(value) - expected).abs() < 0.5 + 1e-9, "{value} for {expected}");
            }
        }
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing() {
        let set = images([3, 2, 2], (0..24).collect());
        assert_eq!(set.resize(3, 2).unwrap(), set);
    }

    #[test]
    fn half_is_rounded_up() {
        assert_eq!(images([1, 2, 1], vec![0, 1]).resize(1, 1).unwrap().as_bytes(), [1]);
        assert_eq!(images([1, 2, 1], vec![254, 255]).resize(1, 1).unwrap().as_bytes(), [255]);
    }

    #[test]
    fn channels_come_and_go() {
        let grey = images([1, 2, 1], vec![7, 200]);
        assert_eq!(grey.with_channels(3).unwrap().as_bytes(), [7, 7, 7, 200, 200, 200]);
        assert_eq!(grey.with_channels(3).unwrap().with_channels(1).unwrap(), grey);
        let colour = images([1, 1, 3], vec![255, 0, 0, 0, 255, 0, 0, 0, 255]);
        assert_eq!(colour.with_channels(1).unwrap().as_bytes(), [76, 150, 29]);
        assert!(colour.with_channels(2).is_err());
        assert!(grey.with_channels(0).is_err());
    }

    #[test]
    fn padding_surrounds_with_zeros() {
        let padded = images([1, 2, 2], vec![1, 2, 3, 4]).pad(1).unwrap();
        assert_eq!(padded.shape(), [3, 4, 2]);
        let middle = [0, 0, 1, 2, 3, 4, 0, 0];
        assert_eq!(padded.as_bytes(), [[0; 8], middle, [0; 8]].concat());
    }

    #[test]
    fn senseless_sizes_are_errors() {
        let set = images([2, 2, 1], vec![0; 4]);
        for result in [
            set.resize(0, 3),
            set.resize(3, 0),
            set.resize(usize::MAX, 2),
            set.resize(1 << 20, 1 << 20),
            set.pad(usize::MAX),
        ] {
            assert!(result.is_err());
        }
    }

    #[test]
    fn any_shape_can_be_reached() {
        let mnist = images([28, 28, 1], vec![9; 28 * 28]);
        let fitted = mnist.fit_to([32, 32, 3]).unwrap();
        assert_eq!(fitted, mnist.pad(2).unwrap().with_channels(3).unwrap());
        assert_eq!(mnist.fit_to([28, 28, 1]).unwrap(), mnist);
        assert_eq!(mnist.fit_to([64, 16, 1]).unwrap(), mnist.resize(64, 16).unwrap());
        assert_eq!(mnist.fit_to([27, 29, 1]).unwrap().shape(), [27, 29, 1]);
    }
}
