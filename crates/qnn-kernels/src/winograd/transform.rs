//! The linear maps of F(2×2, 3×3), each in one axis and then in the other. Terms of a sum are added in order.

use crate::Real;
use crate::lanes::Lanes;

/// `Bᵀ d`: of four neighbours of an image.
#[inline(always)]
fn image<T: Real, L: Lanes<T>>([a, b, c, d]: [L; 4]) -> [L; 4] {
    [a.minus(c), b.plus(c), c.minus(b), b.minus(d)]
}

/// `Aᵀ m`: two outputs of four products.
#[inline(always)]
fn outputs<T: Real, L: Lanes<T>>([a, b, c, d]: [L; 4]) -> [L; 2] {
    [a.plus(b).plus(c), b.minus(c).minus(d)]
}

/// `A y`: its transpose, of the gradients of two outputs.
#[inline(always)]
fn output_gradient<T: Real, L: Lanes<T>>([a, b]: [L; 2]) -> [L; 4] {
    [a, a.plus(b), a.minus(b), b.times(L::splat(-T::one()))]
}

/// `G g`: of three weights.
#[inline(always)]
fn weights<T: Real, L: Lanes<T>>(g: [L; 3]) -> [L; 4] {
    let (a, b, c) = (half(g[0]), half(g[1]), half(g[2]));
    [g[0], a.plus(b).plus(c), a.minus(b).plus(c), g[2]]
}

/// `Gᵀ u`: its transpose, the gradients of three weights.
#[inline(always)]
fn weight_gradient<T: Real, L: Lanes<T>>([a, b, c, d]: [L; 4]) -> [L; 3] {
    let (b, c) = (half(b), half(c));
    [a.plus(b).plus(c), b.minus(c), b.plus(c).plus(d)]
}

#[inline(always)]
fn half<T: Real, L: Lanes<T>>(number: L) -> L {
    number.times(L::splat(T::one() / (T::one() + T::one())))
}

/// A map of all columns, then the same of all rows.
#[inline(always)]
fn both<T: Real, L: Lanes<T>, const I: usize, const O: usize>(
    rows: [[L; I]; I],
    map: impl Fn([L; I]) -> [L; O],
) -> [[L; O]; O] {
    let mut mapped = [[rows[0][0]; I]; O];
    for column in 0..I {
        let mut numbers = [rows[0][0]; I];
        for row in 0..I {
            numbers[row] = rows[row][column];
        }
        let numbers = map(numbers);
        for row in 0..O {
            mapped[row][column] = numbers[row];
        }
    }
    let mut both = [[rows[0][0]; O]; O];
    for row in 0..O {
        both[row] = map(mapped[row]);
    }
    both
}

/// `Bᵀ d B`.
#[inline(always)]
pub(super) fn of_image<T: Real, L: Lanes<T>>(tile: [[L; 4]; 4]) -> [[L; 4]; 4] {
    both(tile, image)
}

/// `Aᵀ m A`.
#[inline(always)]
pub(super) fn of_products<T: Real, L: Lanes<T>>(products: [[L; 4]; 4]) -> [[L; 2]; 2] {
    both(products, outputs)
}

/// `A dy Aᵀ`.
#[inline(always)]
pub(super) fn of_output_gradient<T: Real, L: Lanes<T>>(dy: [[L; 2]; 2]) -> [[L; 4]; 4] {
    both(dy, output_gradient)
}

/// `G g Gᵀ`.
#[inline(always)]
pub(super) fn of_kernel<T: Real, L: Lanes<T>>(kernel: [[L; 3]; 3]) -> [[L; 4]; 4] {
    both(kernel, weights)
}

/// `Gᵀ u G`.
#[inline(always)]
pub(super) fn of_kernel_gradient<T: Real, L: Lanes<T>>(gradient: [[L; 4]; 4]) -> [[L; 3]; 3] {
    both(gradient, weight_gradient)
}
