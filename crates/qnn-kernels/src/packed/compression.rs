//! What packing weights into indices of a codebook saves.

/// Which values of a codebook are counted as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredValues {
    /// Every level, as Han et al. count in "Deep compression" (2016), section 3.
    Levels,
    /// One for two levels, which differ in their sign alone; otherwise every level. So count the tables of METU's convolution system.
    Magnitudes,
}

/// By how much less memory weights take as indices into a codebook.
///
/// ```text
/// r = n·b / (n·log₂ k + s·b)      n weights of b bits, k levels (rounded up to a power of two), s stored values
/// ```
///
/// ```
/// use qnn_kernels::packed::{StoredValues, compression_rate};
/// // Eight filters of 3 × 3 over three channels, binary and ternary.
/// let rate = |levels| compression_rate(3 * 3 * 3 * 8, 32, levels, StoredValues::Magnitudes);
/// assert_eq!(format!("{:.2} {:.2}", rate(2), rate(3)), "27.87 12.34");
/// ```
///
/// # Panics
///
/// If there are no levels.
#[must_use]
#[track_caller]
pub fn compression_rate(weights: usize, bits: u32, levels: usize, stored: StoredValues) -> f64 {
    assert!(levels > 0, "a codebook has at least one level");
    let levels = levels.next_power_of_two();
    let stored = if stored == StoredValues::Magnitudes && levels == 2 { 1 } else { levels };
    let before = weights as f64 * f64::from(bits);
    before / (weights as f64 * f64::from(levels.ilog2()) + stored as f64 * f64::from(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published table, to its digits.
    #[test]
    fn rates_of_the_convolution_system() {
        let published = [(3, "27.87", "12.34"), (4, "29.54", "13.71"), (5, "30.38", "14.46")];
        for (extent, binary, ternary) in published {
            let rate = |levels| {
                let rate = compression_rate(extent * extent * 3 * 8, 32, levels, StoredValues::Magnitudes);
                format!("{rate:.2}")
            };
            assert_eq!((rate(2).as_str(), rate(3).as_str()), (binary, ternary));
        }
    }

    #[test]
    fn every_level_is_counted_otherwise() {
        // 216 weights: 6912 bits become 216 + 64.
        assert_eq!(compression_rate(216, 32, 2, StoredValues::Levels), 6912.0 / 280.0);
        for levels in [3, 4] {
            assert_eq!(compression_rate(216, 32, levels, StoredValues::Levels), 6912.0 / 560.0);
        }
        assert_eq!(compression_rate(10, 32, 1, StoredValues::Levels), 10.0);
    }
}
