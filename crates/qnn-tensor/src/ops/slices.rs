//! The forward maps of single images, in slices: the functions behind the tape's operations, for
//! programs that run without a tape and must obtain the same bits.

use super::PoolOptions;
use super::channels::chunk_sums_with;
use super::pool::Windows;
use crate::Scalar;

/// The map of [`max_pool2d`](crate::Var::max_pool2d) on one image `[height, width, channels]`.
///
/// # Panics
///
/// As there, and if a slice has not the length that its shape asks for.
#[track_caller]
pub fn max_pool<T: Scalar>(image: [usize; 3], options: &PoolOptions, x: &[T], y: &mut [T]) {
    windows("max_pool2d", image, options, x.len(), y.len()).maxima(x, y);
}

/// The map of [`average_pool2d`](crate::Var::average_pool2d) on one image `[height, width, channels]`.
///
/// # Panics
///
/// As there, and if a slice has not the length that its shape asks for.
#[track_caller]
pub fn average_pool<T: Scalar>(image: [usize; 3], options: &PoolOptions, x: &[T], y: &mut [T]) {
    windows("average_pool2d", image, options, x.len(), y.len()).means(x, y);
}

/// The map of [`global_average_pool`](crate::Var::global_average_pool) on one image: the mean of each
/// of `y.len()` channels, added in f64.
///
/// # Panics
///
/// If `x` is not one or more pixels of as many channels.
#[track_caller]
pub fn global_mean<T: Scalar>(x: &[T], y: &mut [T]) {
    let channels = y.len();
    if channels == 0 {
        return;
    }
    let pixels = x.len() / channels;
    assert!(pixels > 0 && x.len().is_multiple_of(channels), "{} values of {channels} channels", x.len());
    chunk_sums_with(
        channels,
        [x],
        [],
        |[x], []| [x],
        |_, first, sums| {
            let y = &mut y[first..first + sums.len()];
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y = T::of(sum / pixels as f64));
        },
    );
}

/// Height and width of a pool's output for images of `[height, width]`; `None` where a size or a stride
/// is zero, the padding is not smaller than the window, or the window larger than the padded image.
pub fn pool_output(image: [usize; 2], options: &PoolOptions) -> Option<[usize; 2]> {
    Windows::out(image, options)
}

#[track_caller]
fn windows(op: &str, [h, w, c]: [usize; 3], options: &PoolOptions, x: usize, y: usize) -> Windows {
    let windows = Windows::new(op, &[1, h, w, c], options);
    let expected = [h * w * c, windows.out_len()];
    assert_eq!([x, y], expected, "{op}: the lengths of input and output");
    windows
}
