"""The cells in JAX, as an expert writes them: what depends on the input alone is hoisted by hand.

Each entry is ``(hoist, step)``: ``hoist(p, x)`` over all T·B rows at once, and ``step(p, state, xs)
-> (state, y)`` with ``p`` the parameters by name and ``state`` a tuple. Matrices are kernels (in,
out), as Flax and Keras hold them: a transpose in the loop's body would be done at each step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

sigmoid, tanh = jax.nn.sigmoid, jnp.tanh


def _linear(p: Any, x: Any) -> Any:
    """All biases that are added to the input's product anyway go with it."""
    return x @ p["weight_ih"] + (p["bias_ih"] + p["bias_hh"])


def _input_bias(p: Any, x: Any) -> Any:
    return x @ p["weight_ih"] + p["bias_ih"]


def _elman(p: Any, state: Any, xs: Any) -> Any:
    h = tanh(xs + state[0] @ p["weight_hh"])
    return (h,), h


def _gru(p: Any, state: Any, xs: Any) -> Any:
    (h,) = state
    x_r, x_z, x_n = jnp.split(xs, 3, -1)
    h_r, h_z, h_n = jnp.split(h @ p["weight_hh"] + p["bias_hh"], 3, -1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = tanh(x_n + r * h_n)
    h = (1 - z) * n + z * h
    return (h,), h


def _gru_reset_before(p: Any, state: Any, xs: Any) -> Any:
    (h,) = state
    H = h.shape[-1]
    W = p["weight_hh"]
    r, z = jnp.split(sigmoid(xs[:, : 2 * H] + h @ W[:, : 2 * H]), 2, -1)
    n = tanh(xs[:, 2 * H :] + (r * h) @ W[:, 2 * H :])
    h = (1 - z) * n + z * h
    return (h,), h


def _lstm(p: Any, state: Any, xs: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(xs + h @ p["weight_hh"], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return (h, c), h


def _lstm_peephole(p: Any, state: Any, xs: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(xs + h @ p["weight_hh"], 4, -1)
    i, f = sigmoid(i + p["peep_i"] * c), sigmoid(f + p["peep_f"] * c)
    c = f * c + i * tanh(g)
    h = sigmoid(o + p["peep_o"] * c) * tanh(c)
    return (h, c), h


def _norm(z: Any, gain: Any, bias: Any) -> Any:
    mean = z.mean(-1, keepdims=True)
    variance = jnp.square(z - mean).mean(-1, keepdims=True)
    return gain * (z - mean) * jax.lax.rsqrt(variance + 1e-5) + bias


def _normed_input(p: Any, x: Any) -> Any:
    return _norm(x @ p["weight_ih"], p["gain_ih"], p["bias_ih"])


def _lstm_layer_norm(p: Any, state: Any, xs: Any) -> Any:
    h, c = state
    z = xs + _norm(h @ p["weight_hh"], p["gain_hh"], p["bias_hh"])
    i, f, g, o = jnp.split(z, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(_norm(c, p["gain_c"], p["bias_c"]))
    return (h, c), h


def _indrnn(p: Any, state: Any, xs: Any) -> Any:
    h = jax.nn.relu(xs + p["weight_hh"] * state[0])
    return (h,), h


def _mingru_input(p: Any, x: Any) -> Any:
    z, n = jnp.split(_input_bias(p, x), 2, -1)
    z = sigmoid(z)
    return 1 - z, z * n


def _mingru(p: Any, state: Any, xs: Any) -> Any:
    h = xs[0] * state[0] + xs[1]
    return (h,), h


def _own_input(p: Any, x: Any) -> Any:
    return x @ p["W.weight"] + p["W.bias"]


def _own(p: Any, state: Any, xs: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(xs + h @ p["R.weight"], 4, -1)
    c = sigmoid(f + p["p"] * c) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * c / jnp.sqrt(1 + c * c)
    return (h, c), h


def _cat_input(p: Any, x: Any) -> Any:
    return x @ p["gates.weight"][: x.shape[-1]] + p["gates.bias"]


def _cat(p: Any, state: Any, xs: Any) -> Any:
    (h,) = state
    z, n = jnp.split(xs + h @ p["gates.weight"][-h.shape[-1] :], 2, -1)
    h = h + sigmoid(z) * (tanh(n) - h)
    return (h,), h


CELLS = {
    "elman": (_linear, _elman),
    "gru": (_input_bias, _gru),
    "gru_reset_before": (_linear, _gru_reset_before),
    "lstm": (_linear, _lstm),
    "lstm_peephole": (_linear, _lstm_peephole),
    "lstm_layer_norm": (_normed_input, _lstm_layer_norm),
    "indrnn": (_input_bias, _indrnn),
    "mingru": (_mingru_input, _mingru),
    "own": (_own_input, _own),
    "cat": (_cat_input, _cat),
}
