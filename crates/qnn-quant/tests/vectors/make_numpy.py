"""The formulas that no library computes, in numpy float64: python make_numpy.py (numpy 2.4)."""

import numpy as np

from common import case, inputs, write


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def alphabet(x, dy, bits, a, k):
    n = 2**bits
    y = np.rint((np.clip(x, -a, a) + a) * (n - 1) / (2 * a)) * 2 * a / (n - 1) - a if n > 2 else a * sign(x)
    d = 2 * a / (n - 1)
    # Thresholds lie midway between levels.
    thresholds = -a + d * (np.arange(n - 1) + 0.5)
    t = thresholds[np.abs(x[..., None] - thresholds).argmin(-1)]
    slope = k * (1 - np.tanh(2 * k * (x - t) / d) ** 2)
    slope = slope if n == 2 else slope * (np.abs(x) <= a)
    return case("alphabet", x, dy, "modified-tanh", {"bits": bits, "clip": a, "k": k}, y=y, dx=dy * slope)


def uniform(x, dy, bits, alpha):
    s = (2 ** (bits - 1) - 1) / alpha
    codes = np.rint(s * np.clip(x, -alpha, alpha))
    dx = dy * (np.abs(x) <= alpha)
    return case("uniform", x, dy, None, {"bits": bits, "clip": alpha}, y=codes / s, codes=codes, dx=dx)


def fixed_point(x, dy, q):
    m = 2.0 ** (q - 1)
    y = np.clip(np.rint(m * x) / m, -1, 1 - 1 / m)
    return case("fixed-point", x, dy, None, {"bits": q}, y=y, codes=y * m, dx=dy * (np.abs(x) <= 1))


def uniform_asymmetric(x, dy, bits, alpha):
    n = 2 ** (bits - 1)
    s = alpha / n
    codes = np.clip(np.rint(x / s), -n, n - 1)
    dx = dy * (np.abs(x) <= alpha)
    return case("uniform", x, dy, None, {"bits": bits, "clip": alpha, "asymmetric": True}, y=s * codes, codes=codes, dx=dx)


def quantized_hardtanh(x, dy, q):
    return {**fixed_point(x, dy, q), "quantizer": "quantized-hardtanh"}


def quantized_relu(x, dy, q, sign_bit=False):
    m = 2.0 ** (q - sign_bit)
    y = np.clip(np.rint(m * x) / m, 0, 1 - 1 / m)
    parameters = {"bits": q, "sign_bit": True} if sign_bit else {"bits": q}
    return case("quantized-relu", x, dy, None, parameters, y=y, codes=y * m, dx=dy * ((x >= 0) & (x <= 1)))


def constant_scaled_sign(x, dy, scale):
    codes = sign(x)
    return case("constant-scaled-sign", x, dy, None, {"scale": scale}, y=scale * codes, codes=codes, dx=dy * (np.abs(x) <= 1))


def binary_unit(x, dy):
    codes = np.rint(np.clip(x, 0, 1))
    return case("binary-unit", x, dy, None, {}, y=codes, codes=codes, dx=dy * ((x >= 0) & (x <= 1)))


def mean_sign(name, x, dy, axis, parameters, dx):
    others = tuple(i for i in range(x.ndim) if i != axis) if axis is not None else None
    scale = np.abs(x).mean(axis=others, keepdims=axis is not None)
    return case(name, x, dy, None, parameters, y=scale * sign(x), codes=sign(x), scales=scale, dx=dx(scale))


def signs_with_a_mean(x, dy):
    approx = (2 - 2 * np.abs(x)) * (np.abs(x) <= 1)
    return [
        # Without a previous state a sign with hysteresis is the sign.
        mean_sign("hysteresis-sign", x, dy, None, {"threshold": 0.125}, lambda _: dy),
        mean_sign("hysteresis-sign", x, dy, 1, {"axis": 1}, lambda _: dy),
        mean_sign("dorefa-weights", x, dy, None, {"bits": 1}, lambda _: dy),
        mean_sign("magnitude-aware-sign", x, dy, 1, {}, lambda scale: dy * scale * approx),
    ]


def ternary_of(magnitude, exact):
    if not exact:
        return 0.7 * magnitude.mean()
    # Among all thresholds just below an element, the one that leaves the least squared error.
    candidates = np.unique(magnitude)
    gains = [magnitude[magnitude >= least].sum() ** 2 / (magnitude >= least).sum() for least in candidates]
    return np.nextafter(candidates[np.argmax(gains)], 0)


def ternary(x, dy, axis=None, exact=False):
    groups = np.moveaxis(x, axis, 0) if axis is not None else x[None]
    thresholds = [ternary_of(np.abs(group), exact) for group in groups]
    scales = [np.abs(group)[np.abs(group) > threshold].mean() for group, threshold in zip(groups, thresholds)]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    threshold, scale = (np.reshape(values, shape if axis is not None else ()) for values in (thresholds, scales))
    codes = np.sign(x) * (np.abs(x) > threshold)
    parameters = {name: value for name, value in (("axis", axis), ("exact", exact or None)) if value is not None}
    return case("ternary", x, dy, None, parameters, y=scale * codes, codes=codes, scales=scales, dx=dy)


def trained_ternary(x, dy, wp, wn):
    threshold = 0.05 * np.abs(x).max()
    above, below = x > threshold, x < -threshold
    y = wp * above - wn * below
    dx = dy * np.where(above, wp, np.where(below, wn, 1))
    gradients = [dy[above].sum(), -dy[below].sum()]
    return case("trained-ternary", x, dy, None, {"wp": wp, "wn": wn}, y=y, dx=dx, parameter_gradients=gradients)


