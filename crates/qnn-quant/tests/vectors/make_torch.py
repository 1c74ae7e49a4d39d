"""Fake quantization and rounding of PyTorch: python make_torch.py (torch 2.15).

Where PyTorch differs by convention:
- it multiplies by 1/scale in float32: inputs keep away from ties unless the scale is a power of two;
- its gradient passes where the *rounded* code is in range, up to half a step further out than the range itself: no input
  lies in that strip;
- its learnable scale has the gradient of LSQ without the factor 1/sqrt(N Qp), which the case multiplies by.
"""

import numpy as np
import torch

from common import away_from_ties, case, inputs, write


def outside_of_strips(x, scale, low, high):
    """Moves what lies within a step outside of the range further out."""
    x = np.where((x > high * scale) & (x < (high + 1) * scale), x + np.float32(1.5) * scale, x)
    return np.where((x < low * scale) & (x > (low - 1) * scale), x - np.float32(1.5) * scale, x).astype(np.float32)


def affine(x, dy, low, high, bits):
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = np.float32((high - low) / (qmax - qmin))
    zero = int(np.clip(round(qmin - low / scale), qmin, qmax))
    x = outside_of_strips(away_from_ties(x, lambda x: x / scale), scale, qmin - zero, qmax - zero)
    t = torch.tensor(x, requires_grad=True)
    y = torch.fake_quantize_per_tensor_affine(t, float(scale), zero, qmin, qmax)
    y.backward(torch.tensor(dy))
    codes = torch.quantize_per_tensor(torch.tensor(x), float(scale), zero, torch.qint8).int_repr().numpy()
    results = {"y": y.detach().numpy(), "dx": t.grad.numpy(), "scales": [scale]}
    if bits == 8:
        results["codes"] = codes.astype(int) - zero
    return case("affine", x, dy, None, {"bits": bits, "low": low, "high": high}, **results)


def affine_by_channel(x, dy, bits):
    last = 2 ** (bits - 1) - 1
    scales = (np.abs(x).max(axis=(0, 1)) / last).astype(np.float32)
    x = away_from_ties(x, lambda x: x / scales)
    scales = (np.abs(x).max(axis=(0, 1)).astype(np.float64) / last).astype(np.float32)
    t = torch.tensor(x, requires_grad=True)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    y = torch.fake_quantize_per_channel_affine(t, torch.tensor(scales), zeros, 2, -last, last)
    y.backward(torch.tensor(dy))
    parameters = {"bits": bits, "symmetric": True, "axis": 2}
    return case("affine", x, dy, None, parameters, y=y.detach().numpy(), dx=t.grad.numpy(), scales=scales)


def learned_step(x, dy, step, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x = outside_of_strips(away_from_ties(x, lambda x: x / step), np.float32(step), low, high)
    t = torch.tensor(x, requires_grad=True)
    scale = torch.tensor([step], requires_grad=True)
    zero = torch.tensor([0.0])
    y = torch._fake_quantize_learnable_per_tensor_affine(t, scale, zero, low, high, 1.0)
    y.backward(torch.tensor(dy))
    gradient = scale.grad.numpy().astype(np.float64) / np.sqrt(x.size * high)
    parameters = {"bits": bits, "scale": step}
    return case("lsq", x, dy, None, parameters, y=y.detach().numpy(), dx=t.grad.numpy(), parameter_gradients=gradient)


def rounding():
    """Every tie of a step that float32 divides by exactly."""
    x = (np.arange(-40, 41) / 32).astype(np.float32)
    t = torch.tensor(x)
    y = torch.clamp(torch.round(t * 8) / 8, -1, 7 / 8)
    return case("fixed-point", x, None, None, {"bits": 4}, y=y.numpy())


def main():
    x, dy = inputs((6, 2, 5), 3)
    cases = [rounding(), affine(x, dy, -1.0, 2.0, 8), affine(x, dy, -0.7, 1.1, 8), affine(x, dy, 0.0, 1.5, 4)]
    # A tie of a power of two, at both parities.
    tied = (np.arange(-30, 31) / 16).astype(np.float32)
    cases.append(affine(np.where(np.abs(tied) < 2, tied, 0), np.ones_like(tied), -16.0, 15.875, 8))
    cases += [affine_by_channel(x, dy, bits) for bits in (8, 4)]
    cases += [learned_step(x, dy, step, bits) for step, bits in ((0.1, 4), (0.25, 3), (0.7, 2), (0.05, 8))]
    write("torch.json", f"torch {torch.__version__.split('+')[0]}", cases)


main()
