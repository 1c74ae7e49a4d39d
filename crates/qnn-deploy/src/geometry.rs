//! Windows of products and pools, and how large they may be: a file may say anything.

use qnn_kernels::Padding;
use qnn_kernels::packed::{ConvGeometry, PoolGeometry};
use qnn_quant::Alphabet;
use qnn_tensor::ops::PoolOptions;
use qnn_tensor::ops::slices::pool_output;

use crate::codes::encoding;

/// No value of a sensible network has more elements per image.
pub(crate) const LARGEST: usize = 1 << 26;

/// The most rows or columns of a kernel over codes without zero that is padded with zeros: what the padding would add
/// is taken back by a table of all the ways in which a window can lie beyond the image, and there are more of these
/// than weights.
const LARGEST_OVER_BORDERS: usize = 64;

/// Numbers in a line of the kernels' memory.
const LINE: usize = 16;

/// The convolution of an image `[height, width, channels]`.
pub(crate) fn convolution(
    image: [usize; 3],
    [kernel, stride]: [[usize; 2]; 2],
    padding: Padding,
    groups: usize,
    out_channels: usize,
) -> ConvGeometry {
    ConvGeometry { stride, padding, groups, ..ConvGeometry::new(image, kernel, out_channels) }
}

/// The shape of a convolution's output, or why it has none.
pub(crate) fn convolved(geometry: &ConvGeometry) -> Result<[usize; 3], String> {
    geometry.check().map_err(|error| error.to_string())?;
    let frame =
        frame(geometry).and_then(|[rows, columns]| rows.checked_mul(columns)?.checked_mul(geometry.channels));
    if frame.is_none_or(|frame| frame > LARGEST) {
        return Err(format!("its padded input has more than {LARGEST} elements in whole strides"));
    }
    Ok([geometry.out_height(), geometry.out_width(), geometry.out_channels])
}

/// Rows and columns of the padded image as kernels hold it: columns are dealt by strides, so that the last one is whole.
fn frame(geometry: &ConvGeometry) -> Option<[usize; 2]> {
    let ConvGeometry { height, width, stride, padding, .. } = *geometry;
    let rows = height.checked_add(padding.top)?.checked_add(padding.bottom)?;
    let columns = width.checked_add(padding.left)?.checked_add(padding.right)?;
    Some([rows.checked_next_multiple_of(stride[0])?, columns.checked_next_multiple_of(stride[1])?])
}

/// Bytes that no kernel exceeds for the padded image of a convolution that was [checked](convolved): a line for each
/// pixel and group of channels; in `f64` twice as many, beside copies of image and outputs.
pub(crate) fn frame_bytes(geometry: &ConvGeometry, wide: bool) -> u64 {
    let [rows, columns] = frame(geometry).unwrap_or_default();
    let lines = geometry.groups * geometry.group_channels().div_ceil(LINE);
    let numbers = (rows * columns) as u64 * (lines * LINE) as u64;
    if !wide {
        return numbers * size_of::<f32>() as u64;
    }
    let outputs = geometry.out_pixels() as u64 * geometry.out_channels as u64;
    (2 * numbers).saturating_add(outputs).saturating_mul(size_of::<f64>() as u64)
}

/// Bytes that no kernel exceeds for the weights of a convolution that was [checked](convolved): for each vector of outputs, of the last group's
/// too few to fill one, a vector of numbers of so many bytes for each term or, in planes of bits, two of words, what and where, for each plane and word.
pub(crate) fn weight_bytes(geometry: &ConvGeometry, planes: usize, number: usize) -> u64 {
    let vectors = geometry.groups * geometry.group_outputs().div_ceil(LINE);
    let pixels = geometry.kernel[0] as u64 * geometry.kernel[1] as u64;
    let (channels, bytes) = match planes {
        0 => (geometry.group_channels(), LINE * number),
        planes => (geometry.group_channels().div_ceil(64), 2 * planes * LINE * size_of::<u64>()),
    };
    (vectors as u64).saturating_mul(pixels).saturating_mul(channels as u64).saturating_mul(bytes as u64)
}

