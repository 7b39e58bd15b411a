"""ATen operations that combine the features of a row: reductions, normalisations, products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ostinato.compiler.layout import Axis, numel
from ostinato.compiler.lower_pointwise import POINTWISE, unit_of
from ostinato.compiler.lower_products import PRODUCTS
from ostinato.compiler.preparation import tensors_in
from ostinato.compiler.recorder import Call, Lowered, Result, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ostinato.compiler.builder import Value
    from ostinato.errors import TraceError

Results = list[Result]


def _indices(call: Call) -> TraceError:
    return call.error("picks by the data's values", "use only the values, not the indices")


def _internal(call: Call, count: int = 2) -> list[TraceError]:
    """Further results of an operation, which PyTorch keeps for its backward."""
    return [call.error("has results for PyTorch's own use", "use the first result")] * count


class _OverBatchError(Exception):
    """A reduction goes over the batch; its argument is the refusal."""


@dataclass(frozen=True)
class _Groups:
    """A tensor with the dimensions to be reduced put last: ``groups`` runs of ``size`` features.

    ``order`` is where the features of this arrangement are in the tensor's own order; ``shape`` is
    the feature shape with reduced dimensions of size 1.
    """

    call: Call
    rows: Rows
    value: Value
    groups: int
    size: int
    order: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    dims: tuple[int, ...]

    def sum(self, v: Value) -> Value:
        """One number a run."""
        return v.builder.reduce("sum", v, self.groups)

    def amax(self, v: Value) -> Value:
        """One number a run."""
        return v.builder.reduce("amax", v, self.groups)

    def over(self, v: Value) -> Value:
        """One number a run, repeated over the run."""
        return v if self.groups == 1 else v.builder.expand(v, self.groups * self.size)

    def mean(self, v: Value) -> Value:
        """One number a run; of nothing it is NaN."""
        return self.sum(v) * (1.0 / self.size if self.size else math.nan)

    def reduced(self, v: Value) -> Lowered:
        """A result of one number a run, with or without the reduced dimensions."""
        axis, out = self.rows.axis, self.call.out
        if out.dim() < len(self.rows.shape):
            axis = Axis(axis.dim - sum(d < axis.dim for d in self.dims), axis.inner)
        return Lowered(v, axis)

    def whole(self, v: Value) -> Lowered:
        """A result of the tensor's own shape."""
        back = np.argsort(self.order)
        return Lowered(v.builder.gather(v.builder.row_of(v, len(back)), back), self.rows.axis)


def _groups(call: Call, dims: Sequence[int] | int | None, name: str = "self") -> _Groups:
    rows = call.rows(call[name])
    ndim = len(rows.shape)
    if isinstance(dims, int):
        dims = [dims]
    chosen = tuple(sorted({d % ndim for d in dims})) if dims else tuple(range(ndim))
    if rows.axis.dim in chosen:
        raise _OverBatchError(
            call.error(
                "goes over the batch: it mixes its rows",
                f"reduce over features (dim=-1) instead of dim={list(chosen)}",
            )
        )
    rest = [d for d in range(ndim) if d not in chosen]
    features = rows.index.shape
    own = np.arange(rows.index.size, dtype=np.int64).reshape(features)
    order = own.transpose([*rest, *chosen]).reshape(-1)
    size = numel([features[d] for d in chosen])
    value = rows.gather(rows.index.reshape(-1)[order])
    return _Groups(call, rows, value, numel([features[d] for d in rest]), size, order, chosen)


def _dims(call: Call) -> Sequence[int] | int | None:
    dims: Sequence[int] | int | None = call.args.get("dim")
    return dims


def _sum(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.reduced(g.sum(g.value))]


def _mean(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.reduced(g.mean(g.value))]


def _amax(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.reduced(g.amax(g.value))]


def _amin(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.reduced(-g.amax(-g.value))]


def _any(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.reduced(g.sum(g.value.ne(0.0)) > 0.0)]


def _all(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.reduced(g.sum(g.value.eq(0.0)).eq(0.0))]


def _safe_sqrt(v: Value) -> Value:
    """The square root with gradient 0 at 0, as norms and standard deviations have it."""
    zero = v.eq(0.0)
    root = v.builder.op("sqrt", v.builder.op("where", zero, 1.0, v))
    return v.builder.op("where", zero, 0.0, root)


