"""Two training steps of ResNet-20 in PyTorch, stored as test vectors.

    python make_resnet20_step.py        writes resnet20_step.safetensors beside this file

Weights and inputs are not stored: both sides compute them from a hash.
All integers are unsigned 64-bit and wrap. For element i of the tensor with index t:

    z = SEED + (t * 2^32 + i + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    h = z ^ (z >> 31)
    k = h >> 40                              24 bits
    s = (2 k - 2^24) / 2^24                  in [-1, 1), exact in f32 and f64

    value = round_to_f32(offset + bound * s)      computed in f64, rounded once

i counts in row-major order of the stored layout: convolution kernels [kh, kw, cin, cout],
dense kernels [in, out], images [batch, height, width, channel].

    kernel       offset 0   bound sqrt(6 / fan_in), fan_in = kh kw cin or in
    bias         offset 0   bound 0.1
    gamma        offset 1   bound 0.2
    beta         offset 0   bound 0.2
    input        offset 0   bound 1.7, t = 1000, shape [8, 32, 32, 3]

t numbers the trained parameters 0, 1, 2, ... in the order of `parameter_shapes`;
running means (start 0) and running variances (start 1) take no number.
The label of image i is (7 i + 3) mod 10.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

SEED = 1647
STEPS = 2
BATCH = 8
INPUT_INDEX = 1000
LEARNING_RATE = 0.06644
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-2
NORM_MOMENTUM = 0.1
NORM_EPSILON = 1e-5


# ---- values from the hash -------------------------------------------------------------


def hash_bits(seed, t, count):
    """h of the elements 0 .. count-1 of tensor t, as uint64."""
    first = np.uint64((seed + (t * 2**32 + 1) * 0x9E3779B97F4A7C15) % 2**64)
    z = first + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def values(seed, t, shape, bound, offset=0.0):
    """The f32 tensor of index t."""
    k = (hash_bits(seed, t, int(np.prod(shape))) >> np.uint64(40)).astype(np.float64)
    s = (2.0 * k - 2.0**24) / 2.0**24
    return (offset + bound * s).astype(np.float32).reshape(shape)


# ---- the model ------------------------------------------------------------------------


def block_plan():
    """(input channels, output channels, stride) of the nine blocks."""
    plan, channels_in = [], 16
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(3):
            plan.append((channels_in, channels, 2 if stage > 0 and block == 0 else 1))
            channels_in = channels
    return plan


def parameter_shapes():
    """Trained parameters, name -> shape, in the order that gives the index t."""
    shapes = {}

    def convolution(name, size, channels_in, channels_out):
        shapes[f"{name}.kernel"] = (size, size, channels_in, channels_out)
        shapes[f"{name}.bias"] = (channels_out,)

    def norm(name, channels):
        shapes[f"{name}.gamma"] = (channels,)
        shapes[f"{name}.beta"] = (channels,)

    convolution("stem.conv", 3, 3, 16)
    norm("stem.norm", 16)
    for b, (channels_in, channels, stride) in enumerate(block_plan()):
        convolution(f"blocks.{b}.conv1", 3, channels_in, channels)
        norm(f"blocks.{b}.norm1", channels)
        convolution(f"blocks.{b}.conv2", 3, channels, channels)
        norm(f"blocks.{b}.norm2", channels)
        if stride == 2:
            convolution(f"blocks.{b}.shortcut", 1, channels_in, channels)
    shapes["classifier.kernel"] = (64, 10)
    shapes["classifier.bias"] = (10,)
    return shapes


def is_norm(name):
    return name.endswith((".gamma", ".beta"))


def feeds_a_norm(name):
    """A bias in front of a batch norm: its gradient is zero, the norm removes the mean."""
    return name.endswith(("conv.bias", "conv1.bias", "conv2.bias"))


def initial(seed, t, name, shape):
    kind = name.rsplit(".", 1)[1]
    if kind == "kernel":
        return values(seed, t, shape, np.sqrt(6.0 / np.prod(shape[:-1])))
    if kind == "bias":
        return values(seed, t, shape, 0.1)
    return values(seed, t, shape, 0.2, offset=1.0 if kind == "gamma" else 0.0)


class Run:
    """The network, its optimizer and its running statistics in one precision."""

    def __init__(self, seed, dtype):
        self.parameters, self.running, self.biased = {}, {}, {}
        for t, (name, shape) in enumerate(parameter_shapes().items()):
            start = torch.from_numpy(initial(seed, t, name, shape)).to(dtype)
            self.parameters[name] = start.requires_grad_(True)
            if name.endswith(".gamma"):
                norm = name[: -len(".gamma")]
                self.running[f"{norm}.running_mean"] = torch.zeros(shape, dtype=dtype)
                self.running[f"{norm}.running_var"] = torch.ones(shape, dtype=dtype)
                self.biased[f"{norm}.running_var"] = torch.ones(shape, dtype=dtype)
        kernels = [p for n, p in self.parameters.items() if n.endswith(".kernel")]
        others = [p for n, p in self.parameters.items() if not n.endswith(".kernel")]
        self.optimizer = torch.optim.SGD(
            [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
        )
        images = torch.from_numpy(values(seed, INPUT_INDEX, (BATCH, 32, 32, 3), 1.7)).to(dtype)
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.labels = torch.tensor([(7 * i + 3) % 10 for i in range(BATCH)])
        self.before_relu = []
        self.logits, self.losses = [], []
        self.first_gradients = {}

    def convolution(self, name, x, stride=1):
        kernel = self.parameters[f"{name}.kernel"]
        size, height = kernel.shape[0], x.shape[2]
        # "Same" padding: ceil(height / stride) outputs, the odd row and column at the end.
        total = max((-(-height // stride) - 1) * stride + size - height, 0)
        before, after = total // 2, total - total // 2
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), self.parameters[f"{name}.bias"], stride=stride)

    def norm(self, name, x):
        mean, var = self.running[f"{name}.running_mean"], self.running[f"{name}.running_var"]
        biased = self.biased[f"{name}.running_var"]
        batch_var = x.detach().var(dim=(0, 2, 3), unbiased=False)
        biased.mul_(1.0 - NORM_MOMENTUM).add_(NORM_MOMENTUM * batch_var)
        gamma, beta = self.parameters[f"{name}.gamma"], self.parameters[f"{name}.beta"]
        return F.batch_norm(x, mean, var, gamma, beta, True, NORM_MOMENTUM, NORM_EPSILON)

    def relu(self, x):
        self.before_relu.append(x.detach())
        return F.relu(x)

    def forward(self):
        x = self.relu(self.norm("stem.norm", self.convolution("stem.conv", self.images)))
        for b, (_, _, stride) in enumerate(block_plan()):
            name = f"blocks.{b}"
            y = self.relu(self.norm(f"{name}.norm1", self.convolution(f"{name}.conv1", x, stride)))
            y = self.norm(f"{name}.norm2", self.convolution(f"{name}.conv2", y))
            shortcut = self.convolution(f"{name}.shortcut", x, stride) if stride == 2 else x
            x = self.relu(y + shortcut)
        pooled = x.mean(dim=(2, 3))
        return pooled @ self.parameters["classifier.kernel"] + self.parameters["classifier.bias"]

    def step(self):
        logits = self.forward()
        loss = F.cross_entropy(logits, self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        if not self.first_gradients:
            self.first_gradients = {n: p.grad.clone() for n, p in self.parameters.items()}
        self.optimizer.step()
        self.logits.append(logits.detach())
        self.losses.append(loss.detach())

    def after(self):
        """Everything that a step changes, in its present state."""
        return {n: p.detach() for n, p in self.parameters.items()} | self.running


def trained(seed, dtype):
    run = Run(seed, dtype)
    for _ in range(STEPS):
        run.step()
    return run


# ---- how far f32 is from f64 ----------------------------------------------------------


def relu_margins(exact, single):
    """Of each step, the smallest |input of a ReLU| over the largest f32 error in the same layer.

    Above 1, no ReLU can switch sides in f32: the gradients are then smooth functions of the rounding errors.
    """
    pairs = zip(exact.before_relu, single.before_relu, strict=True)
    margins = [(a.abs().min() / (a - b.double()).abs().max()).item() for a, b in pairs]
    layers = len(margins) // STEPS
    return [round(min(margins[k * layers : (k + 1) * layers]), 2) for k in range(STEPS)]


def flips(exact, single):
    """ReLU inputs whose sign differs between f32 and f64."""
    pairs = zip(exact.before_relu, single.before_relu, strict=True)
    return sum(((a > 0) != (b > 0)).sum().item() for a, b in pairs)


def relative_difference(exact, single):
    return ((exact - single.double()).abs().max() / exact.abs().max()).item()


def report(start, exact, single):
    print(f"seed {SEED}, ReLU margins {relu_margins(exact, single)}, flips {flips(exact, single)}")
    print("largest |f32 - f64| / largest |f64| per tensor")
    lines = {f"logits of step {k + 1}": relative_difference(exact.logits[k], single.logits[k]) for k in range(STEPS)}
    lines["losses"] = relative_difference(torch.stack(exact.losses), torch.stack(single.losses))
    for name, grad in exact.first_gradients.items():
        if not feeds_a_norm(name):
            lines[f"grad/{name}"] = relative_difference(grad, single.first_gradients[name])
    now = single.after()
    for name, value in exact.after().items():
        lines[f"after/{name}"] = relative_difference(value, now[name])
    for name, value in lines.items():
        print(f"  {value:9.2e}  {name}")
    for kind in ("grad/", "after/"):
        print(f"largest of {kind}: {max(v for n, v in lines.items() if n.startswith(kind)):.2e}")
    moved = {n: relative_difference(exact.parameters[n].detach(), p.detach()) for n, p in start.parameters.items()}
    least = min((v, n) for n, v in moved.items() if not feeds_a_norm(n))
    print(f"smallest relative change of a parameter by the steps: {least[0]:.2e} ({least[1]})")
    noise = max(g.abs().max().item() for n, g in single.first_gradients.items() if feeds_a_norm(n))
    print(f"largest f32 gradient of a bias before a batch norm (exactly 0): {noise:.2e}")


# ---- the file -------------------------------------------------------------------------


def as_f32(tensor):
    # Contiguous: a file stores memory as it lies, and gradients of permuted tensors lie permuted.
    return np.ascontiguousarray(tensor.double().numpy().astype(np.float32))


def signature(tensor):
    """Up to 16 elements, evenly spaced: number j of n sits at floor(j len / n)."""
    flat = tensor.reshape(-1)
    count = min(16, len(flat))
    return as_f32(flat[[j * len(flat) // count for j in range(count)]])


def sum_and_norm(tensor):
    flat = tensor.double().reshape(-1)
    return as_f32(torch.stack([flat.sum(), flat.norm()]))


def vectors(start, run):
    out = {
        "input/head": as_f32(start.images.permute(0, 2, 3, 1).reshape(-1)[:16]),
        "logits/1": as_f32(run.logits[0]),
        "logits/2": as_f32(run.logits[1]),
        "loss": as_f32(torch.stack(run.losses)),
    }
    for name, value in start.parameters.items():
        out[f"before/{name}"] = signature(value.detach())
    for name, grad in run.first_gradients.items():
        if feeds_a_norm(name):
            assert grad.abs().max() < 1e-12, name
            grad = torch.zeros_like(grad)
        out[f"grad/{name}"] = as_f32(grad)
    for name, value in run.after().items():
        out[f"after/{name}"] = signature(value)
        out[f"sum_norm/{name}"] = sum_and_norm(value)
    for name, value in run.biased.items():
        out[f"after_biased/{name}"] = signature(value)
    return out


def main():
    shapes = parameter_shapes()
    weights = sum(int(np.prod(s)) for n, s in shapes.items() if not is_norm(n))
    assert weights == 271_690, weights
    exact, single = trained(SEED, torch.float64), trained(SEED, torch.float32)
    start = Run(SEED, torch.float64)
    report(start, exact, single)
    path = pathlib.Path(__file__).with_name("resnet20_step.safetensors")
    metadata = {"origin": f"PyTorch {torch.__version__}, CPU, f64 rounded to f32", "seed": str(SEED)}
    save_file(vectors(start, exact), path, metadata)
    print(f"{len(shapes)} parameters; logits {exact.logits[0].shape}, losses {[x.item() for x in exact.losses]}")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
