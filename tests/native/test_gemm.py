"""The matrix products against NumPy in float64, at sizes around vectors, tiles and panels."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from ostinato import _native

ISAS = _native.available_isas()
DTYPES = (np.float32, np.float64)

# Columns of a packed panel in float32; half as many in float64. A vector is 1/4, 1/2, 1/3 of it.
PANEL = {"baseline": 12, "avx2": 16, "avx512": 64}
VECTOR = {"baseline": 4, "avx2": 8, "avx512": 16}

# A map whose inputs are adjacent is read as it lies if it has so many for each row.
ELEMENTS_FOR_LANES = 5

ROWS = (0, 1, 2, 3, 5, 6, 7, 13, 25)
DEPTHS = (0, 1, 7, 64)


def panel_of(isa: str, dtype: type) -> int:
    return PANEL[isa] * 4 // np.dtype(dtype).itemsize


def widths(isa: str, dtype: type) -> Iterator[int]:
    panel, vector = panel_of(isa, dtype), VECTOR[isa] * 4 // np.dtype(dtype).itemsize
    yield from sorted({1, vector - 1, vector, vector + 1, panel - 1, panel, panel + 3, 2 * panel})
    yield from sorted({panel + vector, panel + vector + 1, 2 * panel - 1, 2 * panel + vector + 1})


def bound(dtype: type, depth: int, magnitude: np.ndarray) -> np.ndarray:
    """The a-priori bound on a sum of ``depth`` products and two more terms, element by element."""
    return (depth + 3) * np.finfo(dtype).eps * magnitude + np.finfo(dtype).tiny


def assert_close(got: np.ndarray, want: np.ndarray, allowed: np.ndarray) -> None:
    assert got.shape == want.shape
    wrong = ~(np.abs(got.astype(np.float64) - want) <= allowed)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} wrong, first at {np.argwhere(wrong)[0]}"


def map_in(layout: str, rng: np.random.Generator, k: int, n: int, dtype: type) -> np.ndarray:
    """A (k, n) map whose n or k is adjacent in memory, or neither."""
    if layout == "n":
        return rng.standard_normal((k, n)).astype(dtype)
    if layout == "k":
        return rng.standard_normal((n, k)).astype(dtype).T
    return rng.standard_normal((2 * k, 3 * n)).astype(dtype)[::2, ::3]


@pytest.mark.parametrize("layout", ["n", "k", "neither"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gemm(isa: str, dtype: type, layout: str) -> None:
    rng = np.random.default_rng(0)
    for n in widths(isa, dtype):
        for k in DEPTHS:
            w = map_in(layout, rng, k, n, dtype)
            bias = rng.standard_normal(n).astype(dtype)
            for rows in ROWS:
                a = rng.standard_normal((rows, k + 3)).astype(dtype)[:, :k]
                for accumulate in (False, True):
                    for b in (None, bias):
                        out = rng.standard_normal((rows, n + 5)).astype(dtype)
                        before = out.copy()
                        _native.gemm(isa, a, w, b, out[:, :n], accumulate, 0, n)
                        terms = [a.astype(np.float64) @ w.astype(np.float64)]
                        sizes = [np.abs(a).astype(np.float64) @ np.abs(w).astype(np.float64)]
                        for used, term in ((accumulate, before[:, :n]), (b is not None, bias)):
                            if used:
                                terms.append(np.broadcast_to(term, (rows, n)))
                                sizes.append(np.abs(terms[-1]))
                        assert_close(out[:, :n], sum(terms), bound(dtype, k, sum(sizes)))
                        assert (out[:, n:] == before[:, n:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gemm_that_asks_for_memory_gives_the_same_bits(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(1)
    n = 2 * panel_of(isa, dtype)
    # A row of `a` is a run: more of them than can be asked for, and fewer; two blocks of k at most.
    for rows in (*ROWS, 33):
        for k in (*DEPTHS, 600):
            a, w = (rng.standard_normal(s).astype(dtype) for s in ((rows, k), (k, n)))
            got, want = np.zeros((2, rows, n), dtype)
            _native.gemm(isa, a, w, None, got, False, 0, n, asks=True)
            _native.gemm(isa, a, w, None, want, False, 0, n)
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_map_larger_than_the_cache_gives_the_same_bits(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(6)
    panel, k = panel_of(isa, dtype), 600  # two blocks of k
    least = (1 << 19) // (k * np.dtype(dtype).itemsize) + 1
    for n in (least, -(-least // panel) * panel):
        w = rng.standard_normal((k, n)).astype(dtype)
        for rows in (3, 7, 33):
            a = rng.standard_normal((rows, k)).astype(dtype)
            want = np.zeros((rows, n), dtype)
            for begin in range(0, n, panel):  # a part that isn't so large
                _native.gemm(isa, a, w, None, want, False, begin, min(begin + panel, n))
            product, sizes = (x.astype(np.float64) @ y for x, y in ((a, w), (abs(a), abs(w))))
            assert_close(want, product, bound(dtype, k, sizes))
            for descending in (False, True):
                got = np.zeros((rows, n), dtype)
                _native.gemm(isa, a, w, None, got, False, 0, n, descending)
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gemm_past_the_cache_gives_the_same_bits(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(5)
    line = 64 // np.dtype(dtype).itemsize
    for n in widths(isa, dtype):
        wide = (n + line - 1) // line * line
        for k in (*DEPTHS, 600):  # two blocks of k at most
            for rows in (*ROWS, 33):
                a, w = (rng.standard_normal(s).astype(dtype) for s in ((rows, k), (k, n)))
                memory = np.zeros(rows * wide + line, dtype)
                begin = -memory.ctypes.data % 64 // memory.itemsize
                got = memory[begin : begin + rows * wide].reshape(rows, wide)
                want = np.zeros((rows, wide), dtype)
                for accumulate in (False, True):
                    _native.gemm(isa, a, w, None, got[:, :n], accumulate, 0, n, past_cache=True)
                    _native.gemm(isa, a, w, None, want[:, :n], accumulate, 0, n)
                    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("layout", ["n", "k", "neither"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_map_packed_in_parts_gives_the_same_bits(isa: str, dtype: type, layout: str) -> None:
    rng = np.random.default_rng(3)
    vector = VECTOR[isa] * 4 // np.dtype(dtype).itemsize
    for n in widths(isa, dtype):
        for k in (1, 7, 64):
            a, w = rng.standard_normal((3, k)).astype(dtype), map_in(layout, rng, k, n, dtype)
            want = np.zeros((3, n), dtype)
            _native.gemm(isa, a, w, None, want, False, 0, n)
            for k_cut in {1, k // 2, k}:
                for n_cut in {1, vector, vector + 1, n // 2, n - 1, n}:
                    if n_cut <= n:
                        got = np.zeros((3, n), dtype)
                        _native.gemm(isa, a, w, None, got, False, 0, n, k_cut=k_cut, n_cut=n_cut)
                        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("layout", ["n", "k", "neither"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_map_packed_as_it_is_read_gives_the_same_bits(isa: str, dtype: type, layout: str) -> None:
    rng = np.random.default_rng(7)
    panel, line = panel_of(isa, dtype), 64 // np.dtype(dtype).itemsize
    # One block of k, and several: of small ones for a tile of rows, of large ones for more.
    for k in (*DEPTHS, 600, 1100):
        for n in (1, panel - 1, panel, 2 * panel + 1) if k > 64 else widths(isa, dtype):
            w, bias = map_in(layout, rng, k, n, dtype), rng.standard_normal(n).astype(dtype)
            wide = (n + line - 1) // line * line
            for rows in (0, 1, 2, 6, 13, 33):
                if w.strides[0] == w.itemsize and rows * ELEMENTS_FOR_LANES <= k:
                    continue  # read as it lies, which adds in another order: the next test
                a = rng.standard_normal((rows, k + 3)).astype(dtype)[:, :k]
                memory = np.zeros(rows * wide + line, dtype)
                begin = -memory.ctypes.data % 64 // memory.itemsize
                got = memory[begin : begin + rows * wide].reshape(rows, wide)
                want = np.zeros((rows, wide), dtype)
                for accumulate, past_cache in ((False, False), (True, False), (True, True)):
                    for b in (None, bias):
                        for first in {0, (n - 1) // panel * panel}:
                            _native.gemm(
                                isa, a, w, b, got[:, :n], accumulate, first, n,
                                past_cache=past_cache, once=True,
                            )  # fmt: skip
                            _native.gemm(isa, a, w, b, want[:, :n], accumulate, first, n)
                            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_few_rows_times_a_map_as_it_lies(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(8)
    vector, panel = VECTOR[isa] * 4 // np.dtype(dtype).itemsize, panel_of(isa, dtype)
    for k, n in itertools.product(
        (5, vector, 8 * vector + 1, 9 * vector - 1, 1100), (1, 3, 4, 5, 9, panel + 13)
    ):
        w, bias = map_in("k", rng, k, n, dtype), rng.standard_normal(n).astype(dtype)
        for rows in (1, 2, 3, 4, 5, 6, 7, 13):
            if rows * ELEMENTS_FOR_LANES > k:
                continue
            a = rng.standard_normal((rows, k)).astype(dtype)
            for accumulate, b in itertools.product((False, True), (None, bias)):
                for first in {0, (n - 1) // panel * panel}:
                    out = rng.standard_normal((rows, n + 5)).astype(dtype)
                    before, alone = out.copy(), out.copy()
                    _native.gemm(isa, a, w, b, out[:, :n], accumulate, first, n, once=True)
                    want, sizes = (f(a).astype(np.float64) @ f(w) for f in (np.asarray, np.abs))
                    for used, term in ((accumulate, before[:, :n]), (b is not None, bias)):
                        if used:
                            want, sizes = want + term, sizes + np.abs(term)
                    columns = slice(first, n)
                    allowed = bound(dtype, k, sizes)[:, columns]
                    assert_close(out[:, columns], want[:, columns], allowed)
                    for i in range(rows):  # a row's bits don't depend on the others
                        row = alone[i : i + 1, :n]
                        _native.gemm(isa, a[i : i + 1], w, b, row, accumulate, first, n, once=True)
                    np.testing.assert_array_equal(out, alone)
                    out[:, columns] = before[:, columns]
                    np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_vast_map_as_it_lies(isa: str, dtype: type) -> None:
    """Of more than 4 MiB the next columns are asked for while it reads these."""
    rng = np.random.default_rng(9)
    k = 640
    n = (4 << 20) // k // np.dtype(dtype).itemsize + 11
    a, w = rng.standard_normal((7, k)).astype(dtype), map_in("k", rng, k, n, dtype)
    got, want = np.zeros((7, n), dtype), np.zeros((7, n), dtype)
    _native.gemm(isa, a, w, None, got, False, 0, n, once=True)
    half = n // 2 // panel_of(isa, dtype) * panel_of(isa, dtype)
    _native.gemm(isa, a, w, None, want, False, 0, half, once=True)
    _native.gemm(isa, a, w, None, want, False, half, n, once=True)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gemm_of_some_columns_leaves_the_rest_alone(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(1)
    panel = panel_of(isa, dtype)
    n, k = 4 * panel + 3, 9
    w, bias = rng.standard_normal((k, n)).astype(dtype), rng.standard_normal(n).astype(dtype)
    for rows in (1, 2, 7):
        a = rng.standard_normal((rows, k)).astype(dtype)
        whole = np.zeros((rows, n), dtype)
        _native.gemm(isa, a, w, bias, whole, False, 0, n)
        for begin in range(0, n, panel):
            for end in (begin, begin + 1, begin + panel - 1, begin + 2 * panel, n):
                for descending in (False, True):
                    if begin <= end <= n:
                        out = np.full((rows, n), 7, dtype)
                        _native.gemm(isa, a, w, bias, out, False, begin, end, descending)
                        want = np.full((rows, n), 7, dtype)
                        want[:, begin:end] = whole[:, begin:end]
                        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_rows_bits_do_not_depend_on_the_other_rows(isa: str, dtype: type) -> None:
    rng = np.random.default_rng(2)
    n, k = 3 * panel_of(isa, dtype) - 1, 1100  # several blocks of k
    w, bias = rng.standard_normal((k, n)).astype(dtype), rng.standard_normal(n).astype(dtype)
    a = rng.standard_normal((13, k)).astype(dtype)
    whole = np.empty((13, n), dtype)
    _native.gemm(isa, a, w, bias, whole, False, 0, n)
    reference = a.astype(np.float64) @ w.astype(np.float64) + bias
    sizes = np.abs(a).astype(np.float64) @ np.abs(w).astype(np.float64) + np.abs(bias)
    assert_close(whole, reference, bound(dtype, k, sizes))
    for rows in range(1, 13):
        part = np.empty((rows, n), dtype)
        _native.gemm(isa, a[:rows], w, bias, part, False, 0, n)
        np.testing.assert_array_equal(part, whole[:rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_gemm_carries_what_is_not_a_number(isa: str, dtype: type) -> None:
    n = panel_of(isa, dtype) + 1
    a, w = np.ones((3, 4), dtype), np.ones((4, n), dtype)
    a[1, 2], w[0, 5] = np.nan, np.inf
    out = np.zeros((3, n), dtype)
    _native.gemm(isa, a, w, None, out, False, 0, n)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out, a @ w)


@pytest.mark.parametrize("by_k", [False, True], ids=["n adjacent", "k adjacent"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_outer(isa: str, dtype: type, by_k: bool) -> None:
    rng = np.random.default_rng(3)
    panel = panel_of(isa, dtype)
    sizes = [*widths(isa, dtype), 5 * panel + 2]
    # Each width with small ones beside it, either way round, and one pair of large ones.
    shapes = [
        pair for size in sizes for other in (1, 7, 13) for pair in ((size, other), (other, size))
    ]
    shapes += [(sizes[-1], 270), (270, sizes[-1]), (sizes[-1], sizes[-1])]
    for k, n in shapes:
        for rows in (0, 1, 5, 300):  # 300: more than a block
            a = rng.standard_normal((rows, k + 1)).astype(dtype)[:, :k]
            dz = rng.standard_normal((rows, n + 2)).astype(dtype)[:, :n]
            whole = rng.standard_normal((k, n + 4) if not by_k else (n, k + 4)).astype(dtype)
            before = whole.copy()
            g = whole[:, :k] if by_k else whole[:, :n].T
            want = (before[:, :k] if by_k else before[:, :n].T).astype(np.float64)
            size = np.abs(want) + np.abs(dz).T.astype(np.float64) @ np.abs(a)
            _native.outer(isa, a, dz, g)
            want = want + dz.T.astype(np.float64) @ a.astype(np.float64)
            assert_close(g, want, bound(dtype, rows, size))
            rest = slice(k, None) if by_k else slice(n, None)
            assert (whole[:, rest] == before[:, rest]).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    a, w, out = np.ones((2, 3)), np.ones((4, 5)), np.ones((2, 5))
    with pytest.raises(ValueError, match="gemm: a is"):
        _native.gemm("baseline", a, w, None, out, False, 0, 5)
    with pytest.raises(ValueError, match="outer: a is"):
        _native.outer("baseline", a, w, out)


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    before = _native.isa()
    with pytest.raises(ValueError, match=r"'mmx'.*'baseline'"):
        _native.set_isa("mmx")
    assert _native.isa() == before


def test_set_isa() -> None:
    before = _native.isa()
    try:
        for isa in ISAS:
            _native.set_isa(isa)
            assert _native.isa() == isa
    finally:
        _native.set_isa(before)


def imported_with(isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from ostinato import _native; print(_native.isa())"],
        env=os.environ | {"OSTINATO_ISA": isa},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_forces_an_instruction_set(isa: str) -> None:
    done = imported_with(isa)
    assert done.stdout.strip() == isa, done.stderr


def test_the_environment_names_what_is_not_there() -> None:
    done = imported_with("avx1024")
    assert done.returncode != 0
    assert "ImportError: OSTINATO_ISA" in done.stderr
    assert "'avx1024'" in done.stderr
    assert "'baseline'" in done.stderr
