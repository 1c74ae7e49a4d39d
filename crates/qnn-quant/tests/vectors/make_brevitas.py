"""Quantizers of Brevitas: python make_brevitas.py (brevitas 0.13, torch 2.15).

Where Brevitas differs by convention:
- it divides by the scale in float32: inputs keep away from ties;
- its gradient passes where the *rounded* code is in range: no input lies in the strip of half a step around the ends;
- a scale that it measures is part of its gradient, and signs have the gradient of codes: only values are compared there;
- its learned scale has the gradient of LSQ without the factor 1/sqrt(N Qp), which the case multiplies by.
"""

import brevitas
import numpy as np
import torch
from brevitas.core.function_wrapper import Identity
from brevitas.core.quant import BinaryQuant, IntQuant, TernaryQuant
from brevitas.core.scaling import ConstScaling
from brevitas.nn import QuantLinear
from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerTensorFloat

from common import away_from_ties, case, inputs, write


def weights(w, quantizer, parameters):
    """Those of a layer, with scales of max|w| / 127."""
    last, axis = 127, parameters.get("axis")
    largest = np.abs(w).max(axis=1, keepdims=True) if axis == 0 else np.abs(w).max()
    w = away_from_ties(w, lambda w: w / (largest / last))
    layer = QuantLinear(w.shape[1], w.shape[0], bias=False, weight_quant=quantizer)
    layer.weight.data = torch.tensor(w)
    quantized = layer.quant_weight()
    codes, scales = quantized.int().numpy(), quantized.scale.detach().numpy()
    return case("affine", w, None, None, parameters, y=quantized.value.detach().numpy(), codes=codes, scales=scales)


def outside_of_strips(x, scale, low, high):
    """Moves what lies within a step of the ends further out."""
    x = np.where((x > high * scale) & (x < (high + 1) * scale), x + np.float32(1.5) * scale, x)
    return np.where((x < low * scale) & (x > (low - 1) * scale), x - np.float32(1.5) * scale, x).astype(np.float32)


def integers(x, dy, scale, bits, signed):
    """Values, codes and both gradients of integers with a given scale."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = np.float32(scale)
    x = outside_of_strips(away_from_ties(x, lambda x: x / scale), scale, low, high)
    quantize = IntQuant(narrow_range=False, signed=signed, input_view_impl=Identity())
    t, s = torch.tensor(x, requires_grad=True), torch.tensor(scale, requires_grad=True)
    zero, bit_width = torch.tensor(0.0), torch.tensor(float(bits))
    y = quantize(s, zero, bit_width, t)
    y.backward(torch.tensor(dy))
    codes = quantize.to_int(s, zero, bit_width, t).detach().numpy()
    return x, high, {"y": y.detach().numpy(), "dx": t.grad.numpy(), "codes": codes}, float(s.grad)


def learned_step(x, dy, scale, bits):
    x, high, results, gradient = integers(x, dy, scale, bits, True)
    gradient /= np.sqrt(x.size * high)
    return case("lsq", x, dy, None, {"bits": bits, "scale": scale}, **results, parameter_gradients=[gradient])


def clipped_height(x, dy, height, bits):
    x, _, results, _ = integers(x, dy, height / (2**bits - 1), bits, False)
    return case("pact", x, dy, None, {"bits": bits, "clip": height}, **results)


def binary(x, scale):
    y, *_ = BinaryQuant(ConstScaling(scale))(torch.tensor(x))
    return case("constant-scaled-sign", x, None, None, {"scale": scale}, y=y.detach().numpy())


def ternary(x, scale, threshold):
    """A threshold of the largest weight here is one of the scale there."""
    x = (x * np.float32(3 / np.abs(x).max())).astype(np.float32)
    y, *_ = TernaryQuant(ConstScaling(scale), threshold * float(np.abs(x).max()) / scale)(torch.tensor(x))
    parameters = {"wp": scale, "wn": scale, "threshold": threshold}
    return case("trained-ternary", x, None, None, parameters, y=y.detach().numpy())


def main():
    x, dy = inputs((6, 10), 5)
    cases = [
        weights(x, Int8WeightPerTensorFloat, {"bits": 8, "symmetric": True}),
        weights(x, Int8WeightPerChannelFloat, {"bits": 8, "symmetric": True, "axis": 0}),
    ]
    cases += [learned_step(x, dy, scale, bits) for scale, bits in ((0.1, 4), (0.3, 3), (0.02, 8))]
    cases += [clipped_height(x, dy, height, bits) for height, bits in ((1.0, 2), (1.5, 4), (2.0, 8))]
    cases += [binary(x, 0.125), ternary(x, 0.3, 0.05), ternary(x, 0.7, 0.2)]
    write("brevitas.json", f"brevitas {brevitas.__version__}, torch {torch.__version__.split('+')[0]}", cases)


main()
