//! Elementary functions that give the same bits on every machine.
//!
//! The system's `exp` and `tanh` choose their code by what the processor offers and by the version
//! of the C library. These use additions, multiplications and divisions alone, the rough ones fused
//! or in f32; but for [`ln`] they have no branches, so that loops over them vectorise. Random words by their position are in [`chacha`].

pub mod chacha;

/// `eˣ`, to about 1e-15 relative; zero below e⁻⁷⁰⁷, infinite above e⁷⁰⁹.
///
/// ```text
/// eˣ = 2ⁿ · eʳ,   n = round(x / ln 2),   r = x − n ln 2,   eʳ by its series, |r| ≤ ln 2 / 2
/// ```
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let (r, power) = reduced(x);
    let y = (1.0 + r * expm1_over(r)) * power * 2.0;
    let y = if x > 709.0 { f64::INFINITY } else { y };
    if x < -707.0 { 0.0 } else { y }
}

/// `2ˣ` to 8e-13 relative, for |x| ≤ 1000: a third of the work of [`exp`], where the exact one can be asked in doubt.
///
/// ```text
/// 2ˣ = 2ⁿ p(x − n),   n = round(x)
/// ```
///
/// The coefficients of `p`, of degree 8, are those of least relative error. Multiplications and additions are fused, which is slow where
/// the processor has no instruction for it.
#[inline(always)]
pub fn exp2_roughly(x: f64) -> f64 {
    const P: [f64; 9] = [
        0.999_999_999_999_762_3,
        0.693_147_180_546_514_1,
        0.240_226_506_988_803_68,
        0.055_504_109_393_417_09,
        0.009_618_128_542_862_732,
        0.001_333_345_206_224_541_7,
        1.540_385_174_845_050_7e-4,
        1.530_973_742_356_987e-5,
        1.317_585_817_618_649_8e-6,
    ];
    // As in `reduced`, with 2ⁿ in reach.
    const ROUND: f64 = 6_755_399_441_055_744.0 + 1023.0;
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    // Horner's scheme: its chain of fused operations is long, but waits for nothing that other elements need.
    let p = P[8].mul_add(f, P[7]).mul_add(f, P[6]).mul_add(f, P[5]).mul_add(f, P[4]);
    let p = p.mul_add(f, P[3]).mul_add(f, P[2]).mul_add(f, P[1]).mul_add(f, P[0]);
    p * f64::from_bits(shifted.to_bits() << 52)
}

/// The natural logarithm of a positive normal number, to about 1e-15 relative; −∞ at zero (and at
/// subnormal numbers), NaN below.
///
/// ```text
/// ln(2ⁿ m) = n ln 2 + 2 (s + s³/3 + s⁵/5 + …),   s = (m − 1) / (m + 1),   √½ ≤ m < √2
/// ```
pub fn ln(x: f64) -> f64 {
    if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&x) {
        return if x < 0.0 {
            f64::NAN
        } else if x < 1.0 {
            f64::NEG_INFINITY
        } else {
            x
        };
    }
    let bits = x.to_bits();
    let high = u64::from((bits & MANTISSA) > SQRT_2_MANTISSA);
    let n = (bits >> 52) as f64 - 1023.0 + high as f64;
    let m = f64::from_bits((bits & MANTISSA) | ((1023 - high) << 52));
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = (1..=11).rev().fold(0.0, |sum, k| sum * s2 + 1.0 / f64::from(2 * k + 1));
    let tail = n * LN_2_LOW + 2.0 * s * s2 * series;
    n * LN_2_HIGH + (2.0 * s + tail)
}

/// The hyperbolic tangent, to about 1e-15 relative.
///
/// ```text
/// tanh x = d / (d + 2),   d = e²ˣ − 1
/// ```
#[inline(always)]
pub fn tanh(x: f64) -> f64 {
    // Beyond 20 the result is ±1; the clamp keeps NaN.
    let a = if x > 20.0 { 20.0 } else { x };
    let a = if a < -20.0 { -20.0 } else { a };
    let (r, half) = reduced(2.0 * a);
    let power = 2.0 * half;
    // e²ˣ − 1 = 2ⁿ (eʳ − 1) + (2ⁿ − 1) loses nothing near zero, where n = 0.
    let d = power * r * expm1_over(r) + (power - 1.0);
    d / (d + 2.0)
}

