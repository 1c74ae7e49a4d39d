//! From bytes to the numbers a network sees.

use crate::{Error, Images, Result};

/// Mean and standard deviation per channel, for pixels scaled to 0..1:
///
/// ```text
/// x = (v / 255 − mean) / std
/// ```
///
/// computed in `f64` and rounded to `f32` once, by a table of the 256 possible bytes. A single entry stands
/// for all channels.
///
/// ```
/// # use qnn_data::Normalize;
/// let table = &Normalize::symmetric().tables(3)?[2];
/// assert_eq!((table[0], table[255]), (-1.0, 1.0));
/// # Ok::<(), qnn_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalize {
    /// From given statistics, one entry per channel or one for all.
    ///
    /// # Errors
    /// [`Error::Setting`] if the two differ in length, are empty, hold a value that is not finite or a
    /// deviation that is not positive, or make a byte infinite.
    pub fn new(mean: impl Into<Vec<f32>>, std: impl Into<Vec<f32>>) -> Result<Self> {
        let (mean, std) = (mean.into(), std.into());
        if mean.is_empty() || mean.len() != std.len() {
            let found = format!("{} means, {} deviations", mean.len(), std.len());
            return Err(Error::setting("the normalisation", found, "as many of one as of the other"));
        }
        if let Some(bad) = mean.iter().find(|m| !m.is_finite()) {
            return Err(Error::setting("a mean of the normalisation", bad, "finite"));
        }
        if let Some(bad) = std.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(Error::setting("a deviation of the normalisation", bad, "finite and positive"));
        }
        let normalize = Self { mean, std };
        // A table is a straight line: its ends are its extremes.
        if let Some(channel) = (0..normalize.mean.len()).find(|&channel| {
            let table = normalize.table(channel);
            !(table[0].is_finite() && table[255].is_finite())
        }) {
            let found = format!("{} / {}", normalize.mean[channel], normalize.std[channel]);
            return Err(Error::setting(
                "mean / deviation of the normalisation",
                found,
                "finite for every byte",
            ));
        }
        Ok(normalize)
    }

    /// Statistics of a training set: afterwards each channel has mean 0 and variance 1 over all pixels of all
    /// images.
    ///
    /// The sums are exact integers, so the order of the images does not matter. A constant channel gets
    /// deviation 1.
    pub fn fit(images: &Images) -> Self {
        let (mean, std) = histograms(images).iter().map(moments).unzip();
        Self { mean, std }
    }

    /// To 0..1: `x = v / 255`.
    pub fn unit() -> Self {
        Self { mean: vec![0.0], std: vec![1.0] }
    }

    /// To −1..1: `x = 2 v / 255 − 1`.
    pub fn symmetric() -> Self {
        Self { mean: vec![0.5], std: vec![0.5] }
    }

    /// Mean per channel, or one for all.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Standard deviation per channel, or one for all.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// For each of `channels` the value of each byte.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are statistics for another number of channels.
    pub fn tables(&self, channels: usize) -> Result<Vec<[f32; 256]>> {
        match self.mean.len() {
            1 => Ok(vec![self.table(0); channels]),
            n if n == channels => Ok((0..n).map(|channel| self.table(channel)).collect()),
            n => Err(Error::setting(
                "the number of channels of the normalisation",
                n,
                format!("1 or {channels}"),
            )),
        }
    }

    fn table(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (f64::from(self.mean[channel]), f64::from(self.std[channel]));
        std::array::from_fn(|v| ((v as f64 / 255.0 - mean) / std) as f32)
    }
}

/// How often each byte occurs in each channel.
fn histograms(images: &Images) -> Vec<[u64; 256]> {
    let [_, _, channels] = images.shape();
    let mut histograms = vec![[0; 256]; channels];
    for pixel in images.as_bytes().chunks_exact(channels) {
        histograms.iter_mut().zip(pixel).for_each(|(histogram, &v)| histogram[usize::from(v)] += 1);
    }
    histograms
}

/// Mean and population deviation of bytes over 255: `n Σv² − (Σv)²` is exact.
fn moments(histogram: &[u64; 256]) -> (f32, f32) {
    let sum = |power: u32| -> u128 {
        histogram.iter().zip(0_u128..).map(|(&count, v)| u128::from(count) * v.pow(power)).sum()
    };
    let (n, first, second) = (sum(0), sum(1), sum(2));
    let scale = n as f64 * 255.0;
    let std = ((n * second - first * first) as f64).sqrt() / scale;
    let std = if std > 0.0 { std } else { 1.0 };
    ((first as f64 / scale) as f32, std as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn images(pixels: Vec<u8>, channels: usize) -> Images {
        let n = pixels.len() / channels;
        Images::new("t", [1, 1, channels], pixels, vec![0; n], vec!["0".into()]).unwrap()
    }

    proptest! {
        #[test]
        fn fitted_statistics_are_those_of_the_plain_formula(
            pixels in prop::collection::vec(any::<[u8; 3]>(), 1..200),
        ) {
            let fitted = Normalize::fit(&images(pixels.concat(), 3));
            for channel in 0..3 {
                let values: Vec<f64> = pixels.iter().map(|p| f64::from(p[channel]) / 255.0).collect();
                let n = values.len() as f64;
                let mean = values.iter().sum::<f64>() / n;
                let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
                prop_assert!((f64::from(fitted.mean()[channel]) - mean).abs() < 1e-6);
                if std > 1e-6 {
                    prop_assert!((f64::from(fitted.std()[channel]) - std).abs() < 1e-6);
                }
            }
        }

        #[test]
        fn the_order_of_the_images_is_irrelevant(mut pixels in prop::collection::vec(any::<u8>(), 1..100)) {
            let before = Normalize::fit(&images(pixels.clone(), 1));
            pixels.reverse();
            prop_assert_eq!(before, Normalize::fit(&images(pixels, 1)));
        }
    }

    #[test]
    fn tables_are_the_formula() {
        let normalize = Normalize::new([0.4914, 0.1], [0.2, 3.0]).unwrap();
        for (table, (mean, std)) in
            normalize.tables(2).unwrap().iter().zip([(0.4914_f32, 0.2_f32), (0.1, 3.0)])
        {
            for (v, &x) in table.iter().enumerate() {
                assert_eq!(x, ((v as f64 / 255.0 - f64::from(mean)) / f64::from(std)) as f32);
            }
        }
        assert!((0..256).all(|v| Normalize::unit().tables(1).unwrap()[0][v] == (v as f64 / 255.0) as f32));
    }

    #[test]
    fn constant_channels_and_wrong_settings() {
        let constant = Normalize::fit(&images(vec![51; 4], 1));
        assert_eq!((constant.mean(), constant.std()), (&[0.2][..], &[1.0][..]));
        assert!(constant.tables(3).is_ok());
        assert!(Normalize::new([0.0; 2], [1.0; 2]).unwrap().tables(3).is_err());
        for (mean, std) in
            [(vec![], vec![]), (vec![0.0], vec![0.0]), (vec![f32::NAN], vec![1.0]), (vec![0.0], vec![1.0; 2])]
        {
            assert!(matches!(Normalize::new(mean, std), Err(Error::Setting { .. })));
        }
    }
}
