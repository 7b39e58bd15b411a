"""Every pointwise rule at special values, on the native engine and in PyTorch.

Signed zeros, infinities, NaN, subnormal, tiny and huge numbers, ties and the operations' own kinks;
of operations of several arguments each with each. Elsewhere the operations are tested on random
numbers, which never come near.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import generator
from ostinato import Recurrent
from ostinato.compiler.lower_pointwise import POINTWISE
from tracing import FunctionCell, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Tensor]

inf, nan = float("inf"), float("nan")


class Pointwise(nn.Module):
    """``y = f(a, b)``, where x is a and b side by side."""

    state_size = 1

    def __init__(self, function: Function, arity: int) -> None:
        super().__init__()
        self.function, self.arity = function, arity

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(*x.chunk(self.arity, 1)), h


def _power(p: float) -> Function:
    return lambda a: a**p


def _power_of(base: float) -> Function:
    return lambda a: torch.pow(base, a)


def _truth(name: str) -> Function:
    return lambda *a: getattr(torch, name)(*a).to(a[0].dtype)


#: By number of arguments: the rule's name, or name-variant -> the operation.
OPERATIONS: dict[int, dict[str, Function]] = {
    1: {
        "add": lambda a: torch.add(a, 1.5, alpha=2),
        "rsub": lambda a: 1 - a,
        "mul": lambda a: a * -2.5,
        "mul-self": lambda a: a * a,
        "div": lambda a: a / 3,
        "div-into": lambda a: 3 / a,
        "div-floor": lambda a: torch.div(a, 2, rounding_mode="floor"),
        "div-trunc": lambda a: torch.div(a, 3, rounding_mode="trunc"),
        "floor_divide": lambda a: a.detach() // -0.5,
        "remainder": lambda a: torch.remainder(a, 2.0),
        "remainder-negative": lambda a: torch.remainder(a, -0.5),
        "fmod": lambda a: torch.fmod(a, 0.25),
        "neg": lambda a: -a,
        "abs": torch.abs,
        "sign": lambda a: torch.sign(a) * 3,
        "sgn": lambda a: torch.sgn(a) * 3,
        "reciprocal": torch.reciprocal,
        **{f"pow-{p}": _power(p) for p in (0, 1, 2, 3, 4, 5, 0.5, -0.5, -1, -2, -3, 1.7, 0.3)},
        **{f"pow-of-{p}": _power_of(p) for p in (0.0, 0.5, 1.0, 2.0, 10.0, inf, -2.0)},
        "sqrt": torch.sqrt,
        "rsqrt": torch.rsqrt,
        "floor": torch.floor,
        "ceil": torch.ceil,
        "trunc": torch.trunc,
        "frac": torch.frac,
        "round": torch.round,
        "round-digits": lambda a: torch.round(a, decimals=2),
        "round-tens": lambda a: torch.round(a, decimals=-1),
        "exp": torch.exp,
        "exp2": torch.exp2,
        "expm1": torch.expm1,
        "log": torch.log,
        "log2": torch.log2,
        "log10": torch.log10,
        "log1p": torch.log1p,
        "logit": torch.logit,
        "logit-eps": lambda a: torch.logit(a, 0.25),
        "sin": torch.sin,
        "cos": torch.cos,
        "tan": torch.tan,
        "sinh": torch.sinh,
        "cosh": torch.cosh,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "erf": torch.erf,
        "relu": torch.relu,
        "leaky_relu": lambda a: F.leaky_relu(a, 0.3),
        "rrelu_with_noise": lambda a: F.rrelu(a, training=False),
        "elu": lambda a: F.elu(a, 0.7),
        "celu": lambda a: F.celu(a, 0.5),
        "elu-selu": F.selu,
        "gelu": F.gelu,
        "gelu-tanh": lambda a: F.gelu(a, approximate="tanh"),
        "silu": F.silu,
        "mish": F.mish,
        "softplus": F.softplus,
        "softplus-beta": lambda a: F.softplus(a, 2, 3),
        "hardtanh": lambda a: F.hardtanh(a, -0.5, 1.5),
        "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish,
        "hardshrink": F.hardshrink,
        "softshrink": F.softshrink,
        "threshold": lambda a: F.threshold(a, 0.5, 20.0),
        "log_sigmoid": F.logsigmoid,
        "clamp": lambda a: torch.clamp(a, -0.5, 1.5),
        "clamp_min": lambda a: torch.clamp_min(a, 0.5),
        "clamp_max": lambda a: torch.clamp_max(a, 0.5),
        "masked_fill": lambda a: a.masked_fill(a > 1, 3.0),
        "nan_to_num": torch.nan_to_num,
        "nan_to_num-given": lambda a: torch.nan_to_num(a, 1.0, 2.0, 3.0),
        "nan_to_num-some": lambda a: torch.nan_to_num(a, neginf=-3.0),
        "isnan": _truth("isnan"),
        "isinf": _truth("isinf"),
        "isinf-finite": _truth("isfinite"),
        "signbit": _truth("signbit"),
        "logical_not": _truth("logical_not"),
        "bitwise_not": lambda a: (~(a > 1)).to(a.dtype),
        "_to_copy": lambda a: a.bool().to(a.dtype),
        "copy": lambda a: torch.zeros_like(a).copy_(a),
        "copy-bool": lambda a: torch.zeros_like(a, dtype=torch.bool).copy_(a).to(a.dtype),
        "fill": lambda a: (a * 1).fill_(0.5),
        "zero": lambda a: (a * 1).zero_(),
    },
    2: {
        "add": torch.add,
        "sub": lambda a, b: torch.sub(a, b, alpha=2),
        "mul": torch.mul,
        "div": torch.div,
        "lerp": lambda a, b: torch.lerp(a, b, 0.3),
        "lerp-far": lambda a, b: torch.lerp(a, b, 0.8),
        "lerp-rows": lambda a, b: torch.lerp(a, b, torch.sigmoid(a)),
        "addcmul": lambda a, b: torch.addcmul(a, a, b, value=1e-3),
        "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=1e-3),
        "pow": torch.pow,
        "hypot": torch.hypot,
        "logaddexp": torch.logaddexp,
        "xlogy": torch.xlogy,
        "_prelu_kernel": torch._prelu_kernel,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "fmax": torch.fmax,
        "fmin": torch.fmin,
        "where": lambda a, b: torch.where(a > b, a, b),
        "clamp": lambda a, b: torch.clamp(a, b, b + 1),
        "clamp-none": lambda a, b: torch.clamp(a, b, b),
        "clamp_min": torch.clamp_min,
        "clamp_max": torch.clamp_max,
        "copysign": torch.copysign,
        "heaviside": lambda a, b: torch.heaviside(a.detach(), b.detach()),
        **{name: _truth(name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
        **{f"logical_{name}": _truth(f"logical_{name}") for name in ("and", "or", "xor")},
        "bitwise_and": lambda a, b: ((a > 1) & (b > 1)).to(a.dtype),
        "bitwise_or": lambda a, b: ((a > 1) | (b > 1)).to(a.dtype),
        "bitwise_xor": lambda a, b: ((a > 1) ^ (b > 1)).to(a.dtype),
    },
    3: {"clamp": torch.clamp, "where": lambda a, b, c: torch.where(a != 0, b, c)},
}
CASES = [
    pytest.param(arity, name, id=f"{name}-{arity}")
    for arity, table in OPERATIONS.items()
    for name in table
]


def _points(dtype: torch.dtype, arity: int) -> Tensor:
    info = torch.finfo(dtype)
    largest = 88.0 if dtype is torch.float32 else 709.0  # about where exp overflows
    root, tiny = info.max**0.5, 64 * info.tiny
    points = [0.0, 0.5, 1.0, inf]
    if arity < 3:
        points += [2.5, 4 * root, info.max, tiny, 1 / root, info.eps]
    if arity < 2:
        points += [info.tiny / 8, 1e-5, 0.3, 0.25, 0.5 - info.eps / 4, 1 - info.eps / 2]
        points += [1 + info.eps, 1.5, 2.0, 3.0, 3.0 - 4 * info.eps, 3.5, 5.0, 6.0, 20.0, 20.5, 30.0]
        points += [100.0, 1000003.3, largest, largest + 0.3, largest + 0.7, largest + 1.0]
        points += [1 / info.eps - 0.5, 2 / info.eps]
    return torch.tensor([nan, *points, *(-p for p in points)], dtype=dtype)


#: How many eps of 1 may be off where PyTorch's own formula cancels: tails of tanh's and elu's
#: gradients and of gelu, zeros of logit and of hardswish's gradient.
CANCELS = {"tanh", "elu", "celu", "gelu", "logit", "hardswish", "lerp"}
#: Powers of a number are up to half the exponent's magnitude in ULP off.
OF_A_NUMBER = ("pow-of-", "exp2")


def _unlike(name: str, a: Tensor, *others: Tensor) -> Tensor:
    """Where PyTorch is not followed: ``True`` for what isn't compared."""
    info, b = torch.finfo(a.dtype), others[0] if others else a
    subnormal, infinite = (a.abs() < info.tiny) & (a != 0), a.isinf()
    huge = a.abs() >= info.max / 8
    match name:
        # Subnormal results become zero in the time loop.
        case "div-floor" | "floor_divide" | "remainder":
            return subnormal
        # PyTorch's vectors overflow in between.
        case "remainder-negative" | "fmod":
            return subnormal | huge
        case "sinh" | "cosh":
            return a.abs() > (89.0 if a.dtype is torch.float32 else 710.0) - 0.1
        case "gelu":
            return huge
        # The slope of -0.0 ** -0.5 is that of rsqrt.
        case "pow--0.5":
            return a == 0
        # PyTorch's slopes are NaN here, or of the wrong end.
        case "logaddexp":
            return infinite & (a == b)
        case "copysign":
            return infinite
        case "xlogy":
            return (a == 0) & ((b == 0) | (b == inf))
        case "hypot":
            return a.isnan() | b.isnan() | (huge & (b.abs() >= info.max / 8))
        # What is tiny times 1e-3 is subnormal; and PyTorch squares the divisor.
        case "addcmul":
            return (a != 0) & (a.abs() < 1e-18)
        case "addcdiv":
            far = [(v != 0) & ((v.abs() < 1e-18) | (v.abs() > 1e18)) for v in (a, b)]
            return far[0] | far[1]
        # What is rounded is relative to the larger end; PyTorch goes from the nearer one.
        case "lerp-rows":
            return (a.abs() > 10) | (b.abs() > 10)
    return torch.zeros_like(a, dtype=torch.bool)


