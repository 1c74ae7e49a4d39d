"""Small test vectors of single operations in PyTorch.

    python make_ops.py        writes ops.safetensors beside this file

Inputs are stored with the results. Everything is computed in f64 from f32 inputs and rounded to f32 once.
Images are [batch, height, width, channel], convolution kernels [kh, kw, cin / groups, cout].
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from make_resnet20_step import as_f32, values

SEED = 77
OUT = {}
_next_index = iter(range(1000))


def draw(name, shape, bound=1.0, offset=0.0):
    """A stored input, as the f64 tensor of its f32 values."""
    OUT[name] = values(SEED, next(_next_index), shape, bound, offset)
    return torch.from_numpy(OUT[name]).double()


def leaf(name, shape, bound=1.0, offset=0.0):
    return draw(name, shape, bound, offset).requires_grad_(True)


def store(name, tensor):
    OUT[name] = as_f32(tensor.detach())


def to_nchw(x):
    return x.permute(0, 3, 1, 2)


def to_nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


def backward(name, y, inputs):
    """Stores y, draws dy, stores the gradient of every input."""
    store(f"{name}/y", y)
    gradients = torch.autograd.grad(y, inputs.values(), draw(f"{name}/dy", tuple(y.shape)))
    for key, gradient in zip(inputs, gradients, strict=True):
        store(f"{name}/d{key}", gradient)


def convolution(name, x_shape, kernel_shape, groups, padding):
    """Stride 2; padding = (top, bottom, left, right)."""
    top, bottom, left, right = padding
    x = leaf(f"{name}/x", x_shape)
    kernel = leaf(f"{name}/kernel", kernel_shape)
    bias = leaf(f"{name}/bias", (kernel_shape[-1],))
    padded = F.pad(to_nchw(x), (left, right, top, bottom))
    y = F.conv2d(padded, kernel.permute(3, 2, 0, 1), bias, stride=2, groups=groups)
    backward(name, to_nhwc(y), {"x": x, "kernel": kernel, "bias": bias})


def max_pool(name, x_shape, size, stride, padding):
    x = leaf(f"{name}/x", x_shape)
    y = F.max_pool2d(to_nchw(x), size, stride, padding, ceil_mode=True)
    backward(name, to_nhwc(y), {"x": x})


def average_pool(name, x_shape, ceil):
    x = leaf(f"{name}/x", x_shape)
    y = F.avg_pool2d(to_nchw(x), 3, 2, 1, ceil_mode=ceil, count_include_pad=False)
    backward(name, to_nhwc(y), {"x": x})


def batch_norm(name):
    x = leaf(f"{name}/x", (4, 3, 3, 5), 2.0, 0.5)
    gamma, beta = leaf(f"{name}/gamma", (5,), 0.5, 1.0), leaf(f"{name}/beta", (5,))
    mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    y = F.batch_norm(to_nchw(x), mean, var, gamma, beta, True, 0.1, 1e-5)
    backward(name, to_nhwc(y), {"x": x, "gamma": gamma, "beta": beta})
    store(f"{name}/batch_mean", x.mean(dim=(0, 1, 2)))
    store(f"{name}/batch_var", x.var(dim=(0, 1, 2), unbiased=False))
    store(f"{name}/running_mean", mean)
    store(f"{name}/running_var", var)


def cross_entropy(name):
    logits = leaf(f"{name}/logits", (4, 5), 3.0)
    labels = torch.tensor([1, 4, 0, 2])
    OUT[f"{name}/labels"] = labels.numpy().astype(np.float32)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    store(f"{name}/loss", loss.reshape(1))
    store(f"{name}/dlogits", torch.autograd.grad(loss, logits)[0])


def optimizer(name, make):
    """Three steps on a vector of 7; the gradient of step k is row k of `gradients`."""
    start, gradients = draw(f"{name}/start", (7,)), draw(f"{name}/gradients", (3, 7))
    weights = start.clone().requires_grad_(True)
    stepper = make([weights])
    states = []
    for gradient in gradients:
        weights.grad = gradient.clone()
        stepper.step()
        states.append(weights.detach().clone())
    store(f"{name}/weights", torch.stack(states))


def main():
    convolution("conv_same", (2, 6, 8, 4), (3, 3, 2, 6), 2, (0, 1, 0, 1))
    convolution("conv_explicit", (2, 7, 6, 4), (3, 2, 2, 4), 2, (2, 1, 0, 1))
    max_pool("max_pool", (2, 6, 8, 3), 3, 2, 0)
    max_pool("max_pool_padded", (2, 6, 7, 3), 3, 2, 1)
    max_pool("max_pool_dropped", (1, 4, 5, 2), 2, 3, 1)
    average_pool("average_pool", (2, 6, 7, 3), False)
    average_pool("average_pool_ceil", (2, 6, 7, 3), True)
    batch_norm("batch_norm")
    cross_entropy("cross_entropy")
    optimizer("adam", lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8))
    optimizer("sgd_nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True))
    path = pathlib.Path(__file__).with_name("ops.safetensors")
    save_file(OUT, path, {"origin": f"PyTorch {torch.__version__}, CPU, f64 rounded to f32"})
    for name, value in OUT.items():
        print(name, list(value.shape))
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
