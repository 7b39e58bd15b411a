"""Mode ``fit``: an epoch of Keras's ``fit`` of a model of one recurrent layer and ``Dense(1)``."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch

from benchmarks.case import FIT_BATCHES, FIT_CHECKED, FIT_RATE, Case, Results
from benchmarks.peers import Runner, UnsupportedError


def runner(case: Case, layers: Any, callbacks: Any = ()) -> Runner:
    """The model of layers from ``layers``, trained with ``callbacks``.

    What is checked comes from the first batches; what is timed is an epoch of all of them, a step's
    share of it.
    """
    from benchmarks.peers.keras_layer import LAYERS, named_updates, weights

    problem = case.problem
    if problem.mode != "fit":
        raise UnsupportedError("written for fit")
    if problem.cell not in LAYERS:
        raise UnsupportedError(f"Keras has no {problem.cell}")
    assert case.head is not None
    layer = getattr(layers, LAYERS[problem.cell][0])(problem.H)
    head = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((problem.T, problem.I)), layer, head])
    layer.set_weights(weights(case))
    head.set_weights([case.head.numpy().T, np.zeros(1, "float32")])
    head.bias.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(FIT_RATE), loss="mse")
    x, target = case.x.transpose(0, 1).contiguous().numpy(), case.target.numpy()

    def fit(batches: int) -> float:
        rows = batches * problem.B
        history = model.fit(
            x[:rows],
            target[:rows],
            batch_size=problem.B,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
        )
        return float(history.history["loss"][0])

    before = [np.array(w) for w in [*layer.get_weights(), head.get_weights()[0]]]
    loss = fit(FIT_CHECKED)
    after = [*layer.get_weights(), head.get_weights()[0]]
    *updates, of_head = [np.array(a) - b for a, b in zip(after, before, strict=True)]
    found: Results = {
        "loss": torch.tensor([loss]),
        **named_updates(case, updates),
        "update head": torch.from_numpy(of_head.T.copy()),
    }
    return Runner(lambda: fit(FIT_BATCHES), lambda _: found, steps=FIT_BATCHES)
