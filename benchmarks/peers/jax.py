"""JAX: functions compiled by XLA for their shapes, with the weights as arguments; gradients are its own transforms."""

import os

from ..problems import PARAMETERS
from ..protocol import serve
from . import Variant, methods

#: The axes of x, w and y, and where those of x are in the canonical order.
AXES = {"channels_last": (("NHWC", "HWIO", "NHWC"), (0, 2, 3, 1)), "channels_first": (("NCHW", "OIHW", "NCHW"), None)}


def compiled(function, results, *arrays):
    """A plain variant: the function, compiled, of arrays that the library already has; waits for its results."""
    import jax

    function = jax.jit(function)
    arguments = jax.device_put(arrays)
    return Variant(lambda: jax.block_until_ready(function(*arguments)), results)


def conv(problem, pass_, operands):
    """lax.conv_general_dilated and its vector-Jacobian product, in both layouts."""
    return {layout: conv_variant(problem, pass_, operands, layout) for layout in AXES}


def conv_variant(problem, pass_, operands, layout):
    """A pass in a layout."""
    import jax
    import numpy as np

    dimensions, order = AXES[layout]
    first = order is None

    def forward(x, w, b):
        y = jax.lax.conv_general_dilated(x, w, [problem.stride] * 2, [[problem.padding] * 2] * 2,
                                         dimension_numbers=dimensions, feature_group_count=problem.groups)
        return y + (b[:, None, None] if first else b)

    def image(array):
        return array if first else np.ascontiguousarray(array.transpose(order))

    def canonical(array):
        return np.asarray(array) if first else np.asarray(array).transpose(0, 3, 1, 2)

    def canonical_kernel(array):
        return np.asarray(array) if first else np.asarray(array).transpose(3, 2, 0, 1)

    x, dy, b = image(operands["x"]), image(operands["dy"]), operands["b"]
    w = operands["w"] if first else np.ascontiguousarray(operands["w"].transpose(2, 3, 1, 0))
    if pass_ == "forward":
        return compiled(forward, lambda y: [canonical(y)], x, w, b)
    restore = (canonical, canonical_kernel, np.asarray)
    wanted = {"backward": (0, 1, 2), "backward_data": (0,), "backward_weights": (1,)}[pass_]

    def backward(dy, *arguments):
        gradients = jax.vjp(forward, *arguments)[1](dy)
        return [gradients[index] for index in wanted]

    return compiled(backward, lambda gradients: [restore[index](gradient) for index, gradient
                                                 in zip(wanted, gradients, strict=True)], dy, x, w, b)


def rnn(problem, pass_, operands):
    """One product for all inputs and lax.scan over the steps; training is that and its vector-Jacobian product."""
    import jax
    import numpy as np

    step = {"RNN": rnn_step, "LSTM": lstm_step, "GRU": gru_step}[problem.cell]

    def forward(x, weight_ih, weight_hh, bias_ih, bias_hh, *first):
        inputs = x @ weight_ih.T + bias_ih
        last, y = jax.lax.scan(lambda state, row: step(row, state, state[0] @ weight_hh.T + bias_hh), first, inputs)
        return y, *last

    def train(dy, *arguments):
        y, back = jax.vjp(lambda *arguments: forward(*arguments)[0], *arguments)
        return y, *back(dy)

    arrays = [operands[name] for name in ("x", *PARAMETERS, "h", "c") if name in operands]
    function, arrays = (train, [operands["dy"], *arrays]) if pass_ == "training" else (forward, arrays)
    return {"scan": compiled(function, lambda outputs: list(map(np.asarray, outputs)), *arrays)}


def rnn_step(inputs, state, recurrent):
    """(next state, y) of tanh; `inputs` and `recurrent` are the two products with their biases."""
    import jax.numpy as jnp

    h = jnp.tanh(inputs + recurrent)
    return (h,), h


def lstm_step(inputs, state, recurrent):
    """(next state, y) of the gates i f g o."""
    import jax
    import jax.numpy as jnp

    i, f, g, o = jnp.split(inputs + recurrent, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(inputs, state, recurrent):
    """(next state, y) of the gates r z n; r is applied to the product."""
    import jax
    import jax.numpy as jnp

    (ri, zi, ni), (rh, zh, nh) = (jnp.split(part, 3, axis=-1) for part in (inputs, recurrent))
    r, z = jax.nn.sigmoid(ri + rh), jax.nn.sigmoid(zi + zh)
    n = jnp.tanh(ni + r * nh)
    h = n + z * (state[0] - n)
    return (h,), h


def load(threads):
    """The methods of the process; XLA's own pool has a thread for each processor the process may run on."""
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"  # else a pool that calls are handed to
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    return methods(jax.__version__, {"conv": conv, "rnn": rnn})


if __name__ == "__main__":
    serve(load)