def _safe_pow(v: Value, p: float) -> Value:
    """``v ** p`` for ``v >= 0`` with gradient 0 at 0."""
    zero = v.eq(0.0)
    power = v.builder.op("pow", v.builder.op("where", zero, 1.0, v), p)
    return v.builder.op("where", zero, 0.0 if p > 0 else math.inf, power)


def _variance(call: Call, g: _Groups, unit: Value | float = 1.0) -> Value:
    """The variance, of the tensor in units of ``unit``."""
    # The gradient through the mean is zero: what is less the mean adds up to nothing.
    centred = (g.value - g.over(g.value.builder.op("stop", g.mean(g.value)))) / unit
    free = g.size - (1.0 if call["correction"] is None else float(call["correction"]))
    return g.sum(centred * centred) * (1.0 / free if free > 0 else math.inf)


def _deviation(call: Call, g: _Groups) -> Value:
    """The standard deviation, whose square may be too large or too small for the dtype."""
    b = g.value.builder
    unit = unit_of(g.amax(b.op("abs", g.value - g.over(g.mean(g.value)))))
    return _safe_sqrt(_variance(call, g, g.over(unit))) * unit


def _moment(of: Callable[[Call, _Groups], Value], mean: bool) -> Callable[[Call], Results]:
    def rule(call: Call) -> Results:
        g = _groups(call, _dims(call))
        means = [g.reduced(g.mean(g.value))] if mean else []
        return [g.reduced(of(call, g)), *means]

    return rule


def _norm(call: Call) -> Results:
    g = _groups(call, _dims(call))
    order = call.args.get("ord", call.args.get("p"))
    p = 2.0 if order is None else float(order)
    a = g.value
    size = a.builder.op("abs", a)
    if p == 2.0:
        result = _safe_sqrt(g.sum(a * a))
    elif p == 1.0:
        result = g.sum(size)
    elif p == math.inf:
        result = g.amax(size)
    elif p == -math.inf:
        result = -g.amax(-size)
    elif p == 0.0:
        result = g.sum(a.ne(0.0))
    else:
        total = g.sum(_safe_pow(size, p))
        result = _safe_pow(total, 1.0 / p)
    return [g.reduced(result)]


def _prod(call: Call) -> Results:
    g = _groups(call, _dims(call))
    if g.size > 64:
        call.refuse(f"multiplies {g.size} features", "use exp of a sum of logarithms")
    every = np.arange(g.groups, dtype=np.int64) * g.size
    factors = [g.value.builder.gather(g.value, every + i) for i in range(g.size)]
    while len(factors) > 1:
        halves = [a * b for a, b in zip(factors[::2], factors[1::2], strict=False)]
        factors = halves + factors[len(halves) * 2 :]
    return [g.reduced(factors[0] if factors else g.value.builder.fill(1.0, g.groups))]


def _extremum(sign: float) -> Callable[[Call], Results]:
    """The first extremum of each run: unlike ``amax`` it has no gradient for the others."""

    def rule(call: Call) -> Results:
        g = _groups(call, _dims(call))
        b, a = g.value.builder, g.value
        top = g.amax(a) if sign > 0 else -g.amax(-a)
        found = b.op("max", a.eq(g.over(top)), a.ne(a))  # NaN is the extremum if there is one
        first = (found * b.cumsum(found, g.groups, reverse=False)).eq(1.0)
        return [g.reduced(g.sum(b.op("where", first, a, 0.0))), _indices(call)]

    return rule


def _cumsum(call: Call) -> Results:
    g = _groups(call, _dims(call))
    return [g.whole(g.value.builder.cumsum(g.value, g.groups, reverse=False))]


def _shifted(g: _Groups) -> tuple[Value, Value]:
    """Each run less its maximum, and the maximum; no gradient takes this way."""
    top = g.value.builder.op("stop", g.amax(g.value))
    return g.value - g.over(top), top


def _softmax(call: Call) -> Results:
    g = _groups(call, _dims(call))
    e = g.value.builder.op("exp", _shifted(g)[0])
    return [g.whole(e / g.over(g.sum(e)))]


def _log_softmax(call: Call) -> Results:
    g = _groups(call, _dims(call))
    z, _ = _shifted(g)
    b = z.builder
    return [g.whole(z - g.over(b.op("log", g.sum(b.op("exp", z)))))]


def _logsumexp(call: Call) -> Results:
    g = _groups(call, _dims(call))
    b = g.value.builder
    top = b.op("stop", g.amax(g.value))
    top = b.op("where", b.op("abs", top).eq(math.inf), 0.0, top)
    e = b.op("exp", g.value - g.over(top))
    return [g.reduced(b.op("log", g.sum(e)) + top)]


