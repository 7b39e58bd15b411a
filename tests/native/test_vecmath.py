"""The vector functions against higher precision, in ULP, over the whole range of float and double.

The bounds are the engine's own table (``op_table()``), the same that native/vecmath.h prints.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import mpmath
import numpy as np
import pytest
import torch

from ostinato import _native

if TYPE_CHECKING:
    from collections.abc import Callable

#: "avx512" is one of two, by the processor.
ISAS = [
    variant
    for isa in _native.available_isas()
    for variant in ((f"{isa}/division", f"{isa}/newton") if isa == "avx512" else (isa,))
]
BOUNDS = {
    (name, dtype): bound
    for name, _, *bounds in _native.op_table()
    for dtype, bound in zip(("float32", "float64"), bounds, strict=True)
}
FUNCTIONS = ["exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sigmoid", "erf"]
FUNCTIONS += ["sqrt", "rsqrt", "reciprocal"]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    return np.where(x < 0, z, np.ones_like(x)) / (1 + z)


def _erf(x: np.ndarray) -> np.ndarray:
    if x.dtype == np.float64:
        return torch.erf(torch.from_numpy(x)).numpy()
    # numpy has none in long double: mpmath's, as the sum of two doubles
    with mpmath.workdps(40):
        values = [mpmath.erf(float(v)) for v in x]
        high = [float(v) for v in values]
        low = [float(v - h) for v, h in zip(values, high, strict=True)]
    return np.copysign(np.array(high, np.longdouble) + np.array(low), x)


ORACLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}


def _arguments(dtype: str, per_exponent: int) -> np.ndarray:
    """Every exponent and sign with `per_exponent` mantissas each, and the places where things
    happen: the ranges' ends, their neighbours, multiples of log(2) / 2 and of pi / 2."""
    rng = np.random.default_rng(17)
    single = dtype == "float32"
    bits, mantissa, exponents = (np.uint32, 23, 256) if single else (np.uint64, 52, 2048)
    top = np.arange(2 * exponents, dtype=bits) << bits(mantissa)
    stratum = (1 << mantissa) / per_exponent
    low = (np.arange(per_exponent) + rng.random((len(top), per_exponent))) * stratum
    low[:, 0], low[:, -1] = 0, (1 << mantissa) - 1
    swept = (top[:, None] | low.astype(bits)).ravel().view(dtype)
    halves = np.arange(-2200, 2200) * (np.log(2) / 2)
    quarters = np.arange(0, 700_000, 7) * (np.pi / 2)
    ends = [4, 6, 9, 10, 19, 22, 30, 60, 88.72283, 89, 103.97, 104, 709.7827, 745.1332, 746]
    inner = [0, 1, 2, 0.5, 0.25, 2**0.5, 0.5**0.5, 2**0.5 - 1, 1 - 0.5**0.5, 2.0**20]
    edges = np.array([*ends, *inner])
    near = np.concatenate([halves, quarters, edges, -edges, -1 + 2.0 ** -np.arange(1, 50)])
    with np.errstate(over="ignore"):
        near = near.astype(dtype)
    steps = [near]
    for direction in (np.inf, -np.inf):
        step = near
        for _ in range(3):
            step = np.nextafter(step, np.array(direction, dtype))
            steps.append(step)
    spread = [rng.uniform(-w, w, per_exponent * 20).astype(dtype) for w in (1, 3, 12, 110, 800)]
    return np.concatenate([swept, *steps, *spread])


