"""Pointwise ATen operations as expressions of IR operations.

Each rule takes its operation's arguments in order, arguments left out at their defaults. A tensor
is a :class:`~ostinato.compiler.builder.Value`, already broadcast; a number is a Python number. At
kinks, infinities and the like the expressions have the values and gradients that PyTorch gives. For
that a branch that ``where`` doesn't take must not be infinite: its gradient would be 0 * inf.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ostinato.compiler.builder import Builder, Value
from ostinato.compiler.location import refusal
from ostinato.compiler.lower_integers import range_of

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
_expm1, _reciprocal, _stop = map(_unary, ("expm1", "reciprocal", "stop"))


def _square(a: Value) -> Value:
    return a * a


def scaled(a: Number, factor: Number) -> Number:
    """``factor * a``."""
    return a if isinstance(factor, (int, float)) and factor == 1 else a * factor


def _add(a: Number, b: Number, alpha: float = 1) -> Value:
    return _op("add", a, scaled(b, alpha))


def _sub(a: Number, b: Number, alpha: float = 1) -> Value:
    return _op("sub", a, scaled(b, alpha))


def _div(a: Number, b: Number, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return _floor_divide(a, b)
    quotient = _op("div", a, b)
    return quotient if rounding_mode is None else _trunc(quotient)


def _trunc(a: Value) -> Value:
    return _where(a < 0.0, -_floor(-a), _floor(a))


def _round(a: Value, decimals: int = 0) -> Value:
    """To the nearest integer, ties to the even one."""
    scale = 10.0 ** abs(decimals)
    a = a / scale if decimals < 0 else a * scale
    low = _floor(a)
    over = a - low  # NaN of an infinity, which is its own floor
    odd = low - _floor(low * 0.5) * 2.0
    nearest = _where(over > 0.5, low + 1.0, _where(over.eq(0.5), low + odd, low))
    return nearest * scale if decimals < 0 else nearest / scale


def _divides_exactly(a: Value, divisor: float) -> bool:
    """By a power of two, or whole numbers by a whole number."""
    if abs(math.frexp(divisor)[0]) == 0.5:
        return True
    known = range_of(a)
    return known is not None and known.whole and divisor != 0 and float(divisor).is_integer()


def _divided(name: str, a: Number, b: Number) -> tuple[Value, float, Value]:
    """``a``, ``b`` and what the division leaves, with the sign of ``a``.

    Only where nothing is rounded: a rounded quotient may be one too large, and what is left of a
    large one is all rounding.
    """
    divisor = b.constant if isinstance(b, Value) else b
    if not isinstance(a, Value) or divisor is None or not _divides_exactly(a, divisor):
        raise refusal(
            name,
            "has a quotient that is rounded, and may then be off by one",
            "divide by a power of two, or by b first: torch.remainder(x / b, 1.0) * b",
        )
    left = a - _trunc(a / divisor) * divisor
    # Of what is so large nothing is left, and a quotient of it might be infinite.
    return a, divisor, _where(_abs(a) > abs(divisor) * 2.0**60, a - _stop(a), left)


def _fmod(a: Number, b: Number) -> Value:
    return _divided("fmod", a, b)[2]


def _wrong_sign(left: Value, divisor: float) -> Value:
    return left < 0.0 if divisor > 0 else left > 0.0


def _remainder(a: Number, b: Number) -> Value:
    _, divisor, left = _divided("remainder", a, b)
    return _where(_wrong_sign(left, divisor), left + divisor, left)


def _floor_divide(a: Number, b: Number) -> Value:
    a, divisor, left = _divided("floor_divide", a, b)
    return _stop(_floor((a - left) / divisor - _wrong_sign(left, divisor)))


def _pow(a: Number, b: Number) -> Value:
    if isinstance(a, Value) and isinstance(b, Value) and b.constant is not None:
        b = b.constant
    if isinstance(b, Value) or not isinstance(a, Value):
        if isinstance(a, (int, float)) and 0 < a < math.inf and a != 1:
            # Up to |b log(a)| / 2 ULP off, but ten times as fast as pow.
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
            return _reciprocal(a)
        case -2.0:
            return _square(_reciprocal(a))
    return _op("pow", a, b)


def _or_nan(condition: Value, bound: Number) -> Value:
    return _op("max", condition, bound.ne(bound)) if isinstance(bound, Value) else condition


def _clamp(a: Value, low: Number | None = None, high: Number | None = None) -> Value:
    if isinstance(low, Value) and isinstance(high, Value):
        low = _where(low < high, low, _stop(low))  # where they meet neither has a gradient
    if low is not None:
        a = _where(_or_nan(_op("lt", a, low), low), low, a)
    return a if high is None else _where(_or_nan(_op("gt", a, high), high), high, a)


def _hardtanh(a: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return _where(a <= low, low, _where(a >= high, high, a))


def _six(a: Value) -> Value:
    """``a + 3`` between 0 and 6."""
    return _where(a <= -3.0, 0.0, _where(a >= 3.0, 6.0, a + 3.0))


def _elu(a: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    below = _expm1(_where(a > 0.0, 0.0, a) * input_scale) * (alpha * scale)
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


def _sinh(a: Value) -> Value:
    # By expm1, as exp loses what is near 0; from 2 on of 1 less, as exp overflows before sinh does.
    far = _abs(a) > 2.0
    shift, scale = _where(far, 1.0, 0.0), _where(far, 0.5 * math.e, 0.5)
    return (_expm1(a - shift) - _expm1(-a - shift)) * scale


def _cosh(a: Value) -> Value:
    near = _abs(a) < 1.0
    half = _sinh(_where(near, a, 0.0) * 0.5)
    far = (_exp(a - 1.0) + _exp(-a - 1.0)) * (0.5 * math.e)
    return _where(near, half * half * 2.0 + 1.0, far)


def unit_of(largest: Value) -> Value:
    """What to divide by before squares are summed, which overflow or vanish; no gradient."""
    none = _op("max", largest.eq(0.0), largest.eq(math.inf))
    return _stop(_where(none, 1.0, largest))


def _hypot(a: Value, b: Value) -> Value:
    infinite = (_abs(a).eq(math.inf), _abs(b).eq(math.inf))
    a, b = (_where(i * v.ne(v), 0.0, v) for i, v in zip(reversed(infinite), (a, b), strict=True))
    unit = unit_of(_op("max", _abs(a), _abs(b)))
    return _sqrt(_square(a / unit) + _square(b / unit)) * unit


def _mish(a: Value) -> Value:
    return a * _tanh(_softplus(a))


def _lerp(a: Number, b: Number, weight: Number) -> Value:
    span = _op("sub", b, a)
    # PyTorch goes from the nearer end. To do so for each element of rows costs an eighth of a
    # cell's time, for what is a rounding of the larger end.
    if isinstance(weight, Value) or abs(weight) < 0.5:
        return _op("add", a, _op("mul", weight, span))
    return _op("add", b, _op("mul", weight - 1.0, span))


def _addcmul(a: Number, b: Number, c: Number, value: float = 1) -> Value:
    return _op("add", a, _op("mul", scaled(b, value), c))


def _addcdiv(a: Number, b: Number, c: Number, value: float = 1) -> Value:
    return _op("add", a, _op("div", scaled(b, value), c))


def _truth(a: Number) -> Value | float:
    if isinstance(a, (bool, int, float)):
        return float(a != 0)
    return a if a.node.op in ("lt", "le", "gt", "ge", "eq", "ne") else a.ne(0.0)


def _negative(a: Value) -> Value:
    """Whether ``a`` has a sign, as -0.0 has; not of NaN."""
    return _where(a.eq(0.0), _reciprocal(a), a) < 0.0


def _copysign(a: Value, b: Number) -> Value:
    negative = _negative(b) if isinstance(b, Value) else float(math.copysign(1.0, b) < 0)
    return _op("where", negative, -_abs(a), _abs(a))


def _logaddexp(a: Value, b: Value) -> Value:
    difference = _op("sub", a, b)
    # log1p(exp(-|d|)) + max(a, b); at equal infinities d is NaN and the sum is their value.
    far = _log1p(_exp(-_abs(_where(difference.ne(difference), 0.0, difference))))
    return _where(_op("eq", a, b), _op("max", a, b) + math.log(2.0), _op("max", a, b) + far)


def _logit(a: Value, eps: float | None = None) -> Value:
    if eps is not None:
        a = _clamp(a, eps, 1.0 - eps)
    found = _log(a) - _log1p(-a)
    # Outside the gradient is NaN too.
    outside = _op("max", a < 0.0, a > 1.0)
    return found if eps is not None else found * _where(outside, math.nan, 1.0)


def _xlogy(a: Number, b: Number) -> Value:
    op = _builder(a, b).op
    zero = op("eq", a, 0.0) * op("max", op("le", b, 0.0), op("eq", b, math.inf))
    return op("mul", a, _log(_where(zero, 1.0, b)))


def _nan_to_num(
    a: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    """Infinities stay where the caller doesn't give what they become: that depends on the dtype."""
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
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "fmod": _fmod,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "neg": lambda a: -a,
    "abs": _abs,
    "sign": _unary("sign"),
    "sgn": _unary("sign"),
    "reciprocal": _reciprocal,
    "pow": _pow,
    "sqrt": _sqrt,
    "rsqrt": _unary("rsqrt"),
    "hypot": _hypot,
    # rounding
    "floor": _floor,
    "ceil": lambda a: -_floor(-a),
    "trunc": _trunc,
    "frac": lambda a: a - _trunc(a),
    "round": _round,
    # exponentials and friends
    "exp": _exp,
    "exp2": lambda a: _exp(a * math.log(2.0)),
    "expm1": _expm1,
    "log": _log,
    "log2": lambda a: _log(a) * (1.0 / math.log(2.0)),
    "log10": lambda a: _log(a) * (1.0 / math.log(10.0)),
    "log1p": _log1p,
    "logaddexp": _logaddexp,
    "logit": _logit,
    "xlogy": _xlogy,
    "sin": _unary("sin"),
    "cos": _unary("cos"),
    "tan": lambda a: _op("sin", a) / _op("cos", a),
    "sinh": _sinh,
    "cosh": _cosh,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    # activations
    "relu": _unary("relu"),
    "leaky_relu": lambda a, slope=0.01: _where(a > 0.0, a, a * slope),
    "rrelu_with_noise": _rrelu,
    "_prelu_kernel": lambda a, w: _where(a > 0.0, a, _op("mul", _where(a > 0.0, 0.0, a), w)),
    "elu": _elu,
    "celu": lambda a, alpha=1.0: _elu(a, alpha, 1.0, 1.0 / alpha),
    "gelu": _gelu,
    "silu": lambda a: a * _sigmoid(a),
    "mish": _mish,
    "softplus": _softplus,
    "hardtanh": _hardtanh,
    "hardsigmoid": lambda a: _six(a) * (1.0 / 6.0),
    "hardswish": lambda a: a * _six(a) * (1.0 / 6.0),
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
    "fmax": lambda a, b: _where(_or_nan(a >= b, b), a, b),
    "fmin": lambda a, b: _where(_or_nan(a <= b, b), a, b),
    "where": lambda c, a, b: _builder(c, a, b).op("where", c, a, b),
    "masked_fill": lambda a, mask, value: _builder(a, mask).op("where", mask, value, a),
    "copysign": _copysign,
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
    "signbit": _negative,
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
