//! How large sums of codes can be.

use qnn_tensor::Tensor;

/// Sums of integers up to here are exact in f32.
pub(crate) const EXACT: f64 = (1_u32 << 24) as f64;

/// No sum of products of a kernel's codes `[.., out channels]` with codes of at most this magnitude is larger.
pub(crate) fn reach(kernel: &Tensor, largest: f64) -> f64 {
    let channels = kernel.shape().last().copied().unwrap_or(0);
    let mut sums = vec![0.0_f64; channels];
    for row in kernel.as_slice().chunks_exact(channels.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, code)| *sum += f64::from(code.abs()));
    }
    largest * sums.into_iter().fold(0.0, f64::max)
}
