//! One entry per map and estimator: its name, parameters, formula and constructor.

use std::sync::Arc;

use super::{Listing, Parameters};
use crate::*;

pub(super) struct Entry<T: ?Sized> {
    pub(super) listing: Listing,
    pub(super) build: fn(&Parameters) -> Result<Arc<T>>,
}

const fn entry<T: ?Sized>(
    name: &'static str,
    parameters: &'static [&'static str],
    formula: &'static str,
    build: fn(&Parameters) -> Result<Arc<T>>,
) -> Entry<T> {
    Entry { listing: Listing { name, formula, parameters }, build }
}

pub(super) const QUANTIZERS: &[Entry<dyn Quantizer>] = &[
    entry("identity", &[], "x", |_| Ok(Arc::new(Identity))),
    entry("sign", &[], "+1 if x >= 0, else -1", |_| Ok(Arc::new(Sign))),
    entry("stochastic-sign", &["seed"], "+1 with probability clip((x + 1) / 2, 0, 1), else -1", |p| {
        Ok(Arc::new(StochasticSign::new(p.seed.unwrap_or(0))))
    }),
    entry("scaled-sign", &["axis"], "mean|x| * sign(x)", |p| {
        Ok(Arc::new(ScaledSign { granularity: p.granularity() }))
    }),
    entry("constant-scaled-sign", &["scale"], "scale * sign(x)", |p| {
        Ok(Arc::new(ConstantScaledSign::new(needed("constant-scaled-sign", "scale", p.scale)?)?))
    }),
    entry(
        "hysteresis-sign",
        &["threshold", "axis"],
        "mean|x| * s, s = -1 once x < -threshold (0.1), +1 once x > threshold, at the start sign(x)",
        |p| {
            let map = HysteresisSign::new(p.threshold.unwrap_or(0.1) as f32)?;
            Ok(Arc::new(map.with_granularity(p.granularity())))
        },
    ),
    entry("binary-unit", &[], "1 if x > 1/2, else 0", |_| Ok(Arc::new(BinaryUnit))),
    entry("heaviside", &[], "1 if x > 0, else 0", |_| Ok(Arc::new(Heaviside))),
    entry("magnitude-aware-sign", &[], "m * sign(x), m = mean|x| over all axes but the last", |_| {
        Ok(Arc::new(MagnitudeAwareSign))
    }),
    entry(
        "ternary",
        &["axis", "threshold", "unscaled", "exact"],
        "a * sign(x) if |x| > D, else 0; D = threshold * mean|x| (0.7) or, exact, the best; a = mean|x| over |x| > D, or 1 if unscaled",
        |p| Ok(Arc::new(ternary(p)?)),
    ),
    entry(
        "trained-ternary",
        &["wp", "wn", "threshold"],
        "wp if x > D, -wn if x < -D, else 0; D = threshold * max|x| (0.05); wp, wn (1) trained",
        |p| {
            let map = TrainedTernary::new(p.wp.unwrap_or(1.0), p.wn.unwrap_or(1.0))?;
            Ok(Arc::new(p.threshold.map_or(Ok(map), |threshold| map.with_threshold(threshold))?))
        },
    ),
    entry(
        "dorefa-weights",
        &["bits", "axis"],
        "2 * round(n * (tanh(x) / (2 max|tanh x|) + 1/2)) / n - 1, n = 2^bits - 1; 1 bit: mean|x| * sign(x)",
        |p| Ok(Arc::new(DorefaWeights::new(p.bits("dorefa-weights")?)?.with_granularity(p.granularity()))),
    ),
    entry("dorefa-activations", &["bits"], "round(n * clip(x, 0, 1)) / n, n = 2^bits - 1", |p| {
        Ok(Arc::new(DorefaActivations::new(p.bits("dorefa-activations")?)?))
    }),
    entry(
        "dorefa-gradients",
        &["bits", "seed"],
        "2M * (round(n * clip(x / 2M + 1/2 + u/n, 0, 1)) / n - 1/2), n = 2^bits - 1, M = max|x| over all axes but the first, u in (-1/2, 1/2)",
        |p| Ok(Arc::new(DorefaGradients::new(p.bits("dorefa-gradients")?, p.seed.unwrap_or(0))?)),
    ),
    entry(
        "alphabet",
        &["bits", "levels", "clip"],
        "round((clip(x, -a, a) + a) (n - 1) / 2a) * 2a / (n - 1) - a, n = levels or 2^bits, a = clip (1); n = 2: a * sign(x)",
        |p| {
            let end = p.clip.unwrap_or(1.0);
            Ok(Arc::new(match (p.levels, p.bits) {
                (Some(count), None) => EvenLevels::new(count, end)?,
                (Some(_), Some(_)) => {
                    return Err(Error::UnusedParameter { owner: "alphabet with bits", parameter: "levels" });
                }
                _ => EvenLevels::of_bits(p.bits("alphabet")?, end)?,
            }))
        },
    ),
    entry(
        "uniform",
        &["bits", "clip", "asymmetric"],
        "round(s * clip(x, -a, a)) / s, s = (2^(bits-1) - 1) / a, a = clip (1); asymmetric: s = 2^(bits-1) / a, all codes of two's complement",
        |p| {
            let (bits, alpha) = (p.bits("uniform")?, p.clip.unwrap_or(1.0));
            Ok(Arc::new(if p.asymmetric {
                Uniform::asymmetric(bits, alpha)
            } else {
                Uniform::symmetric(bits, alpha)
            }?))
        },
    ),
    entry("fixed-point", &["bits"], "clip(round(m x) / m, -1, 1 - 1/m), m = 2^(bits-1)", |p| {
        Ok(Arc::new(FixedPoint::new(p.bits("fixed-point")?)?))
    }),
    entry(
        "quantized-relu",
        &["bits", "sign-bit"],
        "clip(round(m x) / m, 0, 1 - 1/m), m = 2^bits, or 2^(bits-1) with a sign bit",
        |p| {
            let bits = p.bits("quantized-relu")?;
            let map = if p.sign_bit { QuantizedRelu::with_sign_bit } else { QuantizedRelu::new };
            Ok(Arc::new(map(bits)?))
        },
    ),
    entry("quantized-hardtanh", &["bits"], "clip(round(m x) / m, -1, 1 - 1/m), m = 2^(bits-1)", |p| {
        Ok(Arc::new(QuantizedHardTanh::new(p.bits("quantized-hardtanh")?)?))
    }),
    entry(
        "affine",
        &["bits", "axis", "low", "high", "symmetric", "unsigned"],
        "S * clip(round(x / S), first - Z, last - Z), S = (high - low) / (2^bits - 1) with low <= 0 <= high, Z = round(first - low / S); symmetric: Z = 0, S = max / (2^(bits-1) - 1); 8 bits, the tensor's own range",
        |p| Ok(Arc::new(affine(p)?)),
    ),
    entry("ap2", &[], "sign(x) * 2^round(log2|x|), 0 if x = 0", |_| Ok(Arc::new(Ap2))),
    entry(
        "log-ap2",
        &["lowest", "highest"],
        "sign(x) * 2^clip(round(log2|x|), lowest, highest), 0 if x = 0; lowest -6, highest 0: 4 bits",
        |p| Ok(Arc::new(LogAp2::new(p.lowest.unwrap_or(-6), p.highest.unwrap_or(0))?)),
    ),
    entry(
        "inq",
        &["bits"],
        "the nearest of 0, +-2^n2 .. +-2^n1; n1 = floor(log2(4 max|x| / 3)), n2 = n1 + 1 - 2^(bits-1) / 2",
        |p| Ok(Arc::new(Inq::new(p.bits("inq")?)?)),
    ),
    entry(
        "pact",
        &["bits", "clip"],
        "round(n * clip(x, 0, a) / a) * a / n, n = 2^bits - 1, a = clip (10), trained",
        |p| Ok(Arc::new(Pact::new(p.bits("pact")?, p.clip.unwrap_or(10.0))?)),
    ),
    entry(
        "lsq",
        &["bits", "scale", "unsigned"],
        "s * round(clip(x / s, -Qn, Qp)), s = scale (1), trained; Qn = 2^(bits-1), Qp = Qn - 1; unsigned: 0, 2^bits - 1",
        |p| {
            let (bits, step) = (p.bits("lsq")?, p.scale.unwrap_or(1.0));
            let map = if p.unsigned { Lsq::for_activations } else { Lsq::for_weights };
            Ok(Arc::new(map(bits, step)?))
        },
    ),
];

