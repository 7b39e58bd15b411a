"""Steps that are recorded and played compute what Keras's own steps compute, to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import ostinato
from ostinato.errors import SlowPathError
from ostinato.keras import GRU, LSTM, RecordedSteps, SimpleRNN, recorded
from ostinato.keras.played import simplify
from ostinato.keras.recorded_loop import is_recording

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T, I, H = 5, 3, 4  # noqa: E741
LAYERS = {"SimpleRNN": SimpleRNN, "LSTM": LSTM, "GRU": GRU}


def sequential(*layers: Any, shape: tuple[int, ...] = (T, I)) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


def compiled(model: Any, optimizer: Any = "adam", loss: Any = "mse", **options: Any) -> Any:
    model.compile(optimizer, loss, **options)
    return model


def plain_model() -> Any:
    return compiled(sequential(LSTM(H), keras.layers.Dense(1)), metrics=["mae"])


def rows(number: int = 16) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((number, T, I)).astype("float32")
    return x, x[:, -1:, 0] + 0.5 * x[:, :1, 1]


def fit(model: Any, callbacks: list[Any], data: Any = None, **options: Any) -> dict[str, Any]:
    """In batches of 8."""
    x, y = rows() if data is None else data
    options = {"epochs": 2, "batch_size": 8, "verbose": 0, **options}
    found: dict[str, Any] = model.fit(x, y, callbacks=callbacks, **options).history
    return found


def variables(model: Any) -> list[np.ndarray]:
    every = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(v).copy() for v in every]


def shapes_recorded(callback: RecordedSteps) -> int:
    assert callback._steps is not None
    return sum(found is not None for found in callback._steps.recorded.values())


def check(make: Callable[[], Any], use: Any = fit, shapes: int = 1) -> Any:
    """``use(model, callbacks)`` with and without the callback: everything equal; the model."""
    results, models = [], []
    callback = RecordedSteps()
    for callbacks in ([], [callback]):
        keras.utils.set_random_seed(5)
        model = make()
        results.append((use(model, callbacks), variables(model)))
        models.append(model)
    (want, want_variables), (got, got_variables) = results
    assert got == want
    for a, b in zip(got_variables, want_variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert shapes_recorded(callback) == shapes
    assert not isinstance(models[1].train_function, recorded.Steps)
    return models[1]


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipvalue=0.1),
    "adam": lambda: keras.optimizers.Adam(0.02),
    "clipped": lambda: keras.optimizers.Adam(0.02, clipnorm=0.1, weight_decay=0.01, amsgrad=True),
    "globally clipped": lambda: keras.optimizers.AdamW(0.02, global_clipnorm=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.02, momentum=0.5, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.02),
    "averaged": lambda: keras.optimizers.Adam(0.02, use_ema=True),
}


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("SimpleRNN", "clipped"), ("LSTM", "sgd"), ("GRU", "adam")]
)
def test_layers(kind: str, optimizer: str) -> None:
    """Batches of 8, 8 and 6, weighted."""
    weight = np.random.default_rng(1).uniform(size=22).astype("float32")

    def make() -> Any:
        model = sequential(LAYERS[kind](H), keras.layers.Dense(1))
        return compiled(model, OPTIMIZERS[optimizer](), metrics=["mae"], weighted_metrics=["mse"])

    def use(model: Any, callbacks: list[Any]) -> Any:
        return fit(model, callbacks, rows(22), sample_weight=weight, epochs=3)

    check(make, use, shapes=2)


@pytest.mark.parametrize(
    "optimizer", [o for o in OPTIMIZERS if o not in ("sgd", "clipped", "adam")]
)
def test_optimizers(optimizer: str) -> None:
    check(lambda: compiled(sequential(GRU(H), keras.layers.Dense(1)), OPTIMIZERS[optimizer]()))


def branched() -> Any:
    """Two outputs, regularisers, constraints, normalisation, wrappers."""
    a = keras.Input((T, I))
    l2 = keras.regularizers.L2(0.01)
    y = LSTM(H, return_sequences=True, kernel_regularizer=l2, activity_regularizer=l2)(a)
    y = keras.layers.BatchNormalization()(y)
    y, state = GRU(H, return_state=True, return_sequences=True, go_backwards=True)(y)
    y = keras.layers.Bidirectional(SimpleRNN(H, kernel_constraint="max_norm"))(y)
    one, two = keras.layers.Dense(1, name="one")(y), keras.layers.Dense(1, name="two")(state)
    losses = {"one": "mse", "two": keras.losses.Huber()}
    return compiled(keras.Model(a, {"one": one, "two": two}), loss=losses, metrics={"one": "mae"})


def test_a_branched_model() -> None:
    x, y = rows()
    check(branched, lambda model, callbacks: fit(model, callbacks, (x, {"one": y, "two": -y})))


def test_sequences_and_classes() -> None:
    x, _ = rows()
    labels = (x[..., 0] > 0).astype("int64")

    def make() -> Any:
        cells = [keras.layers.LSTMCell(H), keras.layers.GRUCell(H)]
        layer = ostinato.keras.RNN(keras.layers.StackedRNNCells(cells), return_sequences=True)
        model = sequential(layer, keras.layers.Dense(2, activation="softmax"))
        return compiled(model, loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    check(make, lambda model, callbacks: fit(model, callbacks, (x, labels)))


def test_dropout_draws_anew_in_every_step() -> None:
    def make() -> Any:
        below = LSTM(H, dropout=0.3, recurrent_dropout=0.2, return_sequences=True)
        layers = (below, GRU(H, recurrent_dropout=0.2), keras.layers.Dropout(0.5), dense())
        return compiled(sequential(*layers))

    check(make)


def test_class_weights_validation_and_callbacks() -> None:
    x, y = rows()
    data = (x, (y > 0).astype("float32"))

    def make() -> Any:
        model = sequential(LSTM(H), keras.layers.Dense(1, activation="sigmoid"))
        return compiled(model, loss="binary_crossentropy", metrics=["accuracy"])

    def use(model: Any, callbacks: list[Any]) -> Any:
        stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True, min_delta=0.1)
        options = {"class_weight": {0: 0.3, 1: 2.0}, "validation_data": data, "epochs": 5}
        return fit(model, [stop, *callbacks], data, **options)

    check(make, use)


def test_learning_rates_that_change() -> None:
    def scheduled() -> Any:
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        model = sequential(SimpleRNN(H), keras.layers.Dense(1))
        return compiled(model, keras.optimizers.SGD(rate, momentum=0.5))

    check(scheduled)

    def use(model: Any, callbacks: list[Any]) -> Any:
        change = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / (1 + epoch))
        return fit(model, [change, *callbacks])

    check(plain_model, use)


class Freeze(keras.callbacks.Callback):  # type: ignore[misc]
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].trainable = epoch != 2


def test_what_is_trainable_may_change() -> None:
    model = check(plain_model, lambda m, callbacks: fit(m, [Freeze(), *callbacks], epochs=4))
    assert model.layers[0].trainable


def test_several_fits_and_compiling_anew() -> None:
    def use(model: Any, callbacks: list[Any]) -> Any:
        found = [fit(model, callbacks), fit(model, callbacks)]
        compiled(model, "sgd", "mae")
        found += [fit(model, callbacks), fit(model, []), fit(model, callbacks)]
        return found

    check(plain_model, use)


class Interrupt(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        if self.batches == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("without", [False, True])
def test_an_interrupted_fit(without: bool) -> None:
    def use(model: Any, callbacks: list[Any]) -> Any:
        with pytest.raises(KeyboardInterrupt):
            fit(model, [Interrupt(), *callbacks], epochs=9)
        found = [fit(model, [])] if without else []
        return [*found, fit(model, callbacks)]

    check(plain_model, use)


def test_afterwards_all_is_as_ever(tmp_path: Path) -> None:
    x, y = rows()

    def use(model: Any, callbacks: list[Any]) -> Any:
        history = fit(model, callbacks)
        loss = model.train_on_batch(x, y)
        return history, loss, model.evaluate(x, y, verbose=0), model.predict(x, verbose=0).tolist()

    model = check(plain_model, use)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert fit(again, [RecordedSteps()], shuffle=False) == fit(model, [], shuffle=False)


def test_batches_of_ones_own() -> None:
    """Of tensors, of other lengths and with other strides; no more shapes than that are kept."""

    def batches() -> Any:
        x, y = (torch.from_numpy(part) for part in rows())
        for length in (5, 3, 5, 5, 3, 4, 5):
            yield x[:8, :length], y[:8]
            yield x.transpose(0, 1).contiguous().transpose(0, 1)[:8, :length], y[:8]

    def make() -> Any:
        return compiled(sequential(LSTM(H), keras.layers.Dense(1), shape=(None, I)))

    def use(model: Any, callbacks: list[Any]) -> Any:
        options = {"steps_per_epoch": 14, "shuffle": False, "verbose": 0}
        return model.fit(batches(), callbacks=callbacks, **options).history

    check(make, use, shapes=4)


def test_shapes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST_SHAPES", 1)
    check(plain_model, lambda model, callbacks: fit(model, callbacks, rows(22)))


def test_steps_are_played() -> None:
    """Layers are called while recording, and then no more."""
    calls = []

    class Told(keras.layers.Dense):  # type: ignore[misc]
        def call(self, inputs: Any, training: Any = None) -> Any:
            calls.append(is_recording())
            return super().call(inputs)

    model = compiled(sequential(GRU(H), Told(1)))
    calls.clear()
    fit(model, [RecordedSteps()], epochs=5)
    assert calls.count(True) == 1
    assert calls.count(False) <= 2  # the first step, and to build


# ---- what can't be recorded


class OwnStep(keras.Model):  # type: ignore[misc]
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class Looks(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x + 1 if bool(x.sum() > 0) else x


class Numbers(keras.layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x if x.is_meta else x * float(x.detach().numpy().std())


class Raw(keras.layers.Layer):  # type: ignore[misc]
    """Its parameter is not a variable to Keras."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [torch.nn.Parameter(torch.ones(H))]

    def call(self, x: Any) -> Any:
        return x if x.is_meta else x * self.hidden[0]


