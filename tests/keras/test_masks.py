"""Masks of every pattern, against Keras's own loop."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import torch

import ostinato.keras
from helpers import assert_close
from ostinato.keras.masks import valid_steps

ROWS = {
    "right": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]],
    "left": [[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]],
    "holes": [[1, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]],
    "empty rows": [[0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]],
    "nothing": [[0] * 6] * 3,
    "all": [[1] * 6] * 3,
}
CASES = list(itertools.product([False, True], repeat=3))


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("pattern", ROWS)
@pytest.mark.parametrize(("all_outputs", "backwards", "zero"), CASES)
def test_masks(
    pair: Any,
    sequences: Any,
    kind: str,
    pattern: str,
    all_outputs: bool,
    backwards: bool,
    zero: bool,
) -> None:
    def make(layers: Any) -> Any:
        return getattr(layers, kind)(
            5,
            return_sequences=all_outputs,
            return_state=True,
            go_backwards=backwards,
            zero_output_for_mask=zero,
            dtype="float64",
        )

    mask = torch.tensor(ROWS[pattern], dtype=torch.bool)
    x = sequences(3, 6, 4)
    states = [sequences(3, 5) + k for k in range(2 if kind == "LSTM" else 1)]
    pair(make, (3, 6, 4)).check(x, mask=mask, initial_state=states)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("all_outputs", [False, True])
def test_an_output_that_is_no_state(
    pair: Any, sequences: Any, zero: bool, backwards: bool, all_outputs: bool
) -> None:
    class Doubled(keras.layers.SimpleRNNCell):
        def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
            output, states = super().call(inputs, states, training=training)
            return 2 * output + inputs[:, :1], states

    def make(layers: Any) -> Any:
        return layers.RNN(
            Doubled(5),
            return_sequences=all_outputs,
            go_backwards=backwards,
            zero_output_for_mask=zero,
        )

    x = sequences(3, 6, 4, dtype=torch.float32)
    for rows in ROWS.values():
        pair(make, (3, 6, 4)).check(x, mask=torch.tensor(rows).bool())


def test_masked_steps_are_never_looked_at(sequences: Any) -> None:
    layer = ostinato.keras.GRU(5, return_sequences=True, dtype="float64")
    mask = torch.tensor(ROWS["holes"]).bool()
    x = sequences(3, 6, 4)
    spoiled = torch.where(mask.unsqueeze(-1), x, torch.nan).requires_grad_()
    y = layer(spoiled, mask=mask)
    assert_close(y, layer(x, mask=mask), what="outputs")
    y.sum().backward()
    assert spoiled.grad is not None
    assert not spoiled.grad[~mask].any()
    assert not spoiled.grad.isnan().any()


def test_masks_of_other_shapes_and_dtypes(sequences: Any) -> None:
    layer = ostinato.keras.LSTM(5, dtype="float64")
    x = sequences(3, 6, 4)
    mask = torch.tensor(ROWS["holes"])
    want = layer(x, mask=mask.bool())
    assert torch.equal(layer(x, mask=mask), want)
    assert torch.equal(layer(x, mask=mask.bool().unsqueeze(-1)), want)
    assert torch.equal(layer(x, mask=mask.numpy().astype(bool)), want)


def test_right_padding_moves_nothing() -> None:
    valid = valid_steps(torch.tensor(ROWS["right"]).bool(), 3, 6)
    assert valid is not None
    assert valid.order is None
    assert valid.lengths.tolist() == [3, 6, 1]
    assert valid_steps(torch.tensor(ROWS["all"]).bool(), 3, 6) is None
    assert valid_steps(None, 3, 6) is None


def test_masks_travel_through_a_model() -> None:
    """Embedding(mask_zero=True) and Masking, two recurrent layers, Bidirectional."""
    tokens = np.array([[1, 2, 3, 0, 0], [4, 0, 5, 6, 0], [0, 0, 0, 0, 0], [0, 0, 1, 2, 3]])
    outputs = []
    for layers in (keras.layers, ostinato.keras):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [
                keras.Input((5,), dtype="int32"),
                keras.layers.Embedding(7, 3, mask_zero=True),
                layers.GRU(4, return_sequences=True),
                keras.layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
                layers.SimpleRNN(4),
            ]
        )
        outputs.append(torch.tensor(model.predict(tokens, verbose=0)))
    assert_close(outputs[1], outputs[0], what="outputs")
