"""A problem's data, what must come out (float64), and the comparison before any timing."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.cells import make_cell, state_sizes
from benchmarks.problems import review_lengths

if TYPE_CHECKING:
    from benchmarks.problems import Problem

#: Everything that a contestant computes, by name: ``y``, ``state.0``, ...; ``dx``, ``dstate.0``,
#: ..., ``d weight_ih`` and so on; for mode ``step`` ``loss`` and ``update weight_ih``, ...
Results = dict[str, Tensor]

#: Largest error allowed, relative to the largest element expected, by dtype: values, then
#: gradients, which are sums over all rows and steps (the longest here: 14,000). An update is a
#: difference of rounded parameters.
TOLERANCE = {
    "float32": {"value": 1e-5, "gradient": 5e-5, "update": 1e-3},
    "float64": {"value": 1e-11, "gradient": 1e-10, "update": 1e-9},
}

#: Of the gradient descent in mode ``step``.
LEARNING_RATE = 1.0

#: Mode ``fit``: batches of the data, and of those the ones that the check trains on; its rate.
FIT_BATCHES, FIT_CHECKED, FIT_RATE = 24, 4, 0.05

TORCH_LAYERS: dict[str, type[nn.RNNBase]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass
class Case:
    """One problem with its data: the cell's parameters, ``x`` (T, B, I), the initial state, the
    cotangents of output and final state, the target of mode ``step`` (T, B, H).

    In mode ``fit`` ``x`` has ``FIT_BATCHES`` times B rows, the target is (rows, 1), and ``head``
    (1, H) maps the last output to it.
    """

    problem: Problem
    cell: Any
    x: Tensor
    state: tuple[Tensor, ...]
    dy: Tensor
    dfinal: tuple[Tensor, ...]
    target: Tensor
    lengths: Tensor | None
    head: Tensor | None = None

    @property
    def bare(self) -> bool:
        return len(self.state) == 1

    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.cell.named_parameters()}


def make_case(problem: Problem, seed: int = 0) -> Case:
    """The same data for the same problem, whoever asks."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        dtype = getattr(torch, problem.dtype)
        T, B, width, H = problem.shape
        cell = make_cell(problem.cell, width, H, dtype)
        sizes = state_sizes(cell)
        fit = problem.mode == "fit"
        zero = fit or problem.mode == "step"  # Keras' layers begin at zero
        rows = B * FIT_BATCHES if fit else B
        lengths = None
        if problem.lengths != "full":
            lengths = torch.tensor(review_lengths(B, T))
        return Case(
            problem,
            cell,
            torch.randn(T, rows, width, dtype=dtype),
            tuple((0.0 if zero else 0.5) * torch.randn(B, n, dtype=dtype) for n in sizes),
            torch.randn(T, B, H, dtype=dtype),
            tuple(torch.randn(B, n, dtype=dtype) for n in sizes),
            torch.randn(rows, 1, dtype=dtype) if fit else torch.randn(T, B, H, dtype=dtype),
            lengths,
            torch.randn(1, H, dtype=dtype) / H**0.5 if fit else None,
        )


def torch_layer(case: Case, layer_type: Any, **options: Any) -> Any:
    """A layer with torch.nn's parameters for a standard cell."""
    p = case.problem
    layer = layer_type(p.I, p.H, dtype=case.x.dtype, **options)
    with torch.no_grad():
        for name, value in case.parameters().items():
            getattr(layer, f"{name}_l0").copy_(value)
    return layer


