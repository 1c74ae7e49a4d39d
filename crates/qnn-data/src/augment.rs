//! Random changes to training images.

use crate::random::{Purpose, below, stream};
use crate::{Error, Result};

/// How training images are varied from epoch to epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Augment {
    /// Not at all.
    #[default]
    None,
    /// A border of raw zero pixels (black, *before* normalisation) on each side, then a window of the
    /// original size at a uniformly random place of the larger image, then the mirror image with probability
    /// ½.
    PadCropFlip {
        /// Width of the border in pixels.
        pad: usize,
        /// Whether images are mirrored left to right.
        flip: bool,
    },
}

impl Augment {
    /// The standard recipe of CIFAR-10: pad 4, crop, flip (He et al. 2016, arXiv:1512.03385, section 4.2).
    pub fn cifar() -> Self {
        Self::PadCropFlip { pad: 4, flip: true }
    }

    pub(crate) fn check(self, [height, width, _]: [usize; 3]) -> Result<()> {
        match self {
            Self::PadCropFlip { pad, .. } if pad > height.min(width) => {
                let expected = format!("at most {}, the size of the images", height.min(width));
                Err(Error::setting("the padding of the augmentation", pad, expected))
            }
            _ => Ok(()),
        }
    }

    /// What happens to image `index` in `epoch`; a function of its arguments only.
    pub(crate) fn draw(self, seed: u64, epoch: u64, index: usize) -> View {
        let Self::PadCropFlip { pad, flip } = self else { return View::default() };
        let mut generator = stream(seed, epoch, Purpose::Augment, index as u64);
        let mut offset = || below(&mut generator, 2 * pad + 1) as isize - pad as isize;
        let (down, right) = (offset(), offset());
        View { down, right, mirrored: below(&mut generator, 2) == 1 && flip }
    }
}

/// The window of an image that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Rows the window lies below the image's top.
    pub(crate) down: isize,
    /// Columns the window lies right of the image's left border.
    pub(crate) right: isize,
    /// Whether the window is shown from right to left.
    pub(crate) mirrored: bool,
}

impl View {
    /// Row `y` of the window before mirroring, zero where it lies outside the image.
    pub(crate) fn copy_row(self, image: &[u8], y: usize, channels: usize, row: &mut [u8]) {
        row.fill(0);
        let width = row.len() / channels;
        let source = y.checked_add_signed(self.down).and_then(|y| image.chunks_exact(row.len()).nth(y));
        let shared = width.saturating_sub(self.right.unsigned_abs()) * channels;
        let shift = self.right.unsigned_abs().min(width) * channels;
        match source {
            Some(source) if self.right < 0 => row[shift..].copy_from_slice(&source[..shared]),
            Some(source) => row[..shared].copy_from_slice(&source[shift..]),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_padded_image() {
        let image: Vec<u8> = (1..=24).collect(); // 4 × 3 × 2
        for (down, right) in (-5..=5).flat_map(|d| (-5..=5).map(move |r| (d, r))) {
            let view = View { down, right, mirrored: false };
            for y in 0..4 {
                let mut row = [99; 6];
                view.copy_row(&image, y as usize, 2, &mut row);
                for (i, &value) in row.iter().enumerate() {
                    let (sy, sx) = (y + down, i as isize / 2 + right);
                    let inside = (0..4).contains(&sy) && (0..3).contains(&sx);
                    let expected = if inside { image[(sy * 6 + sx * 2) as usize + i % 2] } else { 0 };
                    assert_eq!(value, expected, "{view:?} y {y} i {i}");
                }
            }
        }
    }

    #[test]
    fn offsets_and_mirrors_are_uniform() {
        let mut counts = [[[0_u32; 2]; 9]; 9];
        for index in 0..40_500 {
            let view = Augment::cifar().draw(3, 5, index);
            counts[(view.down + 4) as usize][(view.right + 4) as usize][usize::from(view.mirrored)] += 1;
        }
        // 162 cells of 250 on average: chi-squared has mean 161 and deviation 18.
        let chi: f64 =
            counts.iter().flatten().flatten().map(|&n| (f64::from(n) - 250.0).powi(2) / 250.0).sum();
        assert!((90.0..250.0).contains(&chi), "{chi}");
    }

    #[test]
    fn flips_can_be_left_out_without_moving_the_windows() {
        for index in 0..100 {
            let (with, without) = (Augment::cifar(), Augment::PadCropFlip { pad: 4, flip: false });
            let (with, without) = (with.draw(1, 2, index), without.draw(1, 2, index));
            assert_eq!(View { mirrored: false, ..with }, without);
        }
        assert_eq!(Augment::None.draw(1, 2, 3), View::default());
    }
}