/// Whether zeros around codes cost no more than the product itself.
pub(crate) fn borders_are_small(codes: Alphabet, geometry: &ConvGeometry, pad_code: i8) -> bool {
    let has_code = encoding(codes).is_none_or(|codes| codes.level(pad_code.into()).is_some());
    has_code
        || geometry.padding == Padding::NONE
        || geometry.kernel.iter().all(|&k| k <= LARGEST_OVER_BORDERS)
}

/// Height and width of a pool's output, or why it has none.
pub(crate) fn pooled(image: [usize; 2], options: &PoolOptions) -> Result<[usize; 2], String> {
    let PoolOptions { size, stride, .. } = *options;
    // Padding is less than the window.
    let sensible = [size, stride].as_flattened().iter().all(|&extent| extent <= LARGEST);
    let out = sensible.then(|| pool_output(image, options)).flatten();
    out.ok_or_else(|| format!("{options:?} does not fit images of {} × {}", image[0], image[1]))
}

/// The pool as a kernel over packed codes does it, if it can: it knows no incomplete windows.
pub(crate) fn pool_geometry([height, width, _]: [usize; 3], options: &PoolOptions) -> Option<PoolGeometry> {
    let PoolOptions { size: window, stride, padding, .. } = *options;
    let geometry = PoolGeometry { height, width, window, stride, padding };
    let out = [geometry.out_height(), geometry.out_width()];
    (geometry.check().is_ok() && pool_output([height, width], options) == Some(out)).then_some(geometry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_extent_overflows_or_asks_for_more_than_there_is() {
        let sound = ConvGeometry { stride: [2, 2], ..ConvGeometry::new([9, 9, 4], [3, 3], 8) };
        assert_eq!(convolved(&sound), Ok([4, 4, 8]));
        assert_eq!(frame_bytes(&sound, false), 10 * 10 * 64);
        let outputs = (sound.out_pixels() * sound.out_channels) as u64;
        assert_eq!(frame_bytes(&sound, true), 2 * 10 * 10 * 128 + 8 * outputs);
        for huge in [1 << 26, 1 << 40, 1 << 63, usize::MAX] {
            for axis in 0..2 {
                let mut stride = sound.stride;
                stride[axis] = huge;
                assert!(convolved(&ConvGeometry { stride, ..sound }).is_err(), "stride {stride:?}");
                let (beyond, mut pool) =
                    (huge.saturating_add(1), PoolOptions { ceil: true, ..PoolOptions::tiles(2) });
                pool.stride[axis] = beyond;
                assert!(pooled([9, 9], &pool).is_err(), "{pool:?}");
                let padding = Padding { top: beyond - 1, bottom: beyond - 1, ..Padding::NONE };
                pool = PoolOptions { size: [beyond, 1], stride: [1, 1], padding, ceil: true };
                assert!(pooled([9, 9], &pool).is_err(), "{pool:?}");
            }
            for padding in
                [Padding { top: huge, ..Padding::NONE }, Padding { left: huge, right: huge, ..Padding::NONE }]
            {
                assert!(convolved(&ConvGeometry { padding, ..sound }).is_err(), "{padding:?}");
            }
        }
    }

    #[test]
    fn only_zeros_around_codes_without_zero_need_small_kernels() {
        let padding = Padding { top: 65, bottom: 65, ..Padding::NONE };
        let wide = ConvGeometry { padding, ..ConvGeometry::new([200, 9, 1], [65, 1], 1) };
        let narrow = ConvGeometry { kernel: [64, 1], ..wide };
        assert!(!borders_are_small(Alphabet::BINARY, &wide, 0));
        assert!(borders_are_small(Alphabet::BINARY, &narrow, 0));
        assert!(borders_are_small(Alphabet::BINARY, &wide, 1));
        assert!(borders_are_small(Alphabet::BINARY, &ConvGeometry { padding: Padding::NONE, ..wide }, 0));
        assert!(borders_are_small(Alphabet::unsigned(2), &wide, 0));
        // Bytes have a zero even where the codes in them have none.
        assert!(borders_are_small(Alphabet::odd(5), &wide, 0));
    }
}
