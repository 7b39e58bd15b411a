"""What one thread hands over to another: nothing is received before it is there."""

import numpy as np
import pytest

from ostinato import _native

ISAS = _native.available_isas()
VECTOR = {"baseline": 4, "avx2": 8, "avx512": 16}  # of float32
#: A signalling NaN of each size, as the kernels mark what hasn't been handed over.
NOTHING = {
    np.float32: np.array([0x7FA53C69], np.uint32).view(np.float32)[0:1],
    np.float64: np.array([0x7FF4A53C697A53C6], np.uint64).view(np.float64)[0:1],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", ISAS)
def test_what_is_handed_over_is_received(isa: str, dtype: type) -> None:
    vector = VECTOR[isa] * 4 // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    for n in (1, vector - 1, vector, vector + 1, 3 * vector + 2):
        place = rng.standard_normal(n + 1).astype(dtype)
        beyond = place[n]
        _native.withdraw(isa, place[:n])
        values, got = rng.standard_normal(n).astype(dtype), np.zeros(n, dtype)
        assert _native.receive(isa, got, place[:n]) == 0
        for given in range(1, n + 1):
            _native.hand_over(isa, place[given - 1 : given], values[given - 1 : given])
            there = n if given == n else given // vector * vector
            got[:] = 7
            assert _native.receive(isa, got, place[:n]) == there
            np.testing.assert_array_equal(got[:there], values[:there])
            assert (got[there:] == 7).all()
        _native.withdraw(isa, place[:n])
        assert _native.receive(isa, got, place[:n]) == 0
        assert place[n] == beyond


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", ISAS)
def test_every_value_can_be_handed_over(isa: str, dtype: type) -> None:
    """The mark itself, which only a caller can have, becomes a quiet NaN."""
    least, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    ordinary = np.array([0.0, -0.0, 1.0, least, -least, most, np.inf, -np.inf], dtype)
    values = np.concatenate([ordinary, np.array([np.nan], dtype), np.repeat(NOTHING[dtype], 11)])
    place, got = np.empty_like(values), np.zeros_like(values)
    _native.withdraw(isa, place)
    _native.hand_over(isa, place, values)
    assert _native.receive(isa, got, place) == len(values)
    bits = np.uint32 if dtype is np.float32 else np.uint64
    np.testing.assert_array_equal(got[:8].view(bits), ordinary.view(bits))
    assert np.isnan(got[8:]).all()
