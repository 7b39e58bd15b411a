"""The comparison of our layers with Keras's own; tests/conftest.py selects Keras's backend."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import torch
from keras.src.backend.common import dtypes
from torch import Tensor

import ostinato.keras
from helpers import assert_close, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@pytest.fixture(autouse=True)
def own_random_state() -> Iterator[None]:
    """Keras seeds everything there is; other tests shall not notice."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    keras.utils.set_random_seed(0)
    yield
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


class Pair:
    """The same layer twice, Keras's own and ours, with the same random weights."""

    def __init__(self, make: Callable[[Any], Any], shape: tuple[int | None, ...]) -> None:
        self.theirs, self.ours = make(keras.layers), make(ostinato.keras)
        draw = generator(7)
        for layer in (self.theirs, self.ours):
            layer.build(shape)
        values = [
            0.5 * torch.randn(tuple(w.shape), generator=draw, dtype=torch.float64).numpy()
            for w in self.theirs.weights
        ]
        for layer in (self.theirs, self.ours):
            layer.set_weights(values)

    def check(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        training: bool = False,
        initial_state: list[Tensor] | None = None,
        times: float = 1.0,
    ) -> list[Tensor]:
        """Compare results and all gradients, under random cotangents; gives our results."""
        runs = [_run(layer, x, mask, training, initial_state) for layer in (self.theirs, self.ours)]
        (want, want_grads), (got, got_grads) = runs
        assert_close(got, want, what="results", times=times)
        assert got_grads.keys() == want_grads.keys()
        for name, grad in want_grads.items():
            mine = got_grads[name]
            if grad is None or mine is None:
                rest = mine if grad is None else grad
                assert rest is None or not rest.any(), name
            else:
                assert_close(mine, grad, kind="gradient", what=name, times=times)
        return got


def _run(
    layer: Any,
    x: Tensor,
    mask: Tensor | None,
    training: bool,
    initial_state: list[Tensor] | None,
) -> tuple[list[Tensor], Mapping[str, Tensor | None]]:
    x = x.detach().clone().requires_grad_()
    inputs = {"x": x}
    keywords: dict[str, Any] = {"training": training}
    if mask is not None:
        keywords["mask"] = mask
    if initial_state is not None:
        states = [s.detach().clone().requires_grad_() for s in initial_state]
        keywords["initial_state"] = states
        inputs.update({f"state{k}": s for k, s in enumerate(states)})
    result = layer(x, **keywords)
    results = keras.tree.flatten(result)
    draw = generator(3)
    loss = sum(
        (torch.randn(r.shape, generator=draw, dtype=torch.float64).to(r) * r).sum() for r in results
    )
    inputs.update({f"d{k} {w.name}": w.value for k, w in enumerate(layer.trainable_weights)})
    grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return [r.detach() for r in results], dict(zip(inputs, grads, strict=True))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pair]:
    """``pair(lambda layers: layers.LSTM(5), shape)``."""
    # Keras's own operations give float32 even for float64, as JAX does: not here, where they are
    # what ours are compared with.
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    return Pair


@pytest.fixture
def sequences() -> Callable[..., Tensor]:
    """``sequences(B, T, I)``, standard normal."""

    def make(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(shape, generator=generator(1), dtype=torch.float64).to(dtype)

    return make