/// The hyperbolic tangent to 4e-7 relative, in f32 alone: several times as fast as [`tanh`], where the exact one can be asked in doubt.
///
/// ```text
/// tanh x ≈ x P(x²) / Q(x²),   |x| ≤ 9
/// ```
///
/// The coefficients are those of least relative error.
#[inline(always)]
pub fn tanh_roughly(x: f32) -> f32 {
    const P: [f32; 6] =
        [0.999_999_94, 0.129_192_35, 2.920_768e-3, 9.267_469e-6, -1.278_056e-8, 1.825_548_7e-11];
    const Q: [f32; 4] = [1.0, 0.462_525_2, 2.376_319_5e-2, 2.281_01e-4];
    // Comparisons keep NaN.
    let x = if x > 9.0 { 9.0 } else { x };
    let x = if x < -9.0 { -9.0 } else { x };
    let u = x * x;
    let p = ((((P[5] * u + P[4]) * u + P[3]) * u + P[2]) * u + P[1]) * u + P[0];
    let q = ((Q[3] * u + Q[2]) * u + Q[1]) * u + Q[0];
    x * p / q
}

/// `1 − tanh²x`, the derivative of tanh, without the cancellation that squaring a tanh near 1 would
/// bring.
///
/// ```text
/// 1 − tanh²x = 4 e⁻²ᵃ / (1 + e⁻²ᵃ)²,   a = |x|
/// ```
#[inline(always)]
pub fn sech2(x: f64) -> f64 {
    let e = exp(-2.0 * x.abs());
    4.0 * e / ((1.0 + e) * (1.0 + e))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// The power of two nearest to `x` on a logarithmic scale, with the sign of `x`.
///
/// ```text
/// AP2(x) = sign(x) · 2^round(log₂|x|)        AP2(±0) = ±0
/// ```
///
/// The bounds are odd powers of √2, which no number is. Subnormal numbers give zero, infinities and
/// NaN themselves. Source: Courbariaux et al. 2016, arXiv:1602.02830.
///
/// ```
/// use qnn_math::ap2;
/// assert_eq!([0.7, -0.71, 3.0, -1000.0, 0.0].map(ap2), [0.5, -1.0, 4.0, -1024.0, 0.0]);
/// ```
#[inline(always)]
pub fn ap2(x: f64) -> f64 {
    const EXPONENT: u64 = 0x7FF << 52;
    let bits = x.to_bits();
    // From the f64 above √2 on, the addition carries from the mantissa into the exponent.
    let rounded = bits.wrapping_add(MANTISSA + 1 - SQRT_2_MANTISSA) & !MANTISSA;
    let power = f64::from_bits(rounded);
    if bits & EXPONENT == EXPONENT {
        x
    } else if bits & EXPONENT == 0 {
        x * 0.0
    } else {
        power
    }
}

const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);
const MANTISSA: u64 = (1 << 52) - 1;
const SQRT_2_MANTISSA: u64 = std::f64::consts::SQRT_2.to_bits() & MANTISSA;

/// `(r, 2ⁿ⁻¹)` with `x = n ln 2 + r`.
#[inline(always)]
fn reduced(x: f64) -> (f64, f64) {
    // Adding 1.5 · 2⁵² rounds to an integer and leaves it in the low bits; 1022 more makes those
    // bits the exponent of 2ⁿ⁻¹.
    const ROUND: f64 = 6_755_399_441_055_744.0 + 1022.0;
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    (r, f64::from_bits(shifted.to_bits() << 52))
}

/// `(eʳ − 1) / r`, by its series.
#[inline(always)]
fn expm1_over(r: f64) -> f64 {
    let r2 = r * r;
    let r4 = r2 * r2;
    // Estrin's scheme: four short chains of products instead of one long one.
    let quad = |k: usize| {
        let low = FACTORIALS[k] + FACTORIALS[k + 1] * r;
        let high = FACTORIALS[k + 2] + FACTORIALS[k + 3] * r;
        low + high * r2
    };
    let last = FACTORIALS[12] + FACTORIALS[13] * r;
    quad(0) + (quad(4) + (quad(8) + last * r4) * r4) * r4
}

