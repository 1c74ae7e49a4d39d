"""Values and gradients of Larq's quantizers: python make_larq.py (tensorflow-cpu 2.15.1, larq 0.14.0, Python 3.10).

Where Larq differs by convention:
- its `tf.sign(x + D) + tf.sign(x - D)` makes x = ±D a ±1, where the paper (and we) have 0: no input lies on ±D;
- its ternary values are not scaled: compared with our unscaled form;
- its MagnitudeAwareSign has the gradient m 1[abs(x) <= 1], where the paper (and we) have m (2 - 2 abs(x)) 1[abs(x) <= 1]: values alone are compared;
- its DoReFa computes in float32: inputs keep away from ties, and gradients from the ends of the clip.
"""

import larq as lq
import numpy as np
import tensorflow as tf

from common import away_from_ties, case, inputs, write


def run(quantizer, x, dy):
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = quantizer(variable)
        loss = tf.reduce_sum(y * dy)
    return y.numpy(), tape.gradient(loss, variable).numpy()


def compared(name, quantizer, x, dy, estimator=None, parameters=None):
    y, dx = run(quantizer, x, dy)
    return case(name, x, dy, estimator, parameters, y=y, dx=dx)


def unit_weights(x):
    squashed = np.tanh(x)
    return squashed / (2 * np.abs(squashed).max()) + 0.5


def main():
    q = lq.quantizers
    x, dy = inputs((4, 3, 5), 1)
    x[0, 0, :3] = [0.0, -0.0, 1.0]
    cases = [
        compared("sign", q.SteSign(), x, dy),
        compared("sign", q.SteSign(clip_value=0.5), x, dy, "clipped-identity", {"clip": 0.5}),
        compared("sign", q.ApproxSign(), x, dy, "approx-sign"),
        compared("sign", q.SwishSign(), x, dy, "swish-sign"),
        compared("sign", q.SwishSign(beta=2.0), x, dy, "swish-sign", {"beta": 2.0}),
        compared("heaviside", q.SteHeaviside(), x, dy),
        case("magnitude-aware-sign", x, y=run(q.MagnitudeAwareSign(), x, dy)[0]),
        compared("ternary", q.SteTern(ternary_weight_networks=True), x, dy, "clipped-identity", {"unscaled": True}),
    ]
    for bits in (2, 3, 8):
        n = 2**bits - 1
        x, dy = inputs((3, 20), bits)
        weights = away_from_ties(x, lambda x: n * unit_weights(x))
        parameters = {"bits": bits}
        cases.append(compared("dorefa-weights", q.DoReFa(k_bit=bits, mode="weights"), weights, dy, None, parameters))
        activations = away_from_ties(x, lambda x: n * x)
        cases.append(compared("dorefa-activations", q.DoReFa(k_bit=bits), activations, dy, None, parameters))
    write("larq.json", f"larq {lq.__version__}, tensorflow {tf.__version__}", cases)


main()
