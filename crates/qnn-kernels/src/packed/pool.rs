//! Pooling of packed codes.

use super::Layout;
use crate::{Conv2dShape, Kernels, Padding, ShapeError};

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
        for (index, pooled) in y.chunks_exact_mut(layout.pixel_bytes()).enumerate() {
            pooled.fill(0);
            for channel in 0..layout.channels() {
                let codes = geometry.window_pixels(index).map(|pixel| {
                    layout.code(channel, &x[pixel * layout.pixel_bytes()..][..layout.pixel_bytes()])
                });
                let smallest = matches!(extreme, Extreme::SmallestWhere(flags) if flags[channel]);
                let kept = if smallest { codes.min() } else { codes.max() };
                let level = kept.and_then(|code| layout.encoding().level(code));
                layout.set(channel, level.expect("a code in every window"), pooled);
            }
        }
    }
}

impl PoolGeometry {
    /// The input pixels of an output pixel's window, both counted over the batch.
    fn window_pixels(&self, output: usize) -> impl Iterator<Item = usize> {
        let (rows, columns) = (self.out_height(), self.out_width());
        let (image, row, column) = (output / (rows * columns), output / columns % rows, output % columns);
        let inside = |start: usize, before: usize, len: usize, extent: usize| {
            start.saturating_sub(before)..(start + len - before).min(extent)
        };
        let rows = inside(row * self.stride[0], self.padding.top, self.window[0], self.height);
        let columns = inside(column * self.stride[1], self.padding.left, self.window[1], self.width);
        let width = self.width;
        let first = image * self.height * width;
        rows.flat_map(move |row| columns.clone().map(move |column| first + row * width + column))
    }
}
