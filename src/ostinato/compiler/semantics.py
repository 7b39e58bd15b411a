"""What each operation of the IR computes, as PyTorch functions on ``(B, n)`` tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable


def _reduced(a: Tensor, groups: int) -> Tensor:
    return a.reshape(a.shape[0], groups, a.shape[1] // groups if groups else 0)


def _cumsum(a: Tensor, groups: int, reverse: bool) -> Tensor:
    runs = _reduced(a, groups)
    done = runs.flip(-1).cumsum(-1).flip(-1) if reverse else runs.cumsum(-1)
    return done.reshape(a.shape)


def _moments(a: Tensor, groups: int, eps: float) -> Tensor:
    var, mean = torch.var_mean(_reduced(a, groups), -1, correction=0)
    return torch.cat([mean, torch.rsqrt(var + eps)], 1)


def _normalise(a: Tensor, moments: Tensor) -> Tensor:
    mean, scale = moments.unsqueeze(-1).chunk(2, 1)
    return ((_reduced(a, mean.shape[1]) - mean) * scale).reshape(a.shape)


def _normalise_grad(g: Tensor, y: Tensor, moments: Tensor) -> Tensor:
    scale = moments.unsqueeze(-1).chunk(2, 1)[1]
    runs, normal = (_reduced(t, scale.shape[1]) for t in (g, y))
    slope = (runs * normal).mean(-1, keepdim=True)
    return ((runs - runs.mean(-1, keepdim=True) - normal * slope) * scale).reshape(g.shape)


def _put(a: Tensor, index: tuple[int, ...], width: int) -> Tensor:
    target = torch.tensor(index, dtype=torch.int64, device=a.device)
    return a.new_zeros(a.shape[0], width).index_add(1, target, a)


def _linear(a: Tensor, w: Tensor, transposed: bool, groups: int) -> Tensor:
    w = w.mT if transposed else w
    if groups == 1:
        return a @ w
    return torch.einsum("bgk,gkn->bgn", _reduced(a, groups), w).flatten(1)


def _outer_rows(a: Tensor, dz: Tensor, transposed: bool, groups: int) -> Tensor:
    outer = torch.einsum("bgk,bgn->gkn", _reduced(a, groups), _reduced(dz, groups))
    outer = outer.mT if transposed else outer
    return outer[0] if groups == 1 else outer


def _truth(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: f(a, b).to(a.dtype)


#: What each operation (leaves apart) computes from its arguments and attributes.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": lambda a: torch.where(a.isnan(), a, a.sign()),
    "floor": torch.floor,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "relu": torch.relu,
    "stop": torch.detach,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "pow": torch.pow,
    "lt": _truth(torch.lt),
    "le": _truth(torch.le),
    "gt": _truth(torch.gt),
    "ge": _truth(torch.ge),
    "eq": _truth(torch.eq),
    "ne": _truth(torch.ne),
    "where": lambda c, a, b: torch.where(c != 0, a, b),
    "sum": lambda a, groups: _reduced(a, groups).sum(-1),
    "amax": lambda a, groups: _reduced(a, groups).amax(-1),
    "cumsum": _cumsum,
    "moments": _moments,
    "normalise": _normalise,
    "normalise_grad": _normalise_grad,
    "slice": lambda a, start, stop: a[:, start:stop],
    "cat": lambda *a: torch.cat(a, 1),
    "take": lambda a, index: a[:, list(index)],
    "put": _put,
    "expand": lambda a, width: a.repeat_interleave(width // a.shape[1], 1),
    "linear": _linear,
    "sum_rows": lambda a: a.sum(0),
    "outer_rows": _outer_rows,
}
