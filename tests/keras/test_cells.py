"""``RNN(cell)``: Keras's cells, stacks of them, cells of one's own, and those that are refused."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import pytest
import torch
from keras import ops

import ostinato
from helpers import assert_close
from ostinato.keras import RNN, SimpleRNN
from ostinato.keras.adapter import KerasCell
from ostinato.keras.loop import own_step

CELLS = ["SimpleRNNCell", "LSTMCell", "GRUCell"]


@keras.saving.register_keras_serializable(package="tests")
class MinimalRNNCell(keras.layers.Layer):
    """The cell of Keras's guide to writing one."""

    def __init__(self, units: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.units = units
        self.state_size = units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), initializer="uniform", name="recurrent_kernel"
        )

    def call(self, inputs: Any, states: Any) -> Any:
        prev_output = states[0]
        h = ops.matmul(inputs, self.kernel)
        output = h + ops.matmul(prev_output, self.recurrent_kernel)
        return output, [output]

    def get_config(self) -> Any:
        return {**super().get_config(), "units": self.units}


class Highway(keras.layers.Layer):
    """Layers inside, a norm, two states of different widths, a nested input shape, ``training``."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = [4, 3]
        self.output_size = 5
        self.scale = 0.5
        self.new = keras.layers.Dense(4, activation="tanh")
        self.gate = keras.layers.Dense(4, activation="sigmoid")
        self.norm = keras.layers.LayerNormalization()
        self.out = keras.layers.Dense(5)

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1] * input_shape[-2]
        for layer, size in ((self.new, width + 4), (self.gate, width + 4), (self.out, 7)):
            layer.build((None, size))
        self.norm.build((None, 4))

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h, slow = states
        flat = ops.concatenate([ops.reshape(inputs, (-1, 6)), h], -1)
        z = self.gate(flat)
        h = self.norm(z * self.new(flat) + (1 - z) * h)
        slow = self.scale * slow + h[:, :3] * (2.0 if training else 1.0)
        return self.out(ops.concatenate([h, slow], -1)), [h, slow]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_keras_own_cells(pair: Any, sequences: Any, name: str, rate: float) -> None:
    def make(layers: Any) -> Any:
        cell = getattr(keras.layers, name)(
            5, dropout=rate, recurrent_dropout=rate, seed=2, dtype="float64"
        )
        assert own_step(cell) is not None
        return layers.RNN(cell, return_sequences=True, return_state=True, dtype="float64")

    pair(make, (3, 6, 4)).check(sequences(3, 6, 4), training=True)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("training", [False, True])
def test_stacked_cells(pair: Any, sequences: Any, rate: float, training: bool) -> None:
    def make(layers: Any) -> Any:
        cells = [
            getattr(keras.layers, name)(
                5 - k, dropout=rate, recurrent_dropout=rate / 2, seed=k, name=f"cell{k}"
            )
            for k, name in enumerate(CELLS)
        ]
        return layers.RNN(keras.layers.StackedRNNCells(cells), return_state=True)

    both = pair(make, (3, 6, 4))
    x = sequences(3, 6, 4, dtype=torch.float32)
    both.check(x, training=training)
    both.check(x, training=training, mask=torch.tensor([[True, False] * 3] * 3))


def test_a_list_of_cells_is_a_stack(sequences: Any) -> None:
    layer = RNN([keras.layers.GRUCell(4), MinimalRNNCell(3)])
    assert tuple(layer(sequences(2, 6, 4, dtype=torch.float32)).shape) == (2, 3)


@pytest.mark.parametrize("training", [False, True])
def test_cells_of_ones_own(pair: Any, sequences: Any, training: bool) -> None:
    both = pair(lambda layers: layers.RNN(MinimalRNNCell(5), return_sequences=True), (3, 6, 4))
    both.check(sequences(3, 6, 4, dtype=torch.float32), training=training)

    def make(layers: Any) -> Any:
        return layers.RNN(Highway(), return_sequences=True, return_state=True, go_backwards=True)

    both = pair(make, (3, 6, 2, 3))
    x = sequences(3, 6, 2, 3, dtype=torch.float32)
    # The norm divides by small deviations: more rounding than the table is made for.
    both.check(x, training=training, times=5)
    both.check(x, training=training, mask=torch.tensor([[True, False, True] * 2] * 3), times=5)


def test_a_changed_attribute_is_noticed(sequences: Any) -> None:
    cell = Highway()
    ours, theirs = RNN(cell), keras.layers.RNN(cell)
    x = sequences(3, 6, 2, 3, dtype=torch.float32)
    # The norm divides by small deviations: more rounding than the table is made for.
    assert_close(ours(x), theirs(x), what="before", times=5)
    cell.scale = 0.1
    assert_close(ours(x), theirs(x), what="after", times=5)


class Captures(keras.layers.Layer):
    """A plain tensor, a fixed index in a variable, a function that has captured a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = 3
        self.scale = torch.tensor([1.0, 2.0, 3.0])
        captured = self.captured = torch.tensor(0.5)
        self.function = lambda z: z * captured

    def build(self, input_shape: Any) -> None:
        self.order = self.add_weight(
            shape=(3,), dtype="int64", trainable=False, initializer="zeros", name="order"
        )
        self.order.assign([2, 0, 1])

    def call(self, inputs: Any, states: Any) -> Any:
        h = ops.take(inputs, self.order, axis=1) * self.scale + self.function(states[0])
        return h, [h]


