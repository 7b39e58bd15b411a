"""Keras: ``train_on_batch`` of a model of one recurrent layer, on the backend that is set.

Mode ``fit`` is in ``keras_fit.py``.

The backend belongs to the process, so that these contestants run in one of their own
(``benchmarks/remote.py``), which sets ``KERAS_BACKEND`` before anything is imported.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch

from benchmarks.case import LEARNING_RATE, Case, Results
from benchmarks.peers import Runner, UnsupportedError, keras_fit

#: Cell -> (layer, where its gates stand among ours). Keras: LSTM i f c o as ours, GRU z r h.
LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "elman": ("SimpleRNN", (0,)),
    "gru": ("GRU", (1, 0, 2)),
    "lstm": ("LSTM", (0, 1, 2, 3)),
}


def prepare(case: Case) -> Runner:
    problem = case.problem
    if problem.mode == "fit":
        return keras_fit.runner(case, keras.layers)
    if problem.mode != "step":
        raise UnsupportedError("Keras runs whole training steps")
    if problem.cell not in LAYERS:
        raise UnsupportedError(f"Keras has no {problem.cell}")
    name, _ = LAYERS[problem.cell]
    layer = getattr(keras.layers, name)(problem.H, return_sequences=True)
    model = keras.Sequential([keras.Input((problem.T, problem.I)), layer])
    layer.set_weights(weights(case))
    before = [np.array(w) for w in layer.get_weights()]
    model.compile(optimizer=keras.optimizers.SGD(LEARNING_RATE), loss="mse")
    x = case.x.transpose(0, 1).contiguous().numpy()
    target = case.target.transpose(0, 1).contiguous().numpy()

    def call() -> Any:
        # The loss comes back as a number, so the step is done.
        return float(model.train_on_batch(x, target))

    def collect(loss: float) -> Results:
        updates = [np.array(w) - b for w, b in zip(layer.get_weights(), before, strict=True)]
        return {"loss": torch.tensor([loss]), **named_updates(case, updates)}

    return Runner(call, collect)


def weights(case: Case) -> list[np.ndarray]:
    """The case's parameters as the Keras layer's weights: kernel, recurrent kernel, bias."""
    name, gates = LAYERS[case.problem.cell]
    H = case.problem.H
    own = {n: value.numpy() for n, value in case.parameters().items()}

    def ordered(value: np.ndarray) -> np.ndarray:
        return np.concatenate([value[g * H : (g + 1) * H] for g in gates])

    if name == "GRU":
        bias = np.stack([ordered(own["bias_ih"]), ordered(own["bias_hh"])])
    else:
        bias = ordered(own["bias_ih"] + own["bias_hh"])
    return [ordered(own["weight_ih"]).T, ordered(own["weight_hh"]).T, bias]


def named_updates(case: Case, updates: list[np.ndarray]) -> Results:
    """Changes of the Keras layer's weights by the names of the case's parameters."""
    name, gates = LAYERS[case.problem.cell]

    def back(value: np.ndarray) -> torch.Tensor:
        parts = np.split(value, len(gates))
        return torch.from_numpy(np.concatenate([parts[gates.index(g)] for g in sorted(gates)]))

    b_ih, b_hh = updates[2] if name == "GRU" else (updates[2], updates[2])
    return {
        "update weight_ih": back(updates[0].T),
        "update weight_hh": back(updates[1].T),
        "update bias_ih": back(b_ih),
        "update bias_hh": back(b_hh),
    }