def scaled_sign(x, dy, axis, estimator):
    others = tuple(i for i in range(x.ndim) if i != axis)
    scale = np.abs(x).mean(axis=others, keepdims=True)
    n = x.size / x.shape[axis]
    inside = np.abs(x) <= 1
    dx = {
        "identity": dy,
        "xnor-net": dy * (1 / n + scale * inside),
        "scaled-sign": dy * scale * inside + sign(x) * (dy * sign(x)).sum(axis=others, keepdims=True) / n,
    }[estimator]
    return case("scaled-sign", x, dy, estimator, {"axis": axis}, y=scale * sign(x), scales=scale, dx=dx)


def pact(x, dy, bits, a):
    n = 2**bits - 1
    y = 0.5 * (np.abs(x) - np.abs(x - a) + a)
    dx = dy * ((x >= 0) & (x < a))
    gradients = [dy[x >= a].sum()]
    return case("pact", x, dy, None, {"bits": bits, "clip": a}, y=np.rint(n * y / a) * a / n, dx=dx, parameter_gradients=gradients)


def lsq_unsigned(x, dy, bits, s):
    top = 2**bits - 1
    ratio = x / s
    codes = np.clip(np.rint(ratio), 0, top)
    inside = (ratio > 0) & (ratio < top)
    # The features of one example: all axes but the first.
    gradient_scale = 1 / np.sqrt(x[0].size * top)
    gradients = [gradient_scale * (dy * (codes - np.where(inside, ratio, 0))).sum()]
    parameters = {"bits": bits, "scale": s, "unsigned": True}
    return case("lsq", x, dy, None, parameters, y=s * codes, codes=codes, dx=dy * inside, parameter_gradients=gradients)


def log_powers(x, dy, lowest, highest):
    magnitude = np.abs(x, where=x != 0, out=np.full_like(x, 2.0**lowest))
    y = sign(x) * 2.0 ** np.clip(np.rint(np.log2(magnitude)), lowest, highest)
    return case("log-ap2", x, dy, None, {"lowest": lowest, "highest": highest}, y=y, dx=dy)


def powers(x, dy):
    magnitude = np.abs(x, where=x != 0, out=np.ones_like(x))
    y = np.sign(x) * 2.0 ** np.rint(np.log2(magnitude))
    return case("ap2", x, dy, None, {}, y=y, dx=dy)


def inq(x, dy, bits):
    n1 = np.floor(np.log2(4 * np.abs(x).max() / 3))
    n2 = n1 + 1 - 2 ** (bits - 1) / 2
    codebook = np.concatenate([[0.0], 2.0 ** np.arange(n2, n1 + 1)])
    y = np.zeros_like(x)
    for low, high in zip(codebook, codebook[1:]):
        y = np.where(np.abs(x) >= (low + high) / 2, high * np.sign(x), y)
    return case("inq", x, dy, None, {"bits": bits}, y=y, codes=y / 2.0**n2, scales=[2.0**n2], dx=dy)


def error_decay(x, dy, t):
    k = max(1 / t, 1)
    return case("sign", x, dy, "error-decay", {"t": t}, y=sign(x), dx=dy * k * t * (1 - np.tanh(t * x) ** 2))


def main():
    x, dy = (array.astype(np.float64) for array in inputs((5, 12), 2))
    cases = [alphabet(x, dy, bits, a, k) for bits, a, k in ((1, 1.0, 3.0), (2, 1.0, 3.0), (3, 0.75, 4.0), (4, 1.0, 5.0))]
    cases += [uniform(x, dy, bits, alpha) for bits, alpha in ((2, 1.0), (4, 0.8125), (8, 1.0))]
    cases += [fixed_point(x, dy, q) for q in (1, 2, 4, 8)] + [quantized_relu(x, dy, q) for q in (1, 2, 4, 8)]
    cases += [ternary(x, dy), trained_ternary(x, dy, 0.75, 0.5)]
    cases += [scaled_sign(x, dy, axis, name) for axis in (0, 1) for name in ("identity", "xnor-net", "scaled-sign")]
    cases += [pact(x, dy, bits, a) for bits, a in ((1, 1.0), (2, 0.75), (4, 1.5))]
    cases += [powers(x, dy)] + [inq(x, dy, bits) for bits in (2, 3, 5)] + [error_decay(x, dy, t) for t in (0.125, 1.0, 8.0)]
    cases += [constant_scaled_sign(x, dy, scale) for scale in (0.125, 0.5)] + [binary_unit(x, dy)] + signs_with_a_mean(x, dy)
    cases += [ternary(x, dy, axis, exact) for axis in (None, 0, 1) for exact in (False, True) if axis is not None or exact]
    cases += [uniform_asymmetric(x, dy, bits, alpha) for bits, alpha in ((1, 1.0), (4, 0.8125), (8, 1.0))]
    cases += [quantized_hardtanh(x, dy, q) for q in (1, 3, 8)] + [quantized_relu(x, dy, q, True) for q in (2, 8)]
    cases += [lsq_unsigned(x, dy, bits, s) for bits, s in ((1, 0.5), (2, 0.25), (8, 0.0078125))]
    cases += [log_powers(x, dy, *ends) for ends in ((-3, 1), (-6, 0))]
    write("numpy.json", f"numpy {np.__version__}", cases)


main()
