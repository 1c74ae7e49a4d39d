use std::sync::OnceLock;

use super::channels::{chunk_sums, map_chunks, rounded};
use crate::parallel::whole_rows;
use crate::{Scalar, Tensor};

/// The statistics of a batch, channel by channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments<T: Scalar = f32> {
    /// The mean.
    pub mean: Tensor<T>,
    /// The biased variance: the mean squared distance from the mean.
    pub variance: Tensor<T>,
    /// How many values of a channel were averaged.
    pub count: usize,
}

/// [`Moments`] of images that are seen some at a time, in any order: the same bits as of all at once.
pub(super) struct PiecewiseMoments {
    channels: usize,
    chunks: Vec<OnceLock<Part>>,
    /// Elements of an image.
    image_len: usize,
    /// Images that make whole chunks.
    pub(super) together: usize,
}

impl PiecewiseMoments {
    /// For a batch of images; nothing if no small number of them makes whole chunks.
    pub(super) fn new(batch: usize, image_len: usize, channels: usize) -> Option<Self> {
        let size = whole_rows(channels);
        let whole = size.is_multiple_of(image_len) || image_len.is_multiple_of(size);
        let fits = batch > 0 && image_len > 0 && whole;
        fits.then(|| Self {
            channels,
            chunks: (0..(batch * image_len).div_ceil(size)).map(|_| OnceLock::new()).collect(),
            image_len,
            together: (size / image_len).max(1),
        })
    }

    /// Takes the images from `first` on into account, a multiple of `together`.
    pub(super) fn see<T: Scalar>(&self, first: usize, images: &[T]) {
        let size = whole_rows(self.channels);
        let chunks = self.chunks[first * self.image_len / size..].iter();
        for (chunk, x) in chunks.zip(images.chunks(size)) {
            chunk.set(Part::of(x, self.channels)).ok().expect("every image is seen once");
        }
    }

    /// The statistics, once every image was seen.
    pub(super) fn finish<T: Scalar>(self) -> Moments<T> {
        let parts = self.chunks.into_iter().map(OnceLock::into_inner);
        Moments::joined(parts.map(|part| part.expect("every image was seen")))
    }
}

impl<T: Scalar> Moments<T> {
    /// Two passes over each chunk of rows while it is in the cache (its mean, then the squares of
    /// the distances from that mean), and Chan's formula to join the chunks: no digits are lost
    /// however far the mean lies from zero.
    ///
    /// # Panics
    ///
    /// If `x` has no elements.
    #[track_caller]
    pub(super) fn of(x: &Tensor<T>) -> Self {
        assert!(!x.is_empty(), "batch_norm: a batch of shape {:?} has no mean", x.shape());
        let channels = x.shape().last().copied().unwrap_or(1);
        let parts = map_chunks(channels, [x.as_slice()], |[x]| Part::of(x, channels));
        Self::joined(parts)
    }

    fn joined(parts: impl IntoIterator<Item = Part>) -> Self {
        let whole = parts.into_iter().reduce(Part::join).expect("a batch makes a chunk at least");
        let variance: Vec<f64> = whole.squares.iter().map(|sum| sum / whole.count).collect();
        Self { mean: rounded(&whole.mean), variance: rounded(&variance), count: whole.count as usize }
    }
}

/// The statistics of some rows: per channel the mean and the sum of squared distances from it.
struct Part {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Part {
    fn of<T: Scalar>(x: &[T], channels: usize) -> Self {
        let count = (x.len() / channels) as f64;
        let [sum] = chunk_sums(channels, [x], [], |[x], []| [x]);
        let shift: Vec<T> = sum.iter().map(|sum| T::of(sum / count)).collect();
        let [rest, squares] = chunk_sums(channels, [x], [&shift], |[x], [shift]| {
            let d = x - shift;
            [d, d * d]
        });
        // `shift` is the mean up to rounding: what is left of it is taken from both results.
        let mean = shift.iter().zip(&rest).map(|(shift, rest)| shift.as_f64() + rest / count);
        let corrected = squares.iter().zip(&rest).map(|(sum, rest)| sum - rest * rest / count);
        // f64::max would turn the NaN of a diverged channel into a variance of zero.
        let squares = corrected.map(|sum| if sum < 0.0 { 0.0 } else { sum }).collect();
        Self { count, mean: mean.collect(), squares }
    }

    fn join(mut self, other: Self) -> Self {
        let count = self.count + other.count;
        for channel in 0..self.mean.len() {
            let delta = other.mean[channel] - self.mean[channel];
            self.mean[channel] += delta * other.count / count;
            self.squares[channel] +=
                other.squares[channel] + delta * delta * self.count * other.count / count;
        }
        Self { count, ..self }
    }
}
