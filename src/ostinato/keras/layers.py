"""Keras's recurrent layers with the engine's loop over time.

Each is Keras's own class: constructor, weights and their order, configuration, masks, states,
dropout, regularisers and everything else are inherited. ``unroll`` and ``use_cudnn`` are accepted;
on the CPU they change nothing, since there is no graph to unroll and no cuDNN.
"""

from __future__ import annotations

from typing import Any

import keras

from ostinato.keras.loop import TimeLoop

_register: Any = keras.saving.register_keras_serializable


@_register(package="ostinato", name="RNN")
class RNN(TimeLoop, keras.layers.RNN):  # type: ignore[misc]  # Keras has no types
    """``keras.layers.RNN``: runs a Keras cell, your own or Keras's, natively.

    The cell is a ``keras.layers.Layer`` with ``call(inputs, states)`` and ``state_size``, or
    ``StackedRNNCells`` of such; it is traced, so it may not branch on data, draw random numbers or
    mix rows of the batch.

    Args: those of ``keras.layers.RNN``.

    Call: ``layer(sequences, initial_state=None, mask=None, training=False)``, ``sequences`` of
    ``(B, T, ...)``.

    Raises:
        TraceError: at the first call, the cell can't be traced.
        InputError: at a call, a shape or the dtype policy isn't supported.
    """


@_register(package="ostinato", name="SimpleRNN")
class SimpleRNN(TimeLoop, keras.layers.SimpleRNN):  # type: ignore[misc]
    r"""``keras.layers.SimpleRNN``, natively.

    .. math:: h_t = a(x_t W + h_{t-1} U + b)

    Args: those of ``keras.layers.SimpleRNN``. Weights: ``kernel`` (I, H), ``recurrent_kernel``
    (H, H), ``bias`` (H,).

    Call: ``layer(sequences, initial_state=None, mask=None, training=False)``, ``sequences`` of
    ``(B, T, I)``.

    Raises:
        TraceError: at the first call, an activation (named) can't be traced.
        InputError: at a call, a shape or the dtype policy isn't supported.
    """


@_register(package="ostinato", name="LSTM")
class LSTM(TimeLoop, keras.layers.LSTM):  # type: ignore[misc]
    r"""``keras.layers.LSTM``, natively.

    .. math::
        i, f, g, o &= x_t W + h_{t-1} U + b \\
        c_t &= s(f) \odot c_{t-1} + s(i) \odot a(g) \qquad h_t = s(o) \odot a(c_t)

    Args: those of ``keras.layers.LSTM``. Weights: ``kernel`` (I, 4H), ``recurrent_kernel`` (H, 4H),
    ``bias`` (4H,).

    Call: ``layer(sequences, initial_state=None, mask=None, training=False)``, ``sequences`` of
    ``(B, T, I)``.

    Raises:
        TraceError: at the first call, an activation (named) can't be traced.
        InputError: at a call, a shape or the dtype policy isn't supported.
    """


@_register(package="ostinato", name="GRU")
class GRU(TimeLoop, keras.layers.GRU):  # type: ignore[misc]
    r"""``keras.layers.GRU``, natively, with the reset after or before the product.

    .. math::
        h_t = z \odot h_{t-1} + (1 - z) \odot a(x_t W_n + b_n + r \odot (h_{t-1} U_n + b'_n))

    Args: those of ``keras.layers.GRU``. Weights: ``kernel`` (I, 3H), ``recurrent_kernel`` (H, 3H),
    ``bias`` (2, 3H), or (3H,) with ``reset_after=False``.

    Call: ``layer(sequences, initial_state=None, mask=None, training=False)``, ``sequences`` of
    ``(B, T, I)``.

    Raises:
        TraceError: at the first call, an activation (named) can't be traced.
        InputError: at a call, a shape or the dtype policy isn't supported.
    """
