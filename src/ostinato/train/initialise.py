"""Initialisation as the literature recommends it, by what the parameters do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ostinato.cells.base import Cell
from ostinato.compiler.trace import trace
from ostinato.engine.state import find_state_size
from ostinato.errors import OstinatoError
from ostinato.nn.recurrent import Recurrent
from ostinato.train.roles import Places, Roles, roles_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@dataclass
class Initialised:
    """What :func:`initialise` did.

    Attributes:
        done: what each parameter is now, by its name in the model.
        left: why a parameter or a cell was left as it was, by its name.
    """

    done: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name}: {what}" for name, what in self.done.items()]
        return "\n".join([*lines, *(f"{name}: left, {why}" for name, why in self.left.items())])


def initialise(model: nn.Module) -> Initialised:
    """Draw the parameters of recurrent and linear layers anew, in place, by their roles.

    ====================  ==========================================================================
    recurrent maps        orthogonal, each gate's by itself: A. M. Saxe, J. L. McClelland and S.
                          Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in
                          deep linear neural networks, ICLR
    input maps, linear    uniform in ``±sqrt(6 / (in + out))``, each gate's by itself: X. Glorot and
    layers                Y. Bengio (2010), Understanding the difficulty of training deep
                          feedforward neural networks, AISTATS, equation (16)
    forget gates' biases  1: F. A. Gers, J. Schmidhuber and F. Cummins (2000), Learning to forget,
                          Neural Computation 12(10); R. Jozefowicz, W. Zaremba and I. Sutskever
                          (2015), An empirical exploration of recurrent network architectures, ICML
    other biases          0
    ====================  ==========================================================================

    Which is which is read off the cell's traced program, so it works for any cell that can be
    traced, see :mod:`ostinato.train.roles`. Where a gate adds two biases, one becomes 1 and the
    other 0. Everything else (embeddings, gains, peepholes, elementwise recurrences, parametrised
    weights, cells that can't be traced) is left as it is, and the report says so.

    Args:
        model: on the CPU; drawn from PyTorch's global random numbers.

    Returns:
        What was done; ``print`` it to read it.

    Example:
        >>> import ostinato
        >>> print(initialise(ostinato.Recurrent(ostinato.cells.LSTM(3, 5))))
        cell.weight_ih: Glorot uniform, 4 maps 3 -> 5
        cell.weight_hh: orthogonal, 4 maps 5 -> 5
        cell.bias_ih: 0, forget gate 1
        cell.bias_hh: 0
    """
    report = Initialised()
    seen: set[int] = set()
    names = {id(module): name for name, module in model.named_modules()}
    for name, module in model.named_modules():
        if isinstance(module, Recurrent):
            path = names.get(id(module.cell), name)
            _cell(module.cell, path, module.state_size, report, seen)
        elif isinstance(module, Cell | nn.RNNCellBase):
            _cell(module, name, None, report, seen)
        elif isinstance(module, nn.RNNBase):
            _apply(_torch_roles(module), dict(module.named_parameters()), name, report)
            seen |= {id(p) for p in module.parameters()}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and id(module.weight) not in seen:
            _apply(_linear_roles(module), dict(module.named_parameters()), name, report)
            seen |= {id(p) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if name not in report.done and name not in report.left and id(parameter) not in seen:
            report.left[name] = "no role that has a rule"
    return report


def _cell(
    cell: nn.Module, path: str, state_size: object, report: Initialised, seen: set[int]
) -> None:
    """Initialise a cell by its traced program; one that can't be traced is left, and said so."""
    own = [id(p) for p in cell.parameters()]
    if own and all(number in seen for number in own):
        return  # the same cell in two layers
    seen.update(own)
    where = path or type(cell).__name__
    width = getattr(cell, "input_size", None)
    like = next((p for p in cell.parameters() if p.is_floating_point()), None)
    if like is None:
        return
    if not isinstance(width, int):
        report.left[where] = f"{type(cell).__name__} has no input_size, so it can't be traced"
        return
    try:
        size = find_state_size(cell, state_size, x=like.new_zeros(1, width))  # type: ignore[arg-type]
        traced = trace(cell, width, size, like.dtype)
    except (OstinatoError, RuntimeError) as error:
        report.left[where] = f"it can't be traced: {str(error).splitlines()[0]}"
        return
    parameters = dict(cell.named_parameters())
    leaves = traced.preparation.leaves
    plain = {n: parameters[n] for n in leaves if n in parameters}
    others = {n: _resolve(cell, n) for n in leaves if n not in parameters}
    _apply(roles_of(traced, plain, others), parameters, path, report)


def _resolve(cell: nn.Module, name: str) -> Tensor:
    *modules, last = name.split(".")
    found: Tensor = getattr(cell.get_submodule(".".join(modules)), last)
    return found.detach()


def _torch_roles(layer: nn.RNNBase) -> Roles:
    """The roles in ``torch.nn``'s recurrent layers and our drop-ins, by their parameters' names."""
    roles = Roles()
    gates = _GATES[layer.mode]
    for name, p in layer.named_parameters():
        places = torch.arange(p.numel()).view(p.shape)
        if name.startswith("weight_hr"):
            roles.recurrent.append(Places(name, places))
        elif name.startswith("weight_"):
            maps = roles.recurrent if name.startswith("weight_hh") else roles.inputs
            maps += [Places(name, block) for block in places.chunk(gates)]
        elif name.startswith("bias_"):
            roles.biases.append(Places(name, places))
            if layer.mode == "LSTM" and name.startswith("bias_ih"):
                roles.forget.append([Places(name, places.chunk(4)[1])])
    return roles


def _linear_roles(layer: nn.Linear) -> Roles:
    roles = Roles()
    for name, p in layer.named_parameters(recurse=False):
        places = torch.arange(p.numel()).view(p.shape)
        (roles.inputs if name == "weight" else roles.biases).append(Places(name, places))
    return roles


def _apply(
    roles: Roles, parameters: Mapping[str, nn.Parameter], path: str, report: Initialised
) -> None:
    """Draw the values and note what was done, in the order of the parameters."""
    notes: dict[str, list[str]] = {}
    for kind, maps in (("Glorot uniform", roles.inputs), ("orthogonal", roles.recurrent)):
        for places in maps:
            values = torch.empty(places.index.shape)
            if kind == "orthogonal":
                nn.init.orthogonal_(values)
            else:
                bound = math.sqrt(6.0 / sum(values.shape))
                nn.init.uniform_(values, -bound, bound)
            _put(parameters[places.name], places.index, values)
            notes.setdefault(places.name, []).append(
                f"{kind}, {{}} {places.index.shape[1]} -> {places.index.shape[0]}"
            )
    for places in roles.biases:
        _put(parameters[places.name], places.index, torch.zeros(places.index.shape))
        notes[places.name] = ["0"]
    order = list(parameters)
    for added in roles.forget:
        first = min(added, key=lambda places: order.index(places.name))
        _put(parameters[first.name], first.index, torch.ones(first.index.shape))
        notes[first.name] = ["0, forget gate 1"]
    prefix = f"{path}." if path else ""
    for name in parameters:
        if name in notes:
            report.done[prefix + name] = "; ".join(_counted(notes[name]))
        else:
            report.left[prefix + name] = "no role that has a rule"


def _counted(notes: list[str]) -> list[str]:
    """Equal notes as one with their number."""
    counts = {note: notes.count(note) for note in notes}
    return [n.format("map" if c == 1 else f"{c} maps") for n, c in counts.items()]


def _put(parameter: nn.Parameter, index: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        flat = parameter.detach().reshape(-1).clone()
        flat[index.reshape(-1).to(flat.device)] = values.reshape(-1).to(flat)
        parameter.copy_(flat.view(parameter.shape))
