use ndarray::{Array4, ArrayView4};
use rayon::prelude::*;

use crate::{Error, Result};

/// XNOR-Net's scales of binarized activations: how large the inputs under each position of a convolution are.
///
/// ```text
/// A = mean over the channels of |I|
/// K = A ∗ k,   k a box of kh × kw weights 1/(kh kw), with the layer's stride and zero padding
/// output = (sign(I) ∗ sign(W)) · K · α_o
/// ```
///
/// (The Warsaw thesis on XNOR-Net prints "average of elements of W'" for the weights' scale; the mean of *absolute* values is meant, as here.)
/// K is a constant of the backward pass. Sums are taken in f64 and rounded to f32 once; the layers of a network round A and sum
/// in f32, as packed networks do, so that their last bits may differ.
///
/// ```
/// # use qnn_quant::ActivationScaling;
/// # use ndarray::array;
/// let image = array![[[[1.0, -3.0], [0.0, 2.0]], [[4.0, 4.0], [0.0, 0.0]]]];   // [1, 2, 2, 2]: A = 2, 1 / 4, 0
/// let scaling = ActivationScaling { kernel: [2, 2], stride: [1, 1], padding: [[0, 1], [0, 0]] };
/// assert_eq!(scaling.scales(image.view())?, array![[[[1.75]], [[1.0]]]]);
/// # Ok::<(), qnn_quant::Error>(())
/// ```
///
/// Source: Rastegari et al. 2016, *XNOR-Net*, arXiv:1603.05279, "Binary Convolution", formula (11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActivationScaling {
    /// kh and kw.
    pub kernel: [usize; 2],
    /// Down and to the right.
    pub stride: [usize; 2],
    /// Zeros before and after the rows, and before and after the columns.
    pub padding: [[usize; 2]; 2],
}

impl ActivationScaling {
    /// K of images `[n, height, width, channels]`, as `[n, rows, columns, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a stride or kernel of 0, or a kernel that is larger than the padded image; [`Error::Infinite`].
    pub fn scales(&self, images: ArrayView4<'_, f32>) -> Result<Array4<f32>> {
        let (n, height, width, channels) = images.dim();
        let rows = self.positions(0, height)?;
        let columns = self.positions(1, width)?;
        let positions = rows.checked_mul(columns).and_then(|positions| positions.checked_mul(n.max(1)));
        if positions.is_none_or(|positions| positions > isize::MAX.unsigned_abs() / size_of::<f32>()) {
            let (value, expected) = (format!("{:?}", self.padding), "as many positions as an array can hold");
            return Err(Error::Parameter {
                owner: "activation scaling",
                parameter: "padding",
                value,
                expected,
            });
        }
        if let Some((index, &value)) = images.iter().enumerate().find(|(_, value)| value.is_infinite()) {
            return Err(Error::Infinite { statistic: "the mean of |x|", index, value });
        }
        let images = images.as_standard_layout();
        let images = images.as_slice().expect("standard layout is a slice");
        let area = self.kernel[0] as f64 * self.kernel[1] as f64;
        let mut scales = Array4::zeros((n, rows, columns, 1));
        let out = scales.as_slice_mut().expect("a new array is a slice");
        if out.is_empty() {
            return Ok(scales);
        }
        out.par_chunks_mut(rows * columns).enumerate().for_each(|(index, out)| {
            let image = &images[index * height * width * channels..][..height * width * channels];
            let means = channel_means(image, height * width, channels);
            for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                let window = self.window(0, row, height);
                for (column, out) in out.iter_mut().enumerate() {
                    let across = self.window(1, column, width);
                    let lines = window.clone().map(|y| &means[y * width..][across.clone()]);
                    *out = (lines.map(|line| line.iter().sum::<f64>()).sum::<f64>() / area) as f32;
                }
            }
        });
        Ok(scales)
    }

    /// How many positions the kernel has along an axis.
    fn positions(&self, axis: usize, len: usize) -> Result<usize> {
        let (kernel, stride, [before, after]) = (self.kernel[axis], self.stride[axis], self.padding[axis]);
        let refuse = |parameter, value: usize, expected| {
            Err(Error::Parameter {
                owner: "activation scaling",
                parameter,
                value: value.to_string(),
                expected,
            })
        };
        let padded = len.saturating_add(before).saturating_add(after);
        match (stride, kernel) {
            (0, _) => refuse("stride", stride, "at least 1"),
            (_, 0) => refuse("kernel", kernel, "at least 1"),
            _ if kernel > padded => refuse("kernel", kernel, "no larger than the padded image"),
            _ => Ok((padded - kernel) / stride + 1),
        }
    }

    /// The part of the image under the kernel.
    fn window(&self, axis: usize, position: usize, len: usize) -> std::ops::Range<usize> {
        let start = position * self.stride[axis];
        let clip = |padded: usize| padded.saturating_sub(self.padding[axis][0]).min(len);
        clip(start)..clip(start + self.kernel[axis])
    }
}

fn channel_means(image: &[f32], pixels: usize, channels: usize) -> Vec<f64> {
    if channels == 0 {
        return vec![0.0; pixels];
    }
    let mean = |pixel: &[f32]| pixel.iter().map(|x| f64::from(x.abs())).sum::<f64>() / channels as f64;
    image.chunks_exact(channels).map(mean).collect()
}