def test_changed_tensors_are_noticed(sequences: Any) -> None:
    cell = Captures()
    ours, theirs = RNN(cell), keras.layers.RNN(cell)
    x = sequences(2, 6, 3, dtype=torch.float32)
    assert_close(ours(x), theirs(x), what="as made")
    cell.scale = torch.tensor([3.0, 2.0, 1.0])
    assert_close(ours(x), theirs(x), what="another tensor")
    cell.scale[0] = 7.0
    assert_close(ours(x), theirs(x), what="another value")
    cell.order.assign([1, 1, 0])
    assert_close(ours(x), theirs(x), what="another index")
    cell.captured.fill_(0.25)
    assert_close(ours(x), theirs(x), what="another value captured")


def test_a_captured_tensor_of_an_activation(sequences: Any) -> None:
    scale = torch.tensor(0.5)
    ours = SimpleRNN(5, activation=lambda z: torch.sin(z) * scale)
    x = sequences(2, 6, 3, dtype=torch.float32)
    theirs = keras.layers.RNN(ours.cell)
    assert_close(ours(x), theirs(x), what="as made")
    scale.fill_(0.25)
    assert_close(ours(x), theirs(x), what="after")


def test_nothing_is_kept_alive(sequences: Any) -> None:
    for make in (lambda: SimpleRNN(5, recurrent_dropout=0.5), lambda: RNN(Highway())):
        layer = make()
        x = sequences(3, 6, 2, 3, dtype=torch.float32)
        layer(x if isinstance(layer.cell, Highway) else x.flatten(2), training=True)
        alive = weakref.ref(layer), weakref.ref(layer.cell)
        del layer
        gc.collect()
        gc.collect()  # the cell is in a cycle of its own, which the layer held
        assert [r() for r in alive] == [None, None]


def test_frozen_and_assigned_weights(sequences: Any) -> None:
    layer = RNN(MinimalRNNCell(5))
    x = sequences(3, 6, 4, dtype=torch.float32)
    layer(x)
    layer.cell.kernel.trainable = False
    y = layer(x)
    y.sum().backward()
    assert layer.cell.kernel.value.grad is None
    assert layer.cell.recurrent_kernel.value.grad is not None
    layer.set_weights([0 * w for w in layer.get_weights()])
    assert not layer(x).any()


def test_the_scope_of_a_stateless_call_counts(sequences: Any) -> None:
    x = sequences(3, 6, 4, dtype=torch.float32)
    for layer in (SimpleRNN(5), RNN(MinimalRNNCell(5))):
        y = layer(x)
        values = [2 * v.value.detach() for v in layer.trainable_variables]
        others = [v.value for v in layer.non_trainable_variables]
        doubled, _ = layer.stateless_call(values, others, x)
        assert torch.equal(layer(x), y)
        layer.set_weights([2 * w for w in layer.get_weights()])
        assert_close(doubled, layer(x), what="stateless call")


class Refused(keras.layers.Layer):
    """What is given as ``what`` to an otherwise plain cell."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.state_size = 4
        self.what = what
        self.norm = keras.layers.BatchNormalization()

    def build(self, input_shape: Any) -> None:
        self.norm.build(input_shape)

    def call(self, inputs: Any, states: Any) -> Any:
        h = self.what(self, inputs) + states[0]
        return h, [h]


def test_cells_that_cant_be_traced_are_refused(sequences: Any) -> None:
    x = sequences(3, 6, 4, dtype=torch.float32)
    refusals = {
        r"test_cells.py:\d+: .* makes a Python value": lambda cell, z: z if z.sum() > 0 else -z,
        r"random": lambda cell, z: z + torch.rand_like(z),
        r"test_cells.py:\d+: mean .* mixes its rows": lambda cell, z: z - ops.mean(z, 0),
        r"changes one of its variables|mixes its rows": lambda cell, z: cell.norm(z, training=True),
    }
    for message, what in refusals.items():
        layer = RNN(Refused(what), name="mine")
        with pytest.raises(ostinato.TraceError, match=message) as caught:
            layer(x)
        assert "RNN 'mine': the cell can't be traced" in str(caught.value)
        assert "keras.layers.RNN" in str(caught.value)
        assert "engine=" not in str(caught.value)
        assert str(caught.value).count("Exception encountered") == 1, "Keras's own note, once"


def test_losses_inside_a_cell_are_refused(sequences: Any) -> None:
    layer = RNN(keras.layers.StackedRNNCells([keras.layers.GRUCell(4, activity_regularizer="l2")]))
    with pytest.raises(ostinato.TraceError, match=r"GRUCell .* has an activity_regularizer"):
        layer(sequences(3, 6, 4, dtype=torch.float32))


def test_other_cells_are_float32_only(sequences: Any) -> None:
    layer = RNN(MinimalRNNCell(4, dtype="float64"), dtype="float64")
    with pytest.raises(ostinato.InputError, match="run in float32 only"):
        layer(sequences(3, 6, 4))


def test_a_step_leaves_the_cell_as_it_was() -> None:
    cell = keras.layers.LSTMCell(4, dropout=0.5, recurrent_dropout=0.5, seed=1)
    cell.build((None, 3))
    step = KerasCell(cell, (3,), training=False, masks=[])
    seed = cell.seed_generator.state.numpy().tolist()
    step(torch.zeros(2, 3), (torch.zeros(2, 4), torch.zeros(2, 4)))
    assert cell._dropout_mask is None
    assert cell.seed_generator.state.numpy().tolist() == seed
