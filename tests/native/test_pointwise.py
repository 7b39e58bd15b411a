"""The kernels on rows against NumPy: every operation, awkward sizes, strides, broadcasts, aliasing.

How exact the functions are is test_vecmath's business; here the oracle may differ by a few ULP.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ostinato import _native
from ostinato.compiler.ir import OPS, Group

if TYPE_CHECKING:
    from collections.abc import Callable

ISAS = _native.available_isas()
DTYPES = ["float32", "float64"]
TABLE = {name: arity for name, arity, *_ in _native.op_table()}

ORACLES: dict[str, Callable[..., np.ndarray]] = {
    "copy": lambda a: a,
    "neg": np.negative,
    "abs": np.abs,
    "sign": lambda a: np.where(np.isnan(a), 0, np.sign(a)),  # as torch.sign
    "floor": np.floor,
    "reciprocal": lambda a: 1 / a,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "erf": lambda a: np.vectorize(math.erf, otypes=[float])(a),
    "relu": lambda a: np.maximum(a, 0),
    "copy_past_cache": lambda a: a,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "where": lambda c, a, b: np.where(c != 0, a, b),
    "mul_add": lambda a, b, c: a * b + c,
    "neg_mul_add": lambda a, b, c: c - a * b,
    "sigmoid_grad": lambda g, y: g * y * (1 - y),
    "tanh_grad": lambda g, y: g * (1 - y * y),
    "relu_grad": lambda g, y: np.where(y > 0, g, 0),
    "sigmoid_grad_mul": lambda a, b, y: a * b * y * (1 - y),
    "tanh_grad_mul": lambda a, b, y: a * b * (1 - y * y),
    "sigmoid_add": lambda a, b: 1 / (1 + np.exp(-(a + b))),
    "tanh_add": lambda a, b: np.tanh(a + b),
    "sigmoid_mul_add": lambda a, b, c: 1 / (1 + np.exp(-(a * b + c))),
    "tanh_mul_add": lambda a, b, c: np.tanh(a * b + c),
    "mul_sigmoid": lambda a, b: a / (1 + np.exp(-b)),
    "mul_tanh": lambda a, b: a * np.tanh(b),
    "mul_sigmoid_tanh": lambda a, b: np.tanh(b) / (1 + np.exp(-a)),
    "mul_sigmoid_add": lambda a, b, c: a / (1 + np.exp(-b)) + c,
    "mix": lambda a, b, c: (1 - a) * b + a * c,
}
# What these add may cancel: with operands up to 1e10 an error is one of the larger term.
SUMS = {"mul_add": 1e10, "neg_mul_add": 1e10, "mul_sigmoid_add": 1e10, "mix": 1e20}
EXACT = {name for name, _, f32, f64 in _native.op_table() if f32 == 0 == f64}


def _width(dtype: str, isa: str) -> int:
    return {"avx512": 64, "avx2": 32}.get(isa, 16) // np.dtype(dtype).itemsize


def _expected(op: str, operands: list[np.ndarray]) -> np.ndarray:
    wide = [a.astype(np.float64) for a in operands]
    with np.errstate(all="ignore"):
        return np.asarray(ORACLES[op](*wide)).astype(operands[0].dtype)


def _check(op: str, got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    if op in EXACT:
        np.testing.assert_array_equal(got, want)
    else:
        eps = float(np.finfo(got.dtype).eps)
        np.testing.assert_allclose(got, want, rtol=8 * eps, atol=8 * eps)


def _values(rng: np.random.Generator, op: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    positive = op in ("sqrt", "rsqrt", "log", "log1p", "pow")
    a = rng.normal(0, 2, shape)
    # few distinct values, so that comparisons see equal ones and `where` sees zeros
    if op in ("mul_sigmoid_add", "mix"):
        a = np.abs(a) % 1  # nothing cancels
    a = np.round(a, 1) if op in ("eq", "ne", "le", "ge", "lt", "gt", "where", "sign") else a
    return (np.abs(a) + 0.1 if positive else a).astype(dtype)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_table() -> None:
    """The native table has the IR's pointwise operations, and this file an oracle for each."""
    pointwise = {name for name, spec in OPS.items() if spec.group is Group.POINTWISE}
    extra = {"copy", "copy_past_cache", "mul_add", "neg_mul_add", "mix", "relu_grad"}
    extra |= {"sigmoid_grad", "tanh_grad", "sigmoid_grad_mul", "tanh_grad_mul"}
    extra |= {"sigmoid_add", "tanh_add", "sigmoid_mul_add", "tanh_mul_add"}
    extra |= {"mul_sigmoid", "mul_tanh", "mul_sigmoid_tanh", "mul_sigmoid_add"}
    assert set(TABLE) == (pointwise - {"stop"}) | extra  # stop is a copy
    assert set(ORACLES) == set(TABLE)
    for name in pointwise - {"stop"}:
        assert TABLE[name] == OPS[name].arity


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", sorted(TABLE))
def test_sizes(op: str, dtype: str, isa: str, rng: np.random.Generator) -> None:
    """Every size around a vector and its half, few rows and many; nothing else is written."""
    v = _width(dtype, isa)
    for cols in (0, 1, v // 2, v - 1, v, v + 1, v + v // 2, 2 * v + 3, 4 * v, 5 * v + 1):
        for rows in (0, 1, 3, 9):
            for gap in (0, 5):
                wide = (rows, cols + gap)
                operands = [_values(rng, op, wide, dtype)[:, :cols] for _ in range(TABLE[op])]
                d = np.full((rows, cols + gap), np.nan, dtype)
                _native.pointwise(op, isa, d[:, :cols], operands)
                _check(op, d[:, :cols], _expected(op, operands))
                assert np.isnan(d[:, cols:]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", sorted(TABLE))
def test_broadcasts(op: str, dtype: str, isa: str, rng: np.random.Generator) -> None:
    """Each operand in turn: a matrix, a vector, a column (adjacent or not), a scalar."""
    v = _width(dtype, isa)
    for rows, cols in ((3, 2 * v + 3), (5, 1), (4, 4 * v), (6, 2 * v + 3)):
        shapes = [(rows, cols), (1, cols), (rows, 1), (1, 1)]
        for number in range(len(shapes) ** TABLE[op]):
            operands = []
            for i in range(TABLE[op]):
                kind = number // len(shapes) ** i % len(shapes)
                a = _values(rng, op, shapes[kind], dtype)
                if kind == 2 and number % 2:
                    a = np.repeat(a, 3, 1)[:, 1:2]
                operands.append(np.broadcast_to(a, (rows, cols)))
            d = np.full((rows, cols), np.nan, dtype)
            _native.pointwise(op, isa, d, operands)
            _check(op, d, _expected(op, operands))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["copy", "copy_past_cache"])
def test_copies_to_any_place(op: str, dtype: str, isa: str, rng: np.random.Generator) -> None:
    """Wherever in a line memory begins and ends; nothing else is written."""
    line = 64 // np.dtype(dtype).itemsize
    for begin in range(line + 1):
        for count in (*range(line + 2), 3 * line + 1, 50 * line - 1):
            memory = np.full(begin + count + line, np.nan, dtype)
            a = rng.normal(0, 1, (1, count)).astype(dtype)
            _native.pointwise(op, isa, memory[None, begin : begin + count], [a])
            np.testing.assert_array_equal(memory[begin : begin + count], a[0])
            assert np.isnan(memory[:begin]).all()
            assert np.isnan(memory[begin + count :]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", sorted(TABLE))
def test_the_destination_may_be_an_operand(
    op: str, dtype: str, isa: str, rng: np.random.Generator
) -> None:
    cols = 6 * _width(dtype, isa) + 3
    for place in range(TABLE[op]):
        for rows, gap in ((3, 0), (3, 2), (5, 2)):
            base = [_values(rng, op, (rows, cols + gap), dtype) for _ in range(TABLE[op])]
            operands = [a[:, :cols] for a in base]
            want = np.empty((rows, cols), dtype)
            _native.pointwise(op, isa, want, operands)
            _native.pointwise(op, isa, operands[place], operands)
            np.testing.assert_array_equal(operands[place], want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", sorted(TABLE))
def test_special_values_as_in_torch(op: str, dtype: str, isa: str) -> None:
    """NaN, infinities and signed zeros in every combination, in full vectors and in the rest."""
    inf, nan = math.inf, math.nan
    special = np.array([0.0, -0.0, 1, -1, 0.5, -2.5, 3, 1e10, -1e10, inf, -inf, nan], dtype)
    grid = np.meshgrid(*[special] * TABLE[op], indexing="ij")
    operands = [np.ascontiguousarray(g.reshape(1, -1)) for g in grid]
    d = np.empty_like(operands[0])
    _native.pointwise(op, isa, d, operands)
    a = [torch.from_numpy(o) for o in operands]
    references: dict[str, Callable[..., torch.Tensor]] = {
        "copy": lambda a: a,
        "copy_past_cache": lambda a: a,
        "div": torch.div,
        "max": torch.maximum,
        "min": torch.minimum,
        "where": lambda c, a, b: torch.where(c.bool(), a, b),
        "mul_add": lambda a, b, c: a * b + c,
        "neg_mul_add": lambda a, b, c: c - a * b,
        "sigmoid_grad": lambda g, y: g * y * (1 - y),
        "tanh_grad": lambda g, y: g * (1 - y * y),
        "relu_grad": lambda g, y: torch.where(y > 0, g, 0.0),
        "sigmoid_grad_mul": lambda a, b, y: a * b * y * (1 - y),
        "tanh_grad_mul": lambda a, b, y: a * b * (1 - y * y),
        "sigmoid_add": lambda a, b: torch.sigmoid(a + b),
        "tanh_add": lambda a, b: torch.tanh(a + b),
        "sigmoid_mul_add": lambda a, b, c: torch.sigmoid(a * b + c),
        "tanh_mul_add": lambda a, b, c: torch.tanh(a * b + c),
        "mul_sigmoid": lambda a, b: a * torch.sigmoid(b),
        "mul_tanh": lambda a, b: a * torch.tanh(b),
        "mul_sigmoid_tanh": lambda a, b: torch.sigmoid(a) * torch.tanh(b),
        "mul_sigmoid_add": lambda a, b, c: a * torch.sigmoid(b) + c,
        "mix": lambda a, b, c: (1 - a) * b + a * c,
    }
    want = references.get(op) or getattr(torch, op)
    expected = want(*a).to(a[0].dtype).numpy()
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(d[~finite], expected[~finite])
    # 1 ** y and the like are exact; large sines differ by the C library
    eps = float(np.finfo(d.dtype).eps)
    scale = np.abs(expected[finite]) + SUMS.get(op, 0)
    assert (np.abs(d[finite] - expected[finite]) <= 4 * eps * scale).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [0, 1, 2, 3, 7, 16, 17, 67, 150])
@pytest.mark.parametrize("groups", [1, 3])
def test_groups(groups: int, m: int, dtype: str, isa: str, rng: np.random.Generator) -> None:
    eps = float(np.finfo(dtype).eps)
    for rows in (0, 1, 3, 6):
        for gap in (0, 2):
            wide = rng.normal(0, 1, (rows, groups * m + gap)).astype(dtype)[:, : groups * m]
            runs = wide.astype(np.float64).reshape(rows, groups, m)
            sums = runs.cumsum(-1)
            back = runs[..., ::-1].cumsum(-1)[..., ::-1]
            wants = {"sum": runs.sum(-1), "cumsum": sums, "cumsum_reverse": back}
            if m:
                wants["amax"] = runs.max(-1)
            for op, want in wants.items():
                cols = groups * m if op.startswith("cumsum") else groups
                d = np.full((rows, cols + gap), np.nan, dtype)
                inner = d[:, :cols]
                _native.group(op, isa, inner, wide, groups, m)
                np.testing.assert_allclose(
                    inner, want.reshape(inner.shape), rtol=4 * eps, atol=40 * eps
                )
                assert np.isnan(d[:, cols:]).all()
            few = rng.normal(0, 1, (rows, groups + gap)).astype(dtype)[:, :groups]
            d = np.full((rows, groups * m + gap), np.nan, dtype)
            _native.group("expand", isa, d[:, : groups * m], few, groups, m)
            np.testing.assert_array_equal(d[:, : groups * m], np.repeat(few, m, 1))
            assert np.isnan(d[:, groups * m :]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["sum", "amax", "cumsum", "cumsum_reverse"])
def test_groups_of_a_row_of_one_value(op: str, dtype: str, isa: str) -> None:
    column = np.arange(1, 4, dtype=dtype)[:, None]
    a = np.broadcast_to(column, (3, 10))
    wide = op.startswith("cumsum")
    d, want = np.empty((2, 3, 10 if wide else 2), dtype)
    _native.group(op, isa, d, a, 2, 5)
    _native.group(op, isa, want, a.copy(), 2, 5)
    np.testing.assert_array_equal(d, want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_amax_of_nan_is_nan(dtype: str, isa: str) -> None:
    for m in (3, 16, 70):
        for place in range(m):
            a = np.arange(m, dtype=dtype)[None].copy()
            a[0, place] = np.nan
            d = np.zeros((1, 1), dtype)
            _native.group("amax", isa, d, a, 1, m)
            assert np.isnan(d[0, 0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_moves(dtype: str, isa: str, rng: np.random.Generator) -> None:
    for rows, width, n in ((3, 7, 5), (1, 40, 60), (2, 5, 0), (0, 4, 4), (4, 1, 1)):
        index = rng.integers(0, width, n)
        a = rng.normal(0, 1, (rows, width + 2)).astype(dtype)[:, :width]
        d = np.full((rows, n), np.nan, dtype)
        _native.take(isa, d, a, index)
        np.testing.assert_array_equal(d, a[:, index])
        b = rng.normal(0, 1, (rows, n)).astype(dtype)
        d = np.full((rows, width + 3), np.nan, dtype)
        _native.put(isa, d[:, :width], b, index)
        want = np.zeros((rows, width), dtype)
        for j, i in enumerate(index):
            want[:, i] += b[:, j]
        np.testing.assert_array_equal(d[:, :width], want)
        assert np.isnan(d[:, width:]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 2, 7, 16, 17, 40, 67])
@pytest.mark.parametrize("groups", [1, 3])
def test_normalise(groups: int, m: int, dtype: str, isa: str, rng: np.random.Generator) -> None:
    """The operations on one another's results, each row with another mean and deviation."""
    cols, eps = groups * m, float(np.finfo(dtype).eps)
    for rows in (0, 1, 3):
        for gap in (0, 2):
            a = rng.normal(0, 1, (rows, cols + gap)) * (np.arange(rows)[:, None] + 1) + 2
            a, dy, gain = (z.astype(dtype)[:, :cols] for z in (a, rng.normal(0, 1, a.shape), a + 1))
            runs = a.astype(np.float64).reshape(rows, groups, m)
            scale = 1 / np.sqrt(runs.var(-1, keepdims=True) + 0.1)
            normal = (runs - runs.mean(-1, keepdims=True)) * scale
            moments = np.full((rows, 2 * groups + gap), np.nan, dtype)
            _native.normalise("moments", isa, moments[:, : 2 * groups], [a], groups, 0.1)
            want = np.concatenate([runs.mean(-1), scale[..., 0]], 1)
            np.testing.assert_allclose(moments[:, : 2 * groups], want, rtol=8 * eps, atol=40 * eps)
            y = np.full((rows, cols + gap), np.nan, dtype)
            _native.normalise("normalise", isa, y[:, :cols], [a, moments[:, : 2 * groups]], groups)
            wide = normal.reshape(rows, cols)
            np.testing.assert_allclose(y[:, :cols], wide, rtol=0, atol=60 * eps)
            every = [(dy, gain), (dy, np.broadcast_to(gain[:1], gain.shape))]
            column = np.broadcast_to(dy[:, :1], dy.shape)
            every += [(column, gain), (column, np.broadcast_to(gain[:1, :1], gain.shape))]
            for g, v in every:
                z = (g.astype(np.float64) * v).reshape(rows, groups, m)
                slope = (z * normal).mean(-1, keepdims=True)
                want = (z - z.mean(-1, keepdims=True) - normal * slope) * scale
                d = np.full((rows, cols + gap), np.nan, dtype)
                operands = [g, v, y[:, :cols], moments[:, : 2 * groups]]
                _native.normalise("normalise_grad", isa, d[:, :cols], operands, groups)
                np.testing.assert_allclose(
                    d[:, :cols], want.reshape(rows, cols), rtol=0, atol=1000 * eps
                )
                raw = np.full((rows, cols + gap), np.nan, dtype)
                operands[2] = a
                _native.normalise("normalise_grad_raw", isa, raw[:, :cols], operands, groups)
                np.testing.assert_allclose(raw[:, :cols], d[:, :cols], rtol=0, atol=1000 * eps)
                affine = np.full((rows, cols + gap), np.nan, dtype)
                operands = [a, moments[:, : 2 * groups], v, g]
                _native.normalise("normalise_mul_add", isa, affine[:, :cols], operands, groups)
                np.testing.assert_allclose(affine[:, :cols], wide * v + g, rtol=0, atol=400 * eps)
                for result in (d, raw, affine, y):
                    assert np.isnan(result[:, cols:]).all()
                assert np.isnan(moments[:, 2 * groups :]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalise_in_place_and_of_one_value(dtype: str, isa: str) -> None:
    a = np.arange(20, dtype=dtype).reshape(2, 10) ** 2
    moments = np.empty((2, 4), dtype)
    _native.normalise("moments", isa, moments, [a], 2, 0.5)
    want = np.empty_like(a)
    _native.normalise("normalise", isa, want, [a, moments], 2)
    _native.normalise("normalise", isa, a, [a, moments], 2)
    np.testing.assert_array_equal(a, want)
    dy = np.cos(np.arange(20, dtype=dtype)).reshape(2, 10)
    _native.normalise("normalise_grad", isa, want, [dy, dy, a, moments], 2)
    for place in (a, dy):
        operands = [dy.copy(), dy.copy(), a.copy(), moments]
        operands[0 if place is dy else 2] = place
        kept = place.copy()
        _native.normalise("normalise_grad", isa, place, operands, 2)
        np.testing.assert_array_equal(place, want)
        place[:] = kept
    same = np.broadcast_to(np.array([[3], [4]], dtype), (2, 10))
    _native.normalise("moments", isa, moments, [same], 2, 0.25)
    np.testing.assert_array_equal(moments, [[3, 3, 2, 2], [4, 4, 2, 2]])
    _native.normalise("normalise", isa, want, [same, moments], 2)
    np.testing.assert_array_equal(want, 0)
    _native.normalise("normalise_mul_add", isa, want, [same, moments, dy, dy], 2)
    np.testing.assert_array_equal(want, dy)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("products", [False, True])
def test_sum_rows(products: bool, dtype: str, isa: str, rng: np.random.Generator) -> None:
    v = _width(dtype, isa)
    for cols in (0, 1, v - 1, v, v + 1, 3 * v + 2, 11 * v + 5):
        for rows in (0, 1, 2, 9):
            for gap in (0, 3):
                # few bits, so that products are exact
                a, b = np.round(rng.normal(0, 9, (2, rows, cols + gap))).astype(dtype)[..., :cols]
                acc = rng.normal(0, 1, cols).astype(dtype)
                total = np.zeros(cols, dtype)
                for row in a * b if products else a:  # from the first row on
                    total = total + row
                want = acc + total
                _native.sum_rows(isa, acc, a, b if products else None)
                np.testing.assert_array_equal(acc, want)
    acc = np.ones(5, dtype)
    column = np.broadcast_to(np.array([[1], [2]], dtype), (2, 5))
    _native.sum_rows(isa, acc, column, column if products else None)
    np.testing.assert_array_equal(acc, np.full(5, 6 if products else 4, dtype))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 3])
def test_sum_rows_of_products_with_what_is_normalised(
    groups: int, dtype: str, isa: str, rng: np.random.Generator
) -> None:
    v, eps = _width(dtype, isa), float(np.finfo(dtype).eps)
    for m in (1, v - 1, v + 1, 2 * v, 11 * v + 5):
        for rows in (0, 1, 2, 9):
            cols = groups * m
            a, b = rng.normal(0, 1, (2, rows, cols + 3)).astype(dtype)[..., :cols]
            moments = np.empty((rows, 2 * groups), dtype)
            _native.normalise("moments", isa, moments, [b], groups, 0.1)
            for factor in (a, np.broadcast_to(a[:, :1], a.shape)):
                normal = np.empty((rows, cols), dtype)
                _native.normalise("normalise", isa, normal, [b, moments], groups)
                acc = rng.normal(0, 1, cols).astype(dtype)
                want = acc + (factor.astype(np.float64) * normal).sum(0)
                _native.sum_rows(isa, acc, factor, b, moments)
                np.testing.assert_allclose(acc, want, rtol=0, atol=200 * eps)


def test_bad_names() -> None:
    d = np.zeros((1, 1), np.float32)
    with pytest.raises(ValueError, match="unknown pointwise operation 'tan'"):
        _native.pointwise("tan", ISAS[0], d, [d])
    with pytest.raises(ValueError, match="sse9"):
        _native.pointwise("tanh", "sse9", d, [d])