def plain_loop(cell: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The plain PyTorch loop over time, for both conventions of cells."""
    outputs = []
    for row in x.unbind(0):
        result = cell(row, state)
        if isinstance(result, Tensor):
            output = state = result
        elif isinstance(result[1], Tensor):
            output, state = result[0], tuple(result)
        else:
            output, state = result
        outputs.append(output)
    return torch.stack(outputs), state


def oracle(case: Case) -> Results:
    """All results in float64: torch.nn where it has the cell, else the plain loop.

    Raises:
        ValueError: rows of different lengths for a cell that torch.nn lacks.
    """
    wide = copy.copy(case)
    wide.cell = copy.deepcopy(case.cell).double()
    for name in ("x", "dy", "target"):
        setattr(wide, name, getattr(case, name).double())
    wide.state = tuple(s.double().requires_grad_() for s in case.state)
    wide.dfinal = tuple(s.double() for s in case.dfinal)
    x = wide.x.requires_grad_(case.problem.mode == "train")
    state: Any = wide.state[0] if case.bare else wide.state
    parameters: dict[str, Tensor]
    if case.problem.cell in TORCH_LAYERS:
        layer = torch_layer(wide, TORCH_LAYERS[case.problem.cell])
        if case.problem.mode == "fit":
            return _fitted(wide, layer)
        parameters = {n.removesuffix("_l0"): p for n, p in layer.named_parameters()}
        leading = state.unsqueeze(0) if case.bare else tuple(s.unsqueeze(0) for s in state)
        given: Any = x
        if case.lengths is not None:
            given = pack_padded_sequence(x, case.lengths, enforce_sorted=False)
        y, final = layer(given, leading)
        if case.lengths is not None:
            y, _ = pad_packed_sequence(y, total_length=case.problem.T)
        final = (final[0],) if case.bare else tuple(s[0] for s in final)
    elif case.lengths is not None:
        raise ValueError(f"no oracle for {case.problem.name}")
    else:
        parameters = dict(wide.cell.named_parameters())
        y, final = plain_loop(wide.cell, x, state)
        final = (final,) if case.bare else final
    if case.problem.mode == "step":
        loss = F.mse_loss(y, wide.target)
        return step_results(loss, torch.autograd.grad(loss, list(parameters.values())), parameters)
    if case.problem.mode == "infer":
        return named_results(y, final)
    grads = torch.autograd.grad(
        [y, *final], [x, *wide.state, *parameters.values()], [wide.dy, *wide.dfinal]
    )
    return named_results(y, final, grads, parameters)


def _fitted(case: Case, layer: nn.RNNBase) -> Results:
    """Gradient descent on the batches that are checked: mean loss, changes of the parameters."""
    assert case.head is not None
    head = nn.Parameter(case.head.double())
    parameters = {n.removesuffix("_l0"): p for n, p in layer.named_parameters()} | {"head": head}
    if not isinstance(layer, nn.GRU):
        del parameters["bias_hh"]  # Keras has one bias, the sum of these two
    before = {n: p.detach().clone() for n, p in parameters.items()}
    losses = []
    B = case.problem.B
    for k in range(0, FIT_CHECKED * B, B):
        y, _ = layer(case.x[:, k : k + B])
        loss = F.mse_loss(y[-1] @ head.T, case.target[k : k + B])
        grads = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for p, grad in zip(parameters.values(), grads, strict=True):
                p -= FIT_RATE * grad
        losses.append(loss.detach())
    updates = {f"update {n}": p.detach() - before[n] for n, p in parameters.items()}
    if not isinstance(layer, nn.GRU):
        updates["update bias_hh"] = updates["update bias_ih"]
    return {"loss": torch.stack(losses).mean().reshape(1), **updates}


def step_results(loss: Tensor, grads: Any, parameters: Any) -> Results:
    """What one step of gradient descent does, from the gradients themselves."""
    updates = {f"update {n}": -LEARNING_RATE * g for n, g in zip(parameters, grads, strict=True)}
    return {"loss": loss.detach().reshape(1), **updates}


def named_results(y: Tensor, final: Any, grads: Any = None, parameters: Any = ()) -> Results:
    """Names for (output, final states, gradients of x, states and parameters in this order)."""
    named = {"y": y, **{f"state.{k}": s for k, s in enumerate(final)}}
    if grads is not None:
        names = ["dx", *(f"dstate.{k}" for k in range(len(final))), *(f"d {n}" for n in parameters)]
        named |= dict(zip(names, grads, strict=True))
    return {name: t.detach() for name, t in named.items()}


def worst_error(got: Results, want: Results, dtype: str) -> tuple[float, str]:
    """The largest error as a fraction of what is allowed, and where; above 1 is wrong.

    A missing or superfluous result, a wrong shape or NaN is an infinite error.
    """
    if got.keys() != want.keys():
        return float("inf"), f"results {sorted(got)}, expected {sorted(want)}"
    worst, where = 0.0, ""
    for name, expected in want.items():
        kind = name.split()[0].split(".")[0]
        kind = kind if kind == "update" else "gradient" if kind.startswith("d") else "value"
        error = _error(got[name], expected) / TOLERANCE[dtype][kind]
        if not error <= worst:  # NaN counts as larger
            worst, where = error if error == error else float("inf"), name
    return worst, where


def _error(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    if want.numel() == 0:
        return 0.0
    scale = float(want.abs().max()) or 1.0
    return float((got.double() - want.double()).abs().max()) / scale
