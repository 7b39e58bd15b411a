"""What stays Keras's: graphs, saving, wrappers, state, compiling; and taking over a model."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import torch

import ostinato.keras
from helpers import assert_close
from ostinato.keras import GRU, LSTM, RNN, SimpleRNN, accelerate, restore

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ["SimpleRNN", "LSTM", "GRU"]


def build(layers: Any, **options: Any) -> Any:
    """A model with each kind of layer, bare and wrapped."""
    keras.utils.clear_session()  # names are numbered
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 4))
    x = layers.SimpleRNN(5, return_sequences=True, **options)(inputs)
    wrapped = layers.LSTM(3, return_sequences=True, **options)
    x = keras.layers.Bidirectional(wrapped)(x)
    x = layers.RNN(keras.layers.GRUCell(4, dtype=options.get("dtype")), return_sequences=True)(x)
    x = keras.layers.TimeDistributed(keras.layers.Dense(3))(x)
    x, state = layers.GRU(5, return_state=True, **options)(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()([x, state])))


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return (
        draw.standard_normal((8, 6, 4)).astype("float32"),
        draw.standard_normal((8, 2)).astype("float32"),
    )


def same(got: Any, want: Any, what: str = "", times: float = 1.0) -> None:
    assert_close(torch.as_tensor(got), torch.as_tensor(want), what=what, times=times)


# ---- graphs


def test_a_whole_model_gives_and_learns_the_same(data: Any) -> None:
    histories = []
    models = [build(layers) for layers in (keras.layers, ostinato.keras)]
    same(models[1].predict(data[0], verbose=0), models[0].predict(data[0], verbose=0))
    for model in models:
        model.compile("sgd", "mse")
        keras.utils.set_random_seed(1)
        histories.append(model.fit(*data, epochs=4, batch_size=4, verbose=0).history["loss"])
    assert histories[1] == pytest.approx(histories[0], rel=1e-5)


class Wrapping(keras.layers.Layer):
    """Its shape is not known but by calling it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def call(self, x: Any, mask: Any = None) -> Any:
        return self.layer(x, mask=mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("all_outputs", [False, True])
def test_symbolic_calls_run_no_engine(
    monkeypatch: pytest.MonkeyPatch, kind: str, all_outputs: bool
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the engine ran")

    options = {"return_sequences": all_outputs, "return_state": True}
    cell = getattr(keras.layers, f"{kind}Cell")
    layer = getattr(ostinato.keras, kind)(5, **options)
    theirs = getattr(keras.layers, kind)(5, **options)
    monkeypatch.setattr("ostinato.keras.loop.recurrence", never)
    for shape in ((None, 4), (6, 4)):
        inputs = keras.Input(shape)
        want = [t.shape for t in theirs(inputs)]
        assert [t.shape for t in layer(inputs)] == want
        assert [t.shape for t in Wrapping(layer)(inputs)] == want
        assert [t.shape for t in Wrapping(RNN(cell(5), **options))(inputs)] == want


def test_configurations_make_the_same_layer() -> None:
    layers = [
        SimpleRNN(5, activation="relu", dropout=0.1, go_backwards=True),
        LSTM(5, unit_forget_bias=False, recurrent_dropout=0.2, seed=4, return_state=True),
        GRU(5, reset_after=False, kernel_regularizer="l2", stateful=True),
        RNN(keras.layers.StackedRNNCells([keras.layers.GRUCell(3)]), zero_output_for_mask=True),
    ]
    for layer in layers:
        config = layer.get_config()
        again = type(layer).from_config(copy.deepcopy(config))
        assert again.get_config() == config
        serialised = keras.saving.serialize_keras_object(layer)
        assert serialised["registered_name"] == f"ostinato>{type(layer).__name__}"
        assert type(keras.saving.deserialize_keras_object(serialised)) is type(layer)
        theirs = getattr(keras.layers, type(layer).__name__).from_config(copy.deepcopy(config))
        assert theirs.get_config() == config


# ---- saving


def test_saved_models_open_again(tmp_path: Path, data: Any) -> None:
    model = build(ostinato.keras)
    model.save(tmp_path / "ours.keras")
    again = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(again.layers[1]) is SimpleRNN
    assert type(again.layers[2].forward_layer) is LSTM
    same(again.predict(data[0], verbose=0), model.predict(data[0], verbose=0))


def test_keras_files_go_both_ways(tmp_path: Path, data: Any) -> None:
    theirs = build(keras.layers)
    want = theirs.predict(data[0], verbose=0)
    theirs.save(tmp_path / "theirs.keras")
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    # Theirs into ours: the model taken over, or the weights alone, from either kind of file.
    taken = keras.saving.load_model(tmp_path / "theirs.keras")
    assert len(accelerate(taken).replaced) == 5
    same(taken.predict(data[0], verbose=0), want)
    for name in ("theirs.keras", "theirs.weights.h5"):
        ours = build(ostinato.keras)
        ours.set_weights([0 * w for w in ours.get_weights()])
        ours.load_weights(tmp_path / name)
        same(ours.predict(data[0], verbose=0), want)
    # Ours into theirs: weights, the whole file with Keras's classes, or given back before saving.
    ours.save(tmp_path / "ours.keras")
    ours.save_weights(tmp_path / "ours.weights.h5")
    for name in ("ours.keras", "ours.weights.h5"):
        theirs.set_weights([0 * w for w in theirs.get_weights()])
        theirs.load_weights(tmp_path / name)
        same(theirs.predict(data[0], verbose=0), want)
    assert len(restore(ours).replaced) == 5
    ours.save(tmp_path / "given_back.keras")
    opened = keras.saving.load_model(tmp_path / "given_back.keras")
    assert type(opened.layers[1]) is keras.layers.SimpleRNN
    same(opened.predict(data[0], verbose=0), want)


OPEN_AS_KERAS = """
import sys
import keras, numpy as np
names = ("SimpleRNN", "LSTM", "GRU", "RNN")
model = keras.saving.load_model(
    "ours.keras", custom_objects={f"ostinato>{name}": getattr(keras.layers, name) for name in names}
)
assert not any(name.startswith("ostinato") for name in sys.modules)
assert type(model.layers[1]) is keras.layers.SimpleRNN
np.save("out.npy", model.predict(np.load("in.npy"), verbose=0))
"""


@pytest.mark.slow
def test_our_files_open_without_us(tmp_path: Path, data: Any) -> None:
    model = build(ostinato.keras)
    model.save(tmp_path / "ours.keras")
    np.save(tmp_path / "in.npy", data[0])
    subprocess.run([sys.executable, "-c", OPEN_AS_KERAS], cwd=tmp_path, check=True)
    same(np.load(tmp_path / "out.npy"), model.predict(data[0], verbose=0))


def test_weights_are_named_and_ordered_as_keras_does() -> None:
    theirs, ours = build(keras.layers), build(ostinato.keras)

    def described(model: Any) -> list[tuple[str, Any]]:
        return [(w.path.split("/", 1)[1], w.shape) for w in model.weights]

    assert described(ours) == described(theirs)


def test_copies(data: Any) -> None:
    model = build(ostinato.keras)
    want = model.predict(data[0], verbose=0)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    again = pickle.loads(pickle.dumps(model))
    for twin in (clone, again):
        assert type(twin.layers[1]) is SimpleRNN
        same(twin.predict(data[0], verbose=0), want)


# ---- state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"go_backwards": True, "return_sequences": True}])
def test_stateful(sequences: Any, kind: str, options: dict[str, Any]) -> None:
    results = []
    x = sequences(3, 12, 4, dtype=torch.float32)
    for layers in (keras.layers, ostinato.keras):
        keras.utils.set_random_seed(1)
        layer = getattr(layers, kind)(5, stateful=True, **options)
        if layers is keras.layers:
            layer.use_cudnn = False  # else Keras writes over states that its backward still needs
        first, second = layer(x[:, :6]), layer(x[:, 6:])
        (first.sum() + second.sum()).backward()
        grads = [w.value.grad for w in layer.trainable_weights]
        states = [s.value.clone() for s in layer.states]
        assert all(s.any() for s in states)
        layer.reset_state()
        assert not any(s.value.any() for s in layer.states)
        results.append([first, second, layer(x[:, :6]), *states, *grads])
    assert_close(results[1], results[0], kind="gradient", what="results")
    assert torch.equal(results[1][0], results[1][2])


def test_stateful_is_one_long_sequence(sequences: Any) -> None:
    layer = LSTM(5, stateful=True)
    x = sequences(3, 12, 4, dtype=torch.float32)
    layer(x[:, :7])
    in_parts = layer(x[:, 7:])
    layer.reset_state()
    assert_close(in_parts, layer(x), what="last output")
    with pytest.raises(ValueError, match="batch size"):
        layer(x[:2])


def test_initial_state_from_another_layer(data: Any) -> None:
    """Encoder and decoder, as a functional model."""
    outputs = []
    for layers in (keras.layers, ostinato.keras):
        keras.utils.set_random_seed(1)
        inputs, targets = keras.Input((None, 4)), keras.Input((None, 4))
        _, *state = layers.LSTM(5, return_state=True)(inputs)
        decoded = layers.LSTM(5, return_sequences=True)(targets, initial_state=state)
        model = keras.Model([inputs, targets], keras.layers.Dense(2)(decoded))
        outputs.append(model.predict([data[0], data[0][:, :3]], verbose=0))
    same(outputs[1], outputs[0])


# ---- compiling and exporting


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:The .grad attribute")
def test_jit_compile(monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    # All of the compiler but the generation of C++, which takes long and sees no layer.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    losses = []
    for jit in (False, True):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6, 4)), LSTM(5), keras.layers.Dense(2)])
        model.compile("sgd", "mse", jit_compile=jit)
        losses.append(model.fit(*data, epochs=2, batch_size=8, verbose=0).history["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_run_eagerly(data: Any) -> None:
    model = build(ostinato.keras)
    model.compile("adam", "mse", run_eagerly=True)
    assert len(model.fit(*data, epochs=2, verbose=0).history["loss"]) == 2


def test_exported_graphs_hold_keras_own_loop(sequences: Any) -> None:
    layer = GRU(5)
    x = sequences(2, 3, 4, dtype=torch.float32)
    want = layer(x)
    exported = torch.export.export(layer, (x,), strict=False).module()
    assert_close(exported(x), want, what="exported")


# ---- taking over a model


def test_accelerate_changes_nothing_but_the_loop(data: Any) -> None:
    model = build(keras.layers)
    model.compile("adam", "mse")
    model.fit(*data, verbose=0)
    twin = build(keras.layers)
    twin.compile("adam", "mse")
    twin.fit(*data, verbose=0)
    weights = [id(w) for w in model.weights]
    report = accelerate(model)
    assert len(report.replaced) == len(report) == 5
    assert "5 of 5 recurrent modules replaced" in str(report)
    assert [id(w) for w in model.weights] == weights
    assert {type(layer).__module__ for layer in model._flatten_layers() if "rnn" in layer.name}
    losses = [m.fit(*data, epochs=3, verbose=0).history["loss"] for m in (model, twin)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not accelerate(model).replaced
    assert len(restore(model).replaced) == 5
    assert type(model.layers[1]) is keras.layers.SimpleRNN
    assert not restore(model).replaced


class Own(keras.layers.LSTM):
    """A subclass."""


def test_accelerate_finds_nested_layers_and_leaves_others_alone() -> None:
    inner = keras.Sequential([keras.Input((6, 4)), keras.layers.GRU(3, return_sequences=True)])
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            inner,
            Own(3, return_sequences=True),
            keras.layers.LSTM(3, return_sequences=True, dtype="mixed_bfloat16"),
            keras.layers.Bidirectional(keras.layers.SimpleRNN(3)),
        ]
    )
    report = accelerate(model)
    assert type(inner.layers[0]) is GRU
    assert type(model.layers[-1].forward_layer) is type(model.layers[-1].backward_layer)
    assert type(model.layers[-1].forward_layer) is SimpleRNN
    assert [e.replaced for e in report].count(True) == 3
    reasons = {e.kind: e.reason for e in report.left_alone}
    assert "subclass" in reasons["Own"]
    assert "mixed_bfloat16" in reasons["LSTM"]
    layer = keras.layers.LSTM(3)
    assert accelerate(layer).replaced
    assert type(layer) is LSTM
    with pytest.raises(ostinato.InputError, match="expected a Keras model or layer, got LSTM"):
        accelerate(torch.nn.LSTM(3, 3))


def test_taken_over_models_save_as_ours(tmp_path: Path, data: Any) -> None:
    model = build(keras.layers)
    accelerate(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.layers[1]) is SimpleRNN
    same(again.predict(data[0], verbose=0), model.predict(data[0], verbose=0))
