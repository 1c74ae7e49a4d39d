"""What the scripts of this folder share: inputs, and how results are written.

A file holds a list of cases. A case names a quantizer of the registry, its parameters, perhaps an estimator, and what a
peer makes of the input `x` and the upstream gradient `dy`: values `y`, gradient `dx`, integer `codes`, `scales`, gradients
of trained `parameters`. What a case does not hold is not compared. Numbers are those of float32, written so that they
read back exactly.
"""

import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def inputs(shape, seed, spread=0.7):
    """Normal numbers, a few of them far out, and the same shape of upstream gradients."""
    random = np.random.default_rng(seed)
    x = (spread * random.standard_normal(shape)).astype(np.float32)
    flat = x.reshape(-1)
    flat[:: 11] *= 4
    return x, random.standard_normal(shape).astype(np.float32)


def away_from_ties(x, ratio, margin=1e-4):
    """Moves numbers whose ratio to the step is about half-way between integers.

    Peers compute this ratio in float32, where its rounding decides; ours is exact. Ties that float32 holds exactly are
    tested by themselves, with steps that are powers of two.
    """
    fraction = np.abs(ratio(x.astype(np.float64)) % 1 - 0.5)
    return np.where(fraction < margin, x * np.float32(1.01), x).astype(np.float32)


def case(quantizer, x, dy=None, estimator=None, parameters=None, **results):
    """One case, in the order in which it is written."""
    entry = {"quantizer": quantizer}
    if estimator:
        entry["estimator"] = estimator
    entry["parameters"] = parameters or {}
    entry["shape"] = list(np.shape(x))
    arrays = {"x": x, "dy": dy, **results}
    for name, array in arrays.items():
        if array is not None:
            entry[name] = [float(value) for value in np.asarray(array, dtype=np.float64).reshape(-1)]
    return entry


def write(name, made_with, cases):
    lines = ",\n".join("  " + json.dumps(entry) for entry in cases)
    text = f'{{"made_with": {json.dumps(made_with)}, "cases": [\n{lines}\n]}}\n'
    (FOLDER / name).write_text(text)
    print(f"{name}: {len(cases)} cases, {len(text) // 1024} KiB")