def _differs(got: Tensor, want: Tensor, relative: float, absolute: float) -> Tensor:
    """By more than ``relative`` eps, ``absolute`` eps of 1, or what subnormal numbers make up."""
    info, got, want = torch.finfo(want.dtype), got.double(), want.double()
    allowed = info.eps * (relative * want.abs() + absolute) + 1e3 * info.tiny
    near = want.isfinite() & ((got - want).abs() <= allowed)
    return ~(near | (got == want) | (got.isnan() & want.isnan()))


def _gradient(result: Tensor, weight: Tensor, of: Tensor) -> Tensor:
    if not result.requires_grad:
        return torch.zeros_like(of)
    return torch.autograd.grad((result * weight).sum(), of)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("arity", "name"), CASES)
def test_special_values(arity: int, name: str, dtype: torch.dtype) -> None:
    function = OPERATIONS[arity][name]
    points = torch.cartesian_prod(*[_points(dtype, arity)] * arity).reshape(-1, arity).T
    draw = torch.rand(points.shape[1], generator=generator(0), dtype=torch.float64)
    weight = 0.5 + 0.5 * draw.to(dtype)

    x, a = points.reshape(1, 1, -1).requires_grad_(), points.clone().requires_grad_()
    got = Recurrent(Pointwise(function, arity), engine="native")(x)[0].reshape(-1)
    want = function(*a)
    dx, da = _gradient(got, weight, x).reshape(arity, -1), _gradient(want, weight, a)

    absolute = 8.0 if name.split("-")[0] in CANCELS else 0.0
    if name == "hardsigmoid" and dtype is torch.float64:
        absolute = 2.0**29  # PyTorch's gradient has a factor of float32
    relative = 1500.0 if name.startswith(OF_A_NUMBER) else 16.0
    compared = ~_unlike(name, *points)
    number = compared & ~want.isnan()  # what is none has no slope that anything could rely on
    for what, g, w, where in (
        ("value", got[None], want[None], compared),
        *(("gradient", dx[k : k + 1], da[k : k + 1], number) for k in range(arity)),
    ):
        wrong = where & _differs(g.detach(), w.detach(), relative, absolute)[0]
        lines = [
            f"{what} at {points[:, i].tolist()}: {float(g[0, i])}, PyTorch has {float(w[0, i])}"
            for i in wrong.nonzero()[:, 0].tolist()
        ]
        assert not lines, "\n".join(lines)


@pytest.mark.parametrize(("arity", "name"), CASES)
def test_on_no_features(arity: int, name: str) -> None:
    function = OPERATIONS[arity][name]
    compare(FunctionCell(lambda c, x, h: torch.cat([function(*[h[:, 3:3]] * arity), h], 1)), 6, 6)


def test_every_pointwise_rule_is_tried() -> None:
    tried = {name.split("-")[0] for table in OPERATIONS.values() for name in table}
    assert tried == set(POINTWISE)