pub(super) const ESTIMATORS: &[Entry<dyn Estimator>] = &[
    entry("identity", &[], "dy", |_| Ok(Arc::new(StraightThrough))),
    entry("clipped-identity", &["clip"], "dy if |x| <= clip (1), else 0", |p| {
        Ok(Arc::new(ClippedIdentity { c: p.slope_end("clipped-identity")? }))
    }),
    entry("clipped-unit", &[], "dy if 0 <= x <= 1, else 0", |_| Ok(Arc::new(ClippedUnit))),
    entry("within-levels", &[], "dy from the lowest to the highest level, else 0", |_| {
        Ok(Arc::new(WithinLevels))
    }),
    entry("leaky-clipped", &["clip", "leak"], "dy if |x| <= clip (1), else dy * leak (0.1)", |p| {
        let leak = finite("leaky-clipped", "leak", p.leak.unwrap_or(0.1))?;
        Ok(Arc::new(LeakyClipped { c: p.slope_end("leaky-clipped")?, leak }))
    }),
    entry(
        "modified-tanh",
        &["k", "periodic"],
        "dy * k (1 - tanh(2k (x - t) / d)^2), k = 3; t the nearest threshold, d the distance of its levels; more than two levels: 0 outside of them unless periodic",
        |p| {
            let k = finite("modified-tanh", "k", p.k.unwrap_or(3.0))?;
            Ok(Arc::new(ModifiedTanh { k, periodic: p.periodic }))
        },
    ),
    entry("approx-sign", &[], "dy * (2 - 2|x|) if |x| <= 1, else 0", |_| Ok(Arc::new(ApproxSign))),
    entry("swish-sign", &["beta"], "dy * b (2 - b x tanh(b x / 2)) / (1 + cosh(b x)), b = beta (5)", |p| {
        Ok(Arc::new(SwishSign { beta: finite("swish-sign", "beta", p.beta.unwrap_or(5.0))? }))
    }),
    entry(
        "error-decay",
        &["t", "k"],
        "dy * k t (1 - tanh(t x)^2), k = max(1/t, 1); without t and k: t = 1, in training from 0.1 to 10",
        |p| {
            if p.t.is_none() && p.k.is_none() {
                return Ok(Arc::new(ErrorDecay::at(0.5)));
            }
            let mut decay = ErrorDecay::new(p.t.unwrap_or(1.0))?;
            decay.k = finite("error-decay", "k", p.k.unwrap_or(decay.k))?;
            Ok(Arc::new(decay))
        },
    ),
    entry("dorefa-tanh", &[], "dy * (1 - tanh(x)^2) / max|tanh x|", |_| Ok(Arc::new(DorefaTanh))),
    entry("magnitude-aware-sign", &[], "dy * m (2 - 2|x|) if |x| <= 1, else 0; m = greatest level", |_| {
        Ok(Arc::new(MagnitudeAwareGradient))
    }),
    entry(
        "xnor-net",
        &[],
        "dy * (1/n + a) if |x| <= 1, else dy / n; a = greatest level, n = group size",
        |_| Ok(Arc::new(XnorNetGradient)),
    ),
    entry(
        "scaled-sign",
        &["clip"],
        "a * dy * [|x| <= clip (1)] + sign(x) * mean(dy sign(x)); a = greatest level, the exact chain rule",
        |p| Ok(Arc::new(ScaledSignGradient { c: p.slope_end("scaled-sign")? })),
    ),
    entry("trained-ternary", &[], "dy * wp if x > D, dy * wn if x < -D, else dy", |_| {
        Ok(Arc::new(TrainedTernaryGradient))
    }),
    entry("pact", &[], "dy if 0 <= x < a, else 0; a = greatest level", |_| Ok(Arc::new(PactGradient))),
    entry("lsq", &[], "dy strictly between the lowest and the highest level, else 0", |_| {
        Ok(Arc::new(LsqGradient))
    }),
];