@functools.cache
def _case(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Arguments and the oracle's results, in float64 for float32 and in long double for float64."""
    if dtype == "float32":
        x, wide_type = _arguments(dtype, 2048), np.float64
    else:
        x = _arguments(dtype, 128)
        if name == "erf":
            x = np.random.default_rng(3).permutation(x)[:4000]
            x = np.concatenate([x, np.linspace(-7, 7, 4001), [0.0, -0.0, np.inf, -np.inf, np.nan]])
        wide_type = np.longdouble
    with np.errstate(all="ignore"):
        return x, ORACLES[name](x.astype(wide_type))


def _ulp_error(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """|got - want| in units of the last place that `want` has in got's type; infinite where one is
    NaN and the other not, where the exact result is too large and got is finite, and where a zero
    has the wrong sign. An infinity counts as the number after the largest."""
    info = np.finfo(got.dtype)
    limit = np.ldexp(want.dtype.type(1), info.maxexp)
    exact = np.clip(want, -limit, limit)
    value = np.clip(got.astype(want.dtype), -limit, limit)
    exponent = np.frexp(exact)[1] - 1
    exponent = np.where((exact == 0) | np.isnan(exact), info.minexp, exponent)
    exponent = np.clip(exponent, info.minexp, info.maxexp - 1)
    unit = np.ldexp(want.dtype.type(1), exponent - info.nmant)
    error = np.abs(value - exact) / unit
    both = np.isnan(got) & np.isnan(want)
    wrong = np.isnan(got) != np.isnan(want)
    wrong |= (np.abs(want) >= limit) & ~np.isinf(got)
    wrong |= (got == 0) & ~both & (np.signbit(got) != np.signbit(want))
    return np.where(both, 0, np.where(wrong, np.inf, error))


def _run(op: str, isa: str, *operands: np.ndarray) -> np.ndarray:
    d = np.full_like(operands[0], np.nan)
    _native.pointwise(op, isa, d[None], [a[None] for a in operands])
    return d


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulp(name: str, dtype: str, isa: str) -> None:
    if dtype == "float64" and np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no wider than double here: no oracle")
    x, want = _case(name, dtype)
    with np.errstate(all="ignore"):
        error = _ulp_error(_run(name, isa, x), want)
    worst = int(np.argmax(error))
    print(f"{name} {dtype} {isa}: {error[worst]:.3f} ULP at {x[worst]!r}")
    assert error[worst] <= BOUNDS[name, dtype], (x[worst], want[worst])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pow(dtype: str, isa: str) -> None:
    rng = np.random.default_rng(5)
    special = np.array([0, 1, 2, 3, 0.5, 1e-40, 1e30, np.inf, np.nan, 1.5, 7, 1e9])
    special = np.concatenate([special, -special])
    a, b = (g.ravel() for g in np.meshgrid(special, special))
    a = np.concatenate([a, rng.lognormal(0, 4, 5000)]).astype(dtype)
    b = np.concatenate([b, rng.normal(0, 5, 5000)]).astype(dtype)
    wide = np.float64 if dtype == "float32" else np.longdouble
    with np.errstate(all="ignore"):
        want = np.power(a.astype(wide), b.astype(wide))
        error = _ulp_error(_run("pow", isa, a, b), want)
    worst = int(np.argmax(error))
    assert error[worst] <= BOUNDS["pow", dtype], (a[worst], b[worst], want[worst])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_element_does_not_depend_on_its_place(name: str, dtype: str, isa: str) -> None:
    """Full vectors, the rest of a row and rows of one value give the same bits."""
    x = np.random.default_rng(1).normal(0, 3, 41).astype(dtype)
    want = _run(name, isa, x)
    one = np.empty((41, 3), dtype)
    _native.pointwise(name, isa, one, [np.broadcast_to(x[:, None], one.shape)])
    for first in range(1, 41):
        np.testing.assert_array_equal(_run(name, isa, x[first:]), want[first:])
    np.testing.assert_array_equal(one, np.repeat(want[:, None], 3, 1))


@pytest.mark.skipif("avx512" not in _native.available_isas(), reason="this processor lacks it")
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_avx512_divides_in_one_of_two_ways(name: str) -> None:
    x = np.random.default_rng(2).normal(0, 2, 4096).astype("float32")
    chosen, division, newton = (
        _run(name, isa, x) for isa in ("avx512", "avx512/division", "avx512/newton")
    )
    assert (division != newton).any()
    assert any(np.array_equal(chosen, way) for way in (division, newton))


def test_the_header_states_the_bounds() -> None:
    """native/vecmath.h prints the table that the engine has."""
    header = Path(__file__).parents[2] / "native" / "vecmath.h"
    found = re.findall(r"^//   (\w+) +([\d.]+) +([\d.]+)$", header.read_text(), re.MULTILINE)
    printed = {
        (name, dtype): float(bound)
        for name, *bounds in found
        for dtype, bound in zip(("float32", "float64"), bounds, strict=True)
    }
    assert {name for name, _ in printed} == {*FUNCTIONS, "pow"} - {"sqrt", "reciprocal"}
    assert printed == {key: BOUNDS[key] for key in printed}


def test_the_measure_sees_errors() -> None:
    """One ULP is one, and NaN, a missing infinity and a wrong zero are infinitely wrong."""
    got = np.array([1.0, np.nan, 3.4e38, 0.0, 1e-45, 0.5], np.float32)
    want = np.array([1 + 2.0**-23, 1.0, 1e39, -0.0, 0.0, 0.5])
    np.testing.assert_allclose(_ulp_error(got, want), [1, np.inf, np.inf, np.inf, 1, 0])
