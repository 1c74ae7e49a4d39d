//! Labelled images in memory.

use std::fmt;

use crate::{Error, Result};

/// The most a dimension may have: products of three of them fit in `u64`.
const MOST_PIXELS: usize = 1 << 16;

/// The most a set may take: 16 GiB, or what a 32-bit system can allocate.
const MOST_BYTES: usize = if usize::BITS > 32 { usize::MAX >> 30 } else { usize::MAX >> 1 };

/// Labelled images as bytes, `[n, height, width, channels]` (NHWC).
///
/// Pixels are kept as read, 0 to 255; [`Normalize`](crate::Normalize) turns them into `f32` when a batch is
/// made. The set is never empty and every label names a class.
///
/// ```
/// # use qnn_data::Images;
/// let classes = vec!["dark".into(), "light".into()];
/// let two = Images::new("pair", [1, 2, 1], vec![0, 255, 7, 8], vec![1, 0], classes)?;
/// assert_eq!((two.len(), two.shape(), two.classes()), (2, [1, 2, 1], 2));
/// assert_eq!(two.pixels(1), [7, 8]);
/// # Ok::<(), qnn_data::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Images {
    name: String,
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<u16>,
    class_names: Vec<String>,
}

impl Images {
    /// A set from its parts; `shape` is `[height, width, channels]` of one image.
    ///
    /// # Errors
    /// [`Error::Images`] if there is no image, a dimension is zero, the pixels are not `n · height · width ·
    /// channels` for `n` labels, or a label is not below the number of class names.
    pub fn new(
        name: impl Into<String>,
        shape: [usize; 3],
        pixels: Vec<u8>,
        labels: Vec<u16>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let images = Self { name: name.into(), shape, pixels, labels, class_names };
        images.check()?;
        Ok(images)
    }

    /// Number of images.
    // A set is never empty, so `is_empty` would have one answer only.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Height, width and channels of each image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// What each label stands for.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// What the set is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The labels, each below [`classes`](Self::classes).
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// The bytes of image `i`, row by row, channels innermost.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    #[track_caller]
    pub fn pixels(&self, i: usize) -> &[u8] {
        let size = self.image_size();
        &self.pixels[i * size..(i + 1) * size]
    }

    /// The bytes of all images, one after the other.
    pub fn as_bytes(&self) -> &[u8] {
        &self.pixels
    }

    /// The first `limit` images (at least one), or all if there are fewer.
    #[must_use]
    pub fn take(&self, limit: usize) -> Self {
        let n = limit.clamp(1, self.len());
        let pixels = self.pixels[..n * self.image_size()].to_vec();
        Self { pixels, labels: self.labels[..n].to_vec(), ..self.like() }
    }

    /// The images at `indices`, in that order; an index may occur more than once.
    ///
    /// # Errors
    /// [`Error::Images`] if there is no index or one is not below [`len`](Self::len).
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        if let Some(i) = indices.iter().find(|&&i| i >= self.len()) {
            return Err(self.wrong("an index", i, format!("less than {}", self.len())));
        }
        let mut pixels = Vec::with_capacity(indices.len() * self.image_size());
        indices.iter().for_each(|&i| pixels.extend_from_slice(self.pixels(i)));
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Self::new(self.name.clone(), self.shape, pixels, labels, self.class_names.clone())
    }

    /// How many images each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        self.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
        counts
    }

    /// Bytes of one image.
    pub(crate) fn image_size(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same labels on other pixels, made image by image.
    pub(crate) fn map(&self, shape: [usize; 3], mut image: impl FnMut(&[u8], &mut [u8])) -> Result<Self> {
        let mut pixels = vec![0; self.checked_bytes(shape)?];
        let (from, to) = (self.image_size(), shape.iter().product());
        for (source, target) in self.pixels.chunks_exact(from).zip(pixels.chunks_exact_mut(to)) {
            image(source, target);
        }
        Ok(Self { shape, pixels, labels: self.labels.clone(), ..self.like() })
    }

    pub(crate) fn wrong(
        &self,
        what: &'static str,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Error {
        Error::Images { name: self.name.clone(), what, found: found.to_string(), expected: expected.into() }
    }

    /// Name and classes, without content: for the struct update syntax.
    fn like(&self) -> Self {
        let (name, class_names) = (self.name.clone(), self.class_names.clone());
        Self { name, shape: self.shape, pixels: Vec::new(), labels: Vec::new(), class_names }
    }

    fn check(&self) -> Result<()> {
        if self.labels.is_empty() {
            return Err(self.wrong("the number of images", 0, "at least 1"));
        }
        let bytes = self.checked_bytes(self.shape)?;
        if self.pixels.len() != bytes {
            return Err(self.wrong("the number of bytes", self.pixels.len(), bytes.to_string()));
        }
        match self.labels.iter().find(|&&label| usize::from(label) >= self.classes()) {
            Some(label) => Err(self.wrong("a label", label, format!("less than {}", self.classes()))),
            None => Ok(()),
        }
    }

    /// Bytes of the whole set at another shape, if that is a shape and a size to allocate.
    pub(crate) fn checked_bytes(&self, shape: [usize; 3]) -> Result<usize> {
        let bytes = shape.iter().try_fold(self.len(), |product, &size| product.checked_mul(size));
        let sensible = shape.iter().all(|size| (1..=MOST_PIXELS).contains(size));
        bytes.filter(|&bytes| sensible && bytes <= MOST_BYTES).ok_or_else(|| {
            let expected =
                format!("from 1 to {MOST_PIXELS} in each dimension, at most {MOST_BYTES} bytes in all");
            self.wrong("the shape", format!("{shape:?} for {} images", self.len()), expected)
        })
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Images");
        f.field("name", &self.name).field("len", &self.len()).field("shape", &self.shape);
        f.field("classes", &self.classes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| i.to_string()).collect()
    }

    fn three() -> Images {
        Images::new("t", [1, 2, 1], vec![1, 2, 3, 4, 5, 6], vec![0, 1, 1], names(2)).unwrap()
    }

    #[test]
    fn contradictory_parts_are_refused() {
        let new = |shape, pixels: usize, labels: Vec<u16>| {
            Images::new("t", shape, vec![0; pixels], labels, names(2))
        };
        assert!(new([1, 2, 1], 4, vec![0, 1]).is_ok());
        let refused = [
            new([1, 2, 1], 0, vec![]),
            new([1, 2, 1], 3, vec![0, 1]),
            new([1, 2, 1], 4, vec![0, 2]),
            new([0, 2, 1], 0, vec![0, 1]),
            new([usize::MAX, 2, 1], 4, vec![0, 1]),
            new([usize::MAX, 1, 1], 4, vec![0]),
        ];
        for result in refused {
            assert!(matches!(result, Err(Error::Images { .. })), "{result:?}");
        }
    }

    #[test]
    fn take_and_select_keep_images_with_their_labels() {
        let all = three();
        assert_eq!(all.take(usize::MAX), all);
        assert_eq!(all.take(2).labels(), [0, 1]);
        assert_eq!(all.take(2).as_bytes(), [1, 2, 3, 4]);
        assert_eq!(all.take(0).len(), 1);
        let chosen = all.select(&[2, 0, 2]).unwrap();
        assert_eq!((chosen.as_bytes(), chosen.labels()), (&[5, 6, 1, 2, 5, 6][..], &[1, 0, 1][..]));
        assert!(all.select(&[3]).is_err());
        assert!(all.select(&[]).is_err());
        assert_eq!(chosen.class_counts(), [1, 2]);
    }

    #[test]
    fn debug_output_is_short() {
        assert!(format!("{:?}", three()).len() < 100);
    }
}
