"""What contestants in PyTorch have in common: how a layer is called and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.case import LEARNING_RATE, Case, Results, named_results
from benchmarks.peers import Runner, UnsupportedError

Layer = Callable[[Any, Any], tuple[Any, Any]]


def torch_runner(
    case: Case, layer: Layer, parameters: Mapping[str, Tensor], *, leading: bool = False
) -> Runner:
    """Call ``layer(x, state) -> (y, state)`` as the problem's mode asks.

    Args:
        case: the data; ``x`` is handed over time-first, in mode ``step`` batch-first.
        layer: the layer.
        parameters: its parameters by the cell's names for them.
        leading: states have a leading axis of one layer, as torch.nn's.

    Raises:
        UnsupportedError: mode ``fit``.
    """
    if case.problem.mode == "fit":
        raise UnsupportedError("fit is Keras's")
    if case.problem.mode == "step":
        return _step_runner(case, layer, parameters)
    train = case.problem.mode == "train"
    x = case.x.clone().requires_grad_(train)
    parts = tuple(s.clone()[None] if leading else s.clone() for s in case.state)
    for part in parts:
        part.requires_grad_(train)
    state = parts[0] if case.bare else parts
    weights = list(parameters.values())
    cotangents = [case.dy, *(s[None] if leading else s for s in case.dfinal)]

    def forward() -> tuple[Tensor, tuple[Tensor, ...]]:
        y, final = layer(x, state)
        return y, ((final,) if case.bare else tuple(final))

    def infer() -> Any:
        with torch.inference_mode():
            return (*forward(), None)

    def differentiate() -> Any:
        y, final = forward()
        return y, final, torch.autograd.grad([y, *final], [x, *parts, *weights], cotangents)

    def collect(done: Any) -> Results:
        y, final, grads = done
        if leading:
            final = tuple(s[0] for s in final)
        named = named_results(y, final, grads, parameters)
        for k in range(len(parts) if leading and train else 0):
            named[f"dstate.{k}"] = named[f"dstate.{k}"][0]
        return named

    return Runner(differentiate if train else infer, collect)


def _step_runner(case: Case, layer: Layer, parameters: Mapping[str, Tensor]) -> Runner:
    x = case.x.transpose(0, 1).contiguous()
    target = case.target.transpose(0, 1).contiguous()
    optimiser = torch.optim.SGD(parameters.values(), lr=LEARNING_RATE)

    def call() -> Tensor:
        y, _ = layer(x, None)
        loss = F.mse_loss(y, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    before = {name: p.detach().clone() for name, p in parameters.items()}

    def collect(loss: Tensor) -> Results:
        updates = {f"update {n}": p.detach() - before[n] for n, p in parameters.items()}
        return {"loss": loss.reshape(1), **updates}

    return Runner(call, collect)


def layer_parameters(layer: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters of a torch.nn layer or drop-in of one layer by the cell's names."""
    return {name.removesuffix("_l0"): p for name, p in layer.named_parameters()}
