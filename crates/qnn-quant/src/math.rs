//! `exp`, `tanh` and their relatives with the same bits on every machine.
//!
//! The system's functions choose their code by what the processor offers and by the version of the C library. These use
//! additions, multiplications and divisions alone, in f64, without branches, so that loops over them vectorise. They are
//! kept here, sixty lines, rather than shared with other crates: this one is added alone more often than not, and no
//! number passes through both.

/// The hyperbolic tangent, to about 1e-15 relative. ±1 at ±∞, NaN of NaN.
///
/// ```text
/// tanh x = d / (d + 2),   d = e²ˣ − 1
/// ```
#[inline(always)]
pub(crate) fn tanh(x: f64) -> f64 {
    let a = clamped(x, 20.0);
    let (r, half) = reduced(2.0 * a);
    let power = 2.0 * half;
    // e²ˣ − 1 = 2ⁿ (eʳ − 1) + (2ⁿ − 1) loses nothing near zero, where n = 0.
    let d = power * r * expm1_over(r) + (power - 1.0);
    d / (d + 2.0)
}

/// `1 − tanh²x`, without the cancellation that squaring a tanh near 1 would bring.
///
/// ```text
/// 1 − tanh²x = 4 e⁻²ᵃ / (1 + e⁻²ᵃ)²,   a = |x|
/// ```
#[inline(always)]
pub(crate) fn sech2(x: f64) -> f64 {
    let e = exp(-2.0 * x.abs());
    4.0 * e / ((1.0 + e) * (1.0 + e))
}

/// `eˣ`, to about 1e-15 relative, for x clamped to ±700. NaN of NaN.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let (r, half) = reduced(clamped(x, 700.0));
    (1.0 + r * expm1_over(r)) * half * 2.0
}

/// The natural logarithm of a positive normal number, to about 1e-15 relative.
///
/// ```text
/// ln(2ⁿ m) = n ln 2 + 2 (s + s³/3 + s⁵/5 + …),   s = (m − 1) / (m + 1),   √½ ≤ m < √2
/// ```
pub(crate) fn ln(x: f64) -> f64 {
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

const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);
const MANTISSA: u64 = (1 << 52) - 1;
const SQRT_2_MANTISSA: u64 = std::f64::consts::SQRT_2.to_bits() & MANTISSA;

/// Into ±limit; NaN stays NaN.
#[inline(always)]
fn clamped(x: f64, limit: f64) -> f64 {
    let x = if x > limit { limit } else { x };
    if x < -limit { -limit } else { x }
}

/// `(r, 2ⁿ⁻¹)` with `x = n ln 2 + r`.
#[inline(always)]
fn reduced(x: f64) -> (f64, f64) {
    // Adding 1.5 · 2⁵² rounds to an integer and leaves it in the low bits; 1022 more makes those bits the exponent of 2ⁿ⁻¹.
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
        for i in -20_000..=20_000 {
            let x = f64::from(i) * 0.03 + 1e-5;
            for x in [x, x * 1e-3, x * 1e-9] {
                check("exp", x, exp(x), x.exp());
                check("tanh", x, tanh(x), x.tanh());
                check("ln", x.abs(), ln(x.abs()), x.abs().ln());
                let cosh = x.clamp(-300.0, 300.0).cosh();
                if x.abs() < 300.0 {
                    check("sech2", x, sech2(x), 1.0 / (cosh * cosh));
                }
            }
        }
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!((tanh(f64::INFINITY), tanh(f64::NEG_INFINITY), tanh(0.0)), (1.0, -1.0, 0.0));
        assert_eq!((tanh(20.0), exp(0.0), sech2(0.0), ln(1.0)), (1.0, 1.0, 1.0, 0.0));
        assert!(sech2(f64::INFINITY) < 1e-300 && exp(-1e300) < 1e-300);
        assert!(tanh(f64::NAN).is_nan() && exp(f64::NAN).is_nan() && sech2(f64::NAN).is_nan());
    }
}