def _affine(call: Call, g: _Groups, v: Value, shape: tuple[int, ...]) -> Lowered:
    """``v * weight + bias``, each of ``shape``, broadcast against the tensor's feature shape."""
    result = g.whole(v)
    value, features = result.value, g.rows.index.shape
    for name in ("weight", "bias"):
        tensor: Tensor | None = call[name]
        if tensor is None:
            continue
        if call.is_rows(tensor):
            call.refuse(f"has a {name} that depends on the data", "multiply and add by hand")
        operand = call.recorder.statics.operand(tensor, features, call.name, shape)
        value = value * operand if name == "weight" else value + operand
    return Lowered(value, result.axis)


def _layer_norm(call: Call) -> Results:
    shape = tuple(call["normalized_shape"])
    g = _groups(call, list(range(-len(shape), 0)), "input")
    result = _affine(call, g, g.value.builder.normalise(g.value, g.groups, call["eps"]), shape)
    return [result, *_internal(call)]


def _group_norm(call: Call) -> Results:
    rows = call.rows(call["input"])
    if rows.axis != Axis(0):
        call.refuse_mixing()
    channels, count = call["C"], call["group"]
    width = rows.index.size
    order = np.arange(width, dtype=np.int64)
    g = _Groups(call, rows, rows.gather(), count, width // count, order, ())
    shape = (channels, *[1] * (len(rows.shape) - 2))
    result = _affine(call, g, g.value.builder.normalise(g.value, g.groups, call["eps"]), shape)
    return [result, *_internal(call)]


def _batch_norm(call: Call) -> Results:
    rows = call.rows(call["input"])
    if call.args.get("training", False) or call["running_mean"] is None:
        call.refuse(
            "in training mode mixes the rows of the batch", "use layer norm, or call eval()"
        )
    if rows.axis != Axis(0):
        call.refuse_mixing()
    features, statics = rows.index.shape, call.recorder.statics
    shape = (features[1], *[1] * (len(rows.shape) - 2))
    mean = statics.operand(call["running_mean"], features, call.name, shape)
    var = statics.operand(call["running_var"], features, call.name, shape)
    value = rows.gather()
    value = (value - mean) * value.builder.op("rsqrt", var + call["eps"])
    whole = np.arange(rows.index.size, dtype=np.int64)
    g = _Groups(call, rows, value, 1, rows.index.size, whole, ())
    result = _affine(call, g, value, shape)
    return [result, *_internal(call, len(call.result) - 1)]


def _glu(call: Call) -> Results:
    rows = call.rows(call["self"])
    dim = call["dim"] % len(rows.shape)
    if dim == rows.axis.dim:
        call.refuse_mixing()
    a, b = (rows.gather(half) for half in np.split(rows.index, 2, axis=dim))
    return [Lowered(a * a.builder.op("sigmoid", b), rows.axis)]


def _log_sigmoid(call: Call) -> Results:
    rows = call.rows(call["self"])
    return [Lowered(POINTWISE["log_sigmoid"](rows.gather()), rows.axis), *_internal(call, 1)]


def _reduction(rule: Callable[[Call], Results]) -> Callable[[Call], Results]:
    """A rule whose results over the batch are refused when they are used, not before."""

    def lowered(call: Call) -> Results:
        try:
            return rule(call)
        except _OverBatchError as error:
            return [error.args[0]] * len(tensors_in(call.result))

    return lowered


_REDUCTIONS: dict[str, Callable[[Call], Results]] = {
    "sum": _sum,
    "mean": _mean,
    "amax": _amax,
    "amin": _amin,
    "max": _extremum(1.0),
    "min": _extremum(-1.0),
    "any": _any,
    "all": _all,
    "var": _moment(_variance, mean=False),
    "std": _moment(_deviation, mean=False),
    "var_mean": _moment(_variance, mean=True),
    "std_mean": _moment(_deviation, mean=True),
    "linalg_vector_norm": _norm,
    "prod": _prod,
    "cumsum": _cumsum,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
}

FEATURES: dict[str, Callable[[Call], Results]] = {
    **{name: _reduction(rule) for name, rule in _REDUCTIONS.items()},
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "glu": _glu,
    "log_sigmoid_forward": _log_sigmoid,
    **PRODUCTS,
}