/// `1 / (k + 1)!`
const FACTORIALS: [f64; 14] = {
    let mut inverse = [1.0; 14];
    let (mut k, mut factorial) = (0, 1.0);
    while k < inverse.len() {
        factorial *= (k + 1) as f64;
        inverse[k] = 1.0 / factorial;
        k += 1;
    }
    inverse
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, x: f64, found: f64, expected: f64) {
        let close = (found - expected).abs() <= 4e-15 * expected.abs();
        assert!(close || found == expected, "{name}({x:e}) = {found:e}, not {expected:e}");
    }

    #[test]
    fn the_functions_agree_with_the_standard_library() {
        for i in -70_000..=70_000 {
            let x = f64::from(i) * 0.01 + 1e-5;
            check("exp", x, exp(x), x.exp());
            check("ln", x.abs(), ln(x.abs()), x.abs().ln());
            check("tanh", x, tanh(x), x.tanh());
            let small = x * 1e-3;
            check("exp", small, exp(small), small.exp());
            check("tanh", small, tanh(small), small.tanh());
            for x in [x, small, x * 1e-9] {
                if x.abs() < 300.0 {
                    check("sech2", x, sech2(x), 1.0 / (x.cosh() * x.cosh()));
                }
            }
        }
        for exponent in -300..300 {
            let x = 1.7 * 10_f64.powi(exponent);
            check("ln", x, ln(x), x.ln());
            if exponent < 0 {
                check("tanh", x, tanh(x), x.tanh());
            }
        }
    }

    #[test]
    fn the_nearest_power_of_two_is_that_of_the_rounded_logarithm() {
        for i in -40_000..=40_000 {
            let x = (f64::from(i) * 0.37).sin() * 2_f64.powi(i / 50);
            let plain = if x == 0.0 { 0.0 } else { x.signum() * x.abs().log2().round().exp2() };
            assert_eq!(ap2(x), plain, "{x:e}");
        }
        let root = std::f64::consts::SQRT_2;
        for n in -300..300 {
            let power = 2_f64.powi(n);
            assert_eq!([ap2(power), ap2(root.next_down() * power)], [power; 2]);
            assert_eq!([ap2(-root * power), ap2(-2.0 * power)], [-2.0 * power; 2]);
        }
        assert_eq!([0.0, 5e-324, f64::INFINITY, f64::MAX].map(ap2), [0.0, 0.0, f64::INFINITY, f64::INFINITY]);
        assert_eq!(ap2(-0.0).to_bits(), (-0.0_f64).to_bits());
        assert!(ap2(f64::NAN).is_nan());
    }

    #[test]
    fn the_rough_tangent_keeps_its_promise() {
        for i in -400_000..=400_000 {
            let x = i as f32 * 2.5e-5;
            for x in [x, 1e-3 * x, 1e-20 * x] {
                let (found, expected) = (f64::from(tanh_roughly(x)), tanh(x.into()));
                assert!((found - expected).abs() <= 5e-7 * expected.abs(), "tanh({x:e}) is not {found:e}");
            }
        }
        assert!((tanh_roughly(f32::INFINITY) - 1.0).abs() < 4e-7 && tanh_roughly(f32::NAN).is_nan());
    }

    #[test]
    fn the_rough_power_keeps_its_promise() {
        for i in -1_000_000..=1_000_000 {
            for x in [f64::from(i) * 1e-3, f64::from(i) * 1e-6, f64::from(i) * 1e-20] {
                let (found, expected) = (exp2_roughly(x), x.exp2());
                assert!((found - expected).abs() <= 8e-13 * expected, "2^{x:e} is not {found:e}");
            }
        }
        assert!(exp2_roughly(f64::NAN).is_nan());
    }

    #[test]
    fn the_ends_are_exact() {
        for (x, e, t) in
            [(0.0, 1.0, 0.0), (f64::INFINITY, f64::INFINITY, 1.0), (f64::NEG_INFINITY, 0.0, -1.0)]
        {
            assert_eq!((exp(x), tanh(x)), (e, t));
        }
        assert_eq!((exp(-710.0), exp(-1e300), exp(1e300)), (0.0, 0.0, f64::INFINITY));
        assert_eq!((ln(1.0), ln(0.0), ln(f64::INFINITY)), (0.0, f64::NEG_INFINITY, f64::INFINITY));
        assert!(exp(f64::NAN).is_nan() && ln(f64::NAN).is_nan() && tanh(f64::NAN).is_nan());
        assert!(ln(-1.0).is_nan() && sech2(f64::NAN).is_nan());
        assert_eq!((sech2(0.0), sech2(f64::INFINITY), sech2(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert_eq!((sigmoid(0.0), sigmoid(-1e4), sigmoid(1e4)), (0.5, 0.0, 1.0));
    }
}