def own_step() -> Any:
    inputs = keras.Input((T, I))
    return compiled(OwnStep(inputs, keras.layers.Dense(1)(LSTM(H)(inputs))))


def stateful() -> Any:
    layers = (SimpleRNN(H, stateful=True), dense())
    return compiled(keras.Sequential([keras.Input((T, I), batch_size=8), *layers]))


def masked() -> Any:
    layers = (keras.layers.Masking(), GRU(H), keras.layers.Dense(1))
    return compiled(sequential(*layers))


def with_layers(*layers: Any, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        return compiled(sequential(*[layer() for layer in layers], **options))

    return make


def dense() -> Any:
    return keras.layers.Dense(1)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "own step": (own_step, "own train_step"),
    "eager": (lambda: compiled(sequential(LSTM(H), dense()), run_eagerly=True), "run_eagerly"),
    "noise": (with_layers(lambda: GRU(H), lambda: keras.layers.GaussianNoise(0.5), dense), "Data"),
    "stateful": (stateful, "Fake"),
    "mask": (masked, "mask"),
    "look": (with_layers(lambda: GRU(H), Looks, dense), "Data"),
    "numbers": (with_layers(lambda: GRU(H), Numbers, dense), "numpy"),
    "raw": (with_layers(lambda: GRU(H), Raw, dense), "Fake"),
    "accumulation": (
        lambda: compiled(
            sequential(GRU(H), dense()), keras.optimizers.SGD(gradient_accumulation_steps=2)
        ),
        "Data",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_recorded_runs_as_keras_runs_it(what: str) -> None:
    make, why = REFUSED[what]

    def use(model: Any, callbacks: list[Any]) -> Any:
        if not callbacks:
            return [fit(model, []), fit(model, [])]
        found = []
        for _ in range(2):
            with pytest.warns(UserWarning, match=f"can't be recorded: .*{why}") as told:
                found.append(fit(model, callbacks))
            assert len([w for w in told if w.category is UserWarning]) == 1
        return found

    check(make, use, shapes=0)


def test_compiled_steps_stay_compiled() -> None:
    model = compiled(sequential(LSTM(H), dense()))
    model.jit_compile = True
    with pytest.warns(UserWarning, match="compiled with jit_compile=True"):
        steps = recorded.Steps(model, lambda data: data)
    assert steps("data") == "data"


def test_another_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something of Keras's is gone, its own step goes on."""

    def use(model: Any, callbacks: list[Any]) -> Any:
        if not callbacks:
            return fit(model, [])
        with monkeypatch.context() as patch:
            patch.delattr(keras, "StatelessScope")
            with pytest.warns(UserWarning, match="no attribute 'StatelessScope'"):
                return fit(model, callbacks)

    check(plain_model, use, shapes=0)


def test_strict_mode_refuses_what_is_not_recorded() -> None:
    callback = RecordedSteps()
    for _ in range(2):
        with ostinato.strict(), pytest.raises(SlowPathError, match="has a mask"):
            fit(masked(), [callback])
    with ostinato.strict():
        fit(plain_model(), [callback])
    assert shapes_recorded(callback) == 1


# ---- simplifying


def targets(graph: Any) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_constants_are_computed_once() -> None:
    def step(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        power = torch.tensor(3.0) ** 2
        written = torch.zeros(2)
        written[0] += a[0]
        return a.detach() @ b + power + torch.ones(2).sum() + written.sum()

    a, b = torch.randn(2), torch.randn(2)
    graph: Any = make_fx(step, tracing_mode="fake")(a, b)
    before = len(targets(graph))
    simplify(graph)
    assert len(targets(graph)) < before
    assert not any("pow" in t or "detach" in t or "ones" in t for t in targets(graph))
    for _ in range(2):  # what is written to begins anew
        assert torch.equal(graph(a, b), step(a, b))


def test_random_numbers_are_no_constants() -> None:
    graph: Any = make_fx(lambda a: a + torch.rand(3), tracing_mode="fake")(torch.zeros(3))
    simplify(graph)
    assert any("rand" in t for t in targets(graph))
    assert not torch.equal(graph(torch.zeros(3)), graph(torch.zeros(3)))