fn ternary(p: &Parameters) -> Result<Ternary> {
    let map = Ternary::per_tensor().with_granularity(p.granularity());
    let map = match (p.exact, p.threshold) {
        (true, Some(_)) => {
            return Err(Error::UnusedParameter { owner: "exact ternary", parameter: "threshold" });
        }
        (true, None) => map.exact(),
        (false, threshold) => threshold.map_or(Ok(map), |threshold| map.with_threshold(threshold))?,
    };
    Ok(if p.unscaled { map.unscaled() } else { map })
}

fn affine(p: &Parameters) -> Result<Affine> {
    let bits = p.bits.unwrap_or(8);
    let map = if p.symmetric { Affine::symmetric(bits)? } else { Affine::asymmetric(bits)? };
    if p.symmetric && p.unsigned {
        return Err(Error::UnusedParameter { owner: "symmetric affine", parameter: "unsigned" });
    }
    let map = if p.unsigned { map.unsigned() } else { map }.with_granularity(p.granularity());
    match (p.low, p.high) {
        (None, None) => Ok(map),
        (low, high) => {
            let (low, high) = (needed("affine", "low", low)?, needed("affine", "high", high)?);
            map.with_ranges(vec![Range::new(low, high)?])
        }
    }
}

fn needed<T>(owner: &'static str, parameter: &'static str, given: Option<T>) -> Result<T> {
    given.ok_or(Error::MissingParameter { owner, parameter })
}

fn finite(owner: &'static str, parameter: &'static str, value: f32) -> Result<f32> {
    if value.is_finite() {
        return Ok(value);
    }
    Err(Error::Parameter { owner, parameter, value: value.to_string(), expected: "finite" })
}

impl Parameters {
    fn bits(&self, owner: &'static str) -> Result<u32> {
        needed(owner, "bits", self.bits)
    }

    fn granularity(&self) -> Granularity {
        self.axis.unwrap_or_default()
    }

    fn slope_end(&self, owner: &'static str) -> Result<f32> {
        let clip = self.clip.unwrap_or(1.0);
        if clip >= 0.0 {
            return Ok(clip);
        }
        let (value, expected) = (clip.to_string(), "at least 0; `inf` clips nothing");
        Err(Error::Parameter { owner, parameter: "clip", value, expected })
    }
}
