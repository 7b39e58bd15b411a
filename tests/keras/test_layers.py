"""Our layers against Keras's own: results, states and gradients, over the constructor's options."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import pytest
import torch

import ostinato
from ostinato.keras import GRU, LSTM, RNN, SimpleRNN

KINDS = ["SimpleRNN", "LSTM", "GRU"]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("SimpleRNN", {}),
    ("LSTM", {}),
    ("GRU", {"reset_after": True}),
    ("GRU", {"reset_after": False}),
]
IDS = ["SimpleRNN", "LSTM", "GRU, reset after", "GRU, reset before"]
FLAGS = list(itertools.product([False, True], repeat=3))


def maker(kind: str, units: int = 5, **options: Any) -> Any:
    options.setdefault("dtype", "float64")
    return lambda layers: getattr(layers, kind)(units, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sequences_back", "state_back", "backwards"), FLAGS)
def test_what_comes_back(
    pair: Any, sequences: Any, kind: str, sequences_back: bool, state_back: bool, backwards: bool
) -> None:
    make = maker(
        kind,
        return_sequences=sequences_back,
        return_state=state_back,
        go_backwards=backwards,
    )
    both = pair(make, (3, 6, 4))
    both.check(sequences(3, 6, 4))
    states = [sequences(3, 5) + k for k in range(2 if kind == "LSTM" else 1)]
    both.check(sequences(3, 6, 4), initial_state=states)
    both.check(sequences(1, 1, 4))


@pytest.mark.parametrize(("kind", "variant"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bias_reset_and_dtype(
    pair: Any, sequences: Any, kind: str, variant: dict[str, Any], use_bias: bool, dtype: str
) -> None:
    make = maker(kind, **variant, use_bias=use_bias, dtype=dtype, return_sequences=True)
    results = pair(make, (3, 6, 4)).check(sequences(3, 6, 4, dtype=getattr(torch, dtype)))
    assert results[0].dtype == getattr(torch, dtype)


@pytest.mark.parametrize(("kind", "variant"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("implementation", [1, 2])
@pytest.mark.parametrize(
    "rates", [(0.4, 0.0), (0.0, 0.4), (0.3, 0.5)], ids=["input", "state", "both"]
)
def test_dropout_draws_what_keras_draws(
    pair: Any,
    sequences: Any,
    kind: str,
    variant: dict[str, Any],
    implementation: int,
    rates: tuple[float, float],
) -> None:
    options = {**variant, "dropout": rates[0], "recurrent_dropout": rates[1], "seed": 3}
    if kind != "SimpleRNN":
        # Keras's shortcut around its loop can't handle implementation=1.
        options |= {"implementation": implementation, "use_cudnn": False}
    both = pair(maker(kind, return_sequences=True, **options), (3, 6, 4))
    x = sequences(3, 6, 4)
    first, second = (both.check(x, training=True)[0] for _ in range(2))
    assert not torch.equal(first, second), "each call draws anew"
    inference = both.check(x)[0]
    assert torch.equal(inference, both.check(x)[0])
    mask = torch.tensor([[True] * 6, [True, False] * 3, [False] * 6])
    both.check(x, training=True, mask=mask)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_everything(sequences: Any, kind: str) -> None:
    """Rate 1 on the input: the layer hears nothing."""
    layer = getattr(ostinato.keras, kind)(5, dropout=1.0, dtype="float64")
    x = sequences(3, 6, 4)
    assert torch.equal(layer(x, training=True), layer(torch.zeros_like(x)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "activation",
    ["relu", "linear", "softplus", "selu", "gelu", "swish", "hard_sigmoid", "softmax", None],
)
def test_activations(pair: Any, sequences: Any, kind: str, activation: str | None) -> None:
    options: dict[str, Any] = {"activation": activation, "return_sequences": True}
    if kind != "SimpleRNN":
        options["recurrent_activation"] = "hard_sigmoid" if activation == "relu" else "sigmoid"
    # In float32, as PyTorch's own gradient of hardsigmoid is no better in float64. Without a bound
    # the state grows, and its rounding with it.
    both = pair(maker(kind, dtype="float32", **options), (3, 6, 4))
    both.check(sequences(3, 6, 4, dtype=torch.float32), times=10)


def test_activations_of_ones_own(pair: Any, sequences: Any) -> None:
    scale = torch.tensor(0.5, dtype=torch.float64)
    both = pair(maker("LSTM", activation=lambda z: torch.sin(z) * scale), (3, 6, 4))
    both.check(sequences(3, 6, 4))
    make = maker("GRU", activation=keras.layers.LeakyReLU(0.1), dtype="float32")
    pair(make, (3, 6, 4)).check(sequences(3, 6, 4, dtype=torch.float32))
    both = pair(maker("SimpleRNN", activation=keras.ops.tanh), (3, 6, 4))
    both.check(sequences(3, 6, 4))


def branching(z: Any) -> Any:
    return z if z.sum() > 0 else -z


def noisy(z: Any) -> Any:
    return z + torch.rand_like(z)


def test_activations_that_cant_be_traced_are_refused_by_name(sequences: Any) -> None:
    x = sequences(3, 6, 4, dtype=torch.float32)
    with pytest.raises(ostinato.TraceError, match=r"SimpleRNN 'mine': activation=branching can't"):
        SimpleRNN(5, activation=branching, name="mine")(x)
    with pytest.raises(ostinato.TraceError, match=r"recurrent_activation=noisy can't be traced"):
        LSTM(5, recurrent_activation=noisy)(x)
    with pytest.raises(ostinato.TraceError, match=r"activation=branching and recurrent_activation"):
        GRU(5, activation=branching, recurrent_activation=noisy)(x)


def test_a_changed_activation_is_noticed(pair: Any, sequences: Any) -> None:
    both = pair(maker("SimpleRNN"), (3, 6, 4))
    both.check(sequences(3, 6, 4))
    for layer in (both.theirs, both.ours):
        layer.cell.activation = keras.activations.softplus
    both.check(sequences(3, 6, 4))


def test_the_same_seed_gives_the_same_weights() -> None:
    for kind in KINDS:
        weights = []
        for layers in (keras.layers, ostinato.keras):
            keras.utils.set_random_seed(4)
            layer = getattr(layers, kind)(5, bias_initializer="random_normal")
            layer.build((None, 6, 4))
            weights.append([w.numpy() for w in layer.weights])
        for theirs, ours in zip(*weights, strict=True):
            assert (theirs == ours).all()
            assert theirs.any()


def test_unit_forget_bias() -> None:
    for unit in (True, False):
        layer = LSTM(3, unit_forget_bias=unit)
        layer.build((None, 6, 4))
        want = [0] * 3 + [1 if unit else 0] * 3 + [0] * 6
        assert layer.cell.bias.numpy().tolist() == want


@pytest.mark.parametrize("kind", [*KINDS, "RNN"])
def test_constructors_are_keras_own(kind: str) -> None:
    import inspect

    theirs = inspect.signature(getattr(keras.layers, kind).__init__)
    assert inspect.signature(getattr(ostinato.keras, kind).__init__) == theirs


def test_regularisers_and_constraints_hold_in_training(sequences: Any) -> None:
    x = sequences(8, 6, 4, dtype=torch.float32).numpy()
    y = x[:, 0, :1]
    weights, losses = [], []
    for layers in (keras.layers, ostinato.keras):
        keras.utils.set_random_seed(1)
        layer = layers.LSTM(
            5,
            kernel_regularizer="l2",
            recurrent_regularizer=keras.regularizers.L1(0.01),
            bias_regularizer="l2",
            activity_regularizer="l2",
            kernel_constraint="non_neg",
            recurrent_constraint=keras.constraints.MaxNorm(0.5),
            bias_constraint="unit_norm",
        )
        model = keras.Sequential([keras.Input((6, 4)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        losses.append(model.fit(x, y, epochs=3, verbose=0).history["loss"])
        weights.append(layer.get_weights())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for theirs, ours in zip(*weights, strict=True):
        assert abs(theirs - ours).max() < 1e-5
    assert (weights[1][0] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_unroll_and_cudnn_are_accepted(pair: Any, sequences: Any, kind: str) -> None:
    options: dict[str, Any] = {"unroll": True, "return_sequences": True}
    if kind != "SimpleRNN":
        options["use_cudnn"] = True
    pair(maker(kind, **options), (3, 6, 4)).check(sequences(3, 6, 4))


def test_integers_are_cast() -> None:
    x = torch.arange(24).reshape(2, 3, 4)
    layer = LSTM(5)
    assert torch.equal(layer(x), layer(x.float()))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16"])
def test_dtype_policies_that_are_not_supported_say_so(policy: str) -> None:
    with pytest.raises(ostinato.InputError, match=f"dtype policy '{policy}'.*keras.layers.LSTM"):
        LSTM(5, dtype=policy, recurrent_initializer="zeros")(torch.zeros(2, 3, 4))


def test_bad_shapes_are_named() -> None:
    layer = GRU(5)
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ostinato.InputError, match=r"initial state must be \(B, n\) = \(2, 5\)"):
        layer(x, initial_state=torch.zeros(2, 4))
    with pytest.raises(ostinato.InputError, match=r"mask must be \(B, T\) = \(2, 3\)"):
        layer(x, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ostinato.InputError, match=r"takes sequences \(B, T, I\), got \(2, 3\)"):
        layer(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"ndim=3, found ndim=4"):
        layer(torch.zeros(2, 3, 4, 5))


def test_second_derivatives(sequences: Any) -> None:
    layer = SimpleRNN(3, dtype="float64")
    x = sequences(2, 3, 4).requires_grad_()
    layer(x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x), (x,))


def test_explain_shows_the_plan() -> None:
    layer = LSTM(5)
    with pytest.raises(ostinato.InputError, match="isn't built yet"):
        layer.explain()
    layer.build((None, None, 4))
    report = layer.explain()
    assert report.engine == "native"
    assert report.cell == "LSTMCell"
    assert "by kernel" in report.forward.hoisted[0]
    layer = RNN(keras.layers.StackedRNNCells([keras.layers.GRUCell(5), keras.layers.GRUCell(2)]))
    layer.build((None, None, 4))
    report = layer.explain()
    assert report.cell == "StackedRNNCells"
    assert "by kernel" in report.forward.hoisted[0]


def test_nothing_slow_happens(sequences: Any) -> None:
    with ostinato.strict():
        for kind in KINDS:
            layer = getattr(ostinato.keras, kind)(5, recurrent_dropout=0.5)
            layer(sequences(3, 6, 4, dtype=torch.float32), training=True).sum().backward()
