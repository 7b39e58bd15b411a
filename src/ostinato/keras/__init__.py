"""Keras layers on the engine: ``SimpleRNN``, ``LSTM``, ``GRU`` and ``RNN(cell)``.

They are Keras's own layers with another loop over time, for Keras 3 on its torch backend. Change
one import line, or take over a model that is already built with :func:`accelerate`.

    >>> import os
    >>> os.environ["KERAS_BACKEND"] = "torch"  # before the first import of keras
    >>> import keras
    >>> from ostinato.keras import LSTM
    >>> model = keras.Sequential([keras.Input((7, 3)), LSTM(5), keras.layers.Dense(1)])
    >>> model.count_params()
    186
"""

from __future__ import annotations

from ostinato.keras.backend import require_torch_backend

require_torch_backend()

from ostinato.keras.acceleration import accelerate as accelerate  # noqa: E402
from ostinato.keras.acceleration import restore as restore  # noqa: E402
from ostinato.keras.layers import GRU as GRU  # noqa: E402
from ostinato.keras.layers import LSTM as LSTM  # noqa: E402
from ostinato.keras.layers import RNN as RNN  # noqa: E402
from ostinato.keras.layers import SimpleRNN as SimpleRNN  # noqa: E402
from ostinato.keras.recorded import RecordedSteps as RecordedSteps  # noqa: E402

__all__ = ["GRU", "LSTM", "RNN", "RecordedSteps", "SimpleRNN", "accelerate", "restore"]
