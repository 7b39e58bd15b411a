"""Pointwise ATen operations as expressions of IR operations.

Each rule takes its operation's arguments in order, arguments left out at their defaults. A tensor
is a :class:`~ostinato.compiler.builder.Value`, already broadcast; a number is a Python number. At
kinks the expressions have the gradients that PyTorch gives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ostinato.compiler.builder import Builder, Value

if TYPE_CHECKING:
    from collections.abc import Callable

Number = Value | float

_HALF_PI_ROOT = math.sqrt(2.0 / math.pi)


def _builder(*operands: Number) -> Builder:
    return next(v.builder for v in operands if isinstance(v, Value))


def _op(name: str, *operands: Number) -> Value:
    return _builder(*operands).op(name, *operands)


def _where(condition: Value, a: Number, b: Number) -> Value:
    return condition.builder.op("where", condition, a, b)


def _unary(name: str) -> Callable[[Value], Value]:
    return lambda a: a.builder.op(name, a)


_exp, _log, _tanh, _sigmoid = map(_unary, ("exp", "log", "tanh", "sigmoid"))
_log1p, _floor, _sqrt, _erf, _abs = map(_unary, ("log1p", "floor", "sqrt", "erf", "abs"))


def scaled(a: Number, factor: Number) -> Number:
    """``factor * a``."""
    return a if isinstance(factor, (int, float)) and factor == 1 else a * factor


def _add(a: Number, b: Number, alpha: float = 1) -> Value:
    return _op("add", a, scaled(b, alpha))


def _sub(a: Number, b: Number, alpha: float = 1) -> Value:
    return _op("sub", a, scaled(b, alpha))


def _div(a: Number, b: Number, rounding_mode: str | None = None) -> Value:
    quotient = _op("div", a, b)
    if rounding_mode is None:
        return quotient
    return _floor(quotient) if rounding_mode == "floor" else _trunc(quotient)


def _trunc(a: Value) -> Value:
    return _where(a < 0.0, -_floor(-a), _floor(a))


def _round(a: Value, decimals: int = 0) -> Value:
    """To the nearest integer, ties to the even one."""
    scale = 10.0**decimals
    a = a * scale
    low = _floor(a)
    over = a - low
    odd = low - _floor(low * 0.5) * 2.0
    return _where(over < 0.5, low, _where(over > 0.5, low + 1.0, low + odd)) / scale


def _pow(a: Number, b: Number) -> Value:
    if isinstance(b, Value) and b.constant is not None:
        b = b.constant
    if isinstance(b, Value) or not isinstance(a, Value):
        if isinstance(a, (int, float)) and a > 0:
            return _exp(_op("mul", b, math.log(a)))
        return _op("pow", a, b)
    match float(b):
        case 0.0:
            return a.builder.const(1.0)
        case 1.0:
            return a
        case 2.0:
            return a * a
        case 3.0:
            return a * (a * a)
        case 4.0:
            return (a * a) * (a * a)
        case 0.5:
            return _sqrt(a)
        case -0.5:
            return _op("rsqrt", a)
        case -1.0:
            return _op("reciprocal", a)
        case -2.0:
            return _op("reciprocal", a * a)
    return _op("pow", a, b)


def _clamp(a: Value, low: Number | None = None, high: Number | None = None) -> Value:
    if low is not None:
        a = _where(_op("lt", a, low), low, a)
    return a if high is None else _where(_op("gt", a, high), high, a)


def _hardtanh(a: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return _where(a <= low, low, _where(a >= high, high, a))


def _elu(a: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    # The exponential of what is not taken must not overflow: its gradient would be 0 * inf.
    below = _op("expm1", _where(a > 0.0, 0.0, a) * input_scale) * (alpha * scale)
    return _where(a > 0.0, a * scale, below)


def _softplus(a: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    z = a * beta
    return _where(z > threshold, a, _log1p(_exp(_where(z > threshold, 0.0, z))) / beta)


def _log_sigmoid(a: Value) -> Value:
    """``min(a, 0) - log1p(exp(-|a|))``."""
    positive = a > 0.0
    magnitude = _where(positive, a, -a)
    return _where(positive, 0.0, a) - _log1p(_exp(-magnitude))


def _gelu(a: Value, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = (a + (a * (a * a)) * 0.044715) * _HALF_PI_ROOT
        return (a * 0.5) * (_tanh(inner) + 1.0)
    return (a * 0.5) * (_erf(a * math.sqrt(0.5)) + 1.0)


def _mish(a: Value) -> Value:
    return a * _tanh(_softplus(a))


def _lerp(a: Number, b: Number, weight: Number) -> Value:
    return _op("add", a, _op("mul", weight, _op("sub", b, a)))


def _addcmul(a: Number, b: Number, c: Number, value: float = 1) -> Value:
    return _op("add", a, scaled(_op("mul", b, c), value))


def _addcdiv(a: Number, b: Number, c: Number, value: float = 1) -> Value:
    return _op("add", a, scaled(_op("div", b, c), value))


def _truth(a: Number) -> Value | float:
    if isinstance(a, (bool, int, float)):
        return float(a != 0)
    return a if a.node.op in ("lt", "le", "gt", "ge", "eq", "ne") else a.ne(0.0)


def _remainder(a: Number, b: Number) -> Value:
    return _op("sub", a, _op("mul", b, _floor(_op("div", a, b))))


def _fmod(a: Number, b: Number) -> Value:
    return _op("sub", a, _op("mul", b, _trunc(_op("div", a, b))))


def _fmax(a: Value, b: Value) -> Value:
    largest = _op("max", a, b)
    return _where(a.ne(a), b, _where(b.ne(b), a, largest))


def _fmin(a: Value, b: Value) -> Value:
    smallest = _op("min", a, b)
    return _where(a.ne(a), b, _where(b.ne(b), a, smallest))


def _logaddexp(a: Value, b: Value) -> Value:
    difference = _op("sub", a, b)
    # log1p(exp(-|d|)) + max(a, b); at equal infinities d is NaN and the sum is their value.
    far = _log1p(_exp(-_abs(_where(difference.ne(difference), 0.0, difference))))
    return _where(_op("eq", a, b), _op("max", a, b) + math.log(2.0), _op("max", a, b) + far)


def _logit(a: Value, eps: float | None = None) -> Value:
    if eps is not None:
        a = _clamp(a, eps, 1.0 - eps)
    return _log(a / (1.0 - a))


def _nan_to_num(
    a: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    a = _where(a.ne(a), nan or 0.0, a)
    if posinf is not None:
        a = _where(a.eq(math.inf), posinf, a)
    return a if neginf is None else _where(a.eq(-math.inf), neginf, a)


def _rrelu(
    a: Value,
    noise: Value,
    lower: float = 0.125,
    upper: float = 1.0 / 3.0,
    training: bool = False,
) -> Value:
    return _where(a > 0.0, a, a * ((lower + upper) / 2.0))


def _comparison(name: str) -> Callable[[Number, Number], Value]:
    return lambda a, b: _op(name, a, b)


POINTWISE: dict[str, Callable[..., Any]] = {
    # arithmetic
    "add": _add,
    "sub": _sub,
    "rsub": lambda a, b, alpha=1: _sub(b, a, alpha),
    "mul": lambda a, b: _op("mul", a, b),
    "div": _div,
    "floor_divide": lambda a, b: _div(a, b, "floor"),
    "remainder": _remainder,
    "fmod": _fmod,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "neg": lambda a: -a,
    "abs": _abs,
    "sign": _unary("sign"),
    "sgn": _unary("sign"),
    "reciprocal": _unary("reciprocal"),
    "pow": _pow,
    "sqrt": _sqrt,
    "rsqrt": _unary("rsqrt"),
    "hypot": lambda a, b: _sqrt(a * a + b * b),
    # rounding
    "floor": _floor,
    "ceil": lambda a: -_floor(-a),
    "trunc": _trunc,
    "frac": lambda a: a - _trunc(a),
    "round": _round,
    # exponentials and friends
    "exp": _exp,
    "exp2": lambda a: _exp(a * math.log(2.0)),
    "expm1": _unary("expm1"),
    "log": _log,
    "log2": lambda a: _log(a) * (1.0 / math.log(2.0)),
    "log10": lambda a: _log(a) * (1.0 / math.log(10.0)),
    "log1p": _log1p,
    "logaddexp": _logaddexp,
    "logit": _logit,
    "xlogy": lambda a, b: _where(_op("eq", a, 0.0), 0.0, _op("mul", a, _log(b))),
    "sin": _unary("sin"),
    "cos": _unary("cos"),
    "tan": lambda a: _op("sin", a) / _op("cos", a),
    "sinh": lambda a: (_exp(a) - _exp(-a)) * 0.5,
    "cosh": lambda a: (_exp(a) + _exp(-a)) * 0.5,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "erfc": lambda a: 1.0 - _erf(a),
    # activations
    "relu": _unary("relu"),
    "leaky_relu": lambda a, slope=0.01: _where(a > 0.0, a, a * slope),
    "rrelu_with_noise": _rrelu,
    "_prelu_kernel": lambda a, w: _where(a > 0.0, a, _op("mul", a, w)),
    "elu": _elu,
    "celu": lambda a, alpha=1.0: _elu(a, alpha, 1.0, 1.0 / alpha),
    "gelu": _gelu,
    "silu": lambda a: a * _sigmoid(a),
    "mish": _mish,
    "softplus": _softplus,
    "hardtanh": _hardtanh,
    "hardsigmoid": lambda a: _hardtanh(a, -3.0, 3.0) * (1.0 / 6.0) + 0.5,
    "hardswish": lambda a: _where(a <= -3.0, 0.0, _where(a >= 3.0, a, a * (a * (1.0 / 6.0) + 0.5))),
    "hardshrink": lambda a, lambd=0.5: _where((a >= -lambd) * (a <= lambd), 0.0, a),
    "softshrink": lambda a, lambd=0.5: _where(
        a > lambd, a - lambd, _where(a < -lambd, a + lambd, a * 0.0)
    ),
    "threshold": lambda a, threshold, value: _where(a <= threshold, value, a),
    "log_sigmoid": _log_sigmoid,
    # choices
    "clamp": _clamp,
    "clamp_min": lambda a, low: _clamp(a, low),
    "clamp_max": lambda a, high: _clamp(a, None, high),
    "maximum": lambda a, b: _op("max", a, b),
    "minimum": lambda a, b: _op("min", a, b),
    "fmax": _fmax,
    "fmin": _fmin,
    "where": lambda c, a, b: _builder(c, a, b).op("where", c, a, b),
    "masked_fill": lambda a, mask, value: _builder(a, mask).op("where", mask, value, a),
    "copysign": lambda a, b: _where(_op("lt", b, 0.0), -_abs(a), _abs(a)),
    "heaviside": lambda a, b: _where(a.eq(0.0), b, a > 0.0),
    "nan_to_num": _nan_to_num,
    # comparisons and logic
    "lt": _comparison("lt"),
    "le": _comparison("le"),
    "gt": _comparison("gt"),
    "ge": _comparison("ge"),
    "eq": _comparison("eq"),
    "ne": _comparison("ne"),
    "isnan": lambda a: a.ne(a),
    "isinf": lambda a: _abs(a).eq(math.inf),
    "signbit": lambda a: a < 0.0,
    "logical_and": lambda a, b: _op("mul", _truth(a), _truth(b)),
    "logical_or": lambda a, b: _op("max", _truth(a), _truth(b)),
    "logical_xor": lambda a, b: _op("ne", _truth(a), _truth(b)),
    "logical_not": lambda a: a.eq(0.0),
    "bitwise_and": lambda a, b: _op("mul", a, b),
    "bitwise_or": lambda a, b: _op("max", a, b),
    "bitwise_xor": lambda a, b: _op("ne", a, b),
    "bitwise_not": lambda a: a.eq(0.0),
    # copies
    "copy": lambda a, b: b,
    "fill": lambda a, value: value,
    "zero": lambda a: 0.0,
    "_to_copy": lambda a: a,
}
