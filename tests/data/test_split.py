"""Splits: shares, the same side for the same key, whatever else there is."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ostinato.data import split
from ostinato.errors import InputError

KEYS = [f"document {i}" for i in range(5000)]


def side_of(keys: list[str], sides: dict[str, np.ndarray]) -> dict[str, str]:
    return {keys[i]: name for name, indices in sides.items() for i in indices}


def test_each_example_is_on_one_side_and_shares_are_kept() -> None:
    sides = split(KEYS)
    assert list(sides) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(sides.values())).tolist()) == list(range(5000))
    for name, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        # Four standard deviations of a binomial.
        assert abs(len(sides[name]) - 5000 * share) < 4 * (5000 * share * (1 - share)) ** 0.5
        assert (np.diff(sides[name]) > 0).all()


def test_known_sides() -> None:
    """Other numbers here would move people's held-out examples into their training part."""
    sides = split([f"{i}" for i in range(30)])
    assert sides["validation"].tolist() == [7, 9, 17, 27]
    assert sides["test"].tolist() == [3, 11, 15]


def test_order_and_company_of_a_key_change_nothing() -> None:
    whole = side_of(KEYS, split(KEYS))
    order = np.random.default_rng(0).permutation(5000)
    shuffled = [KEYS[i] for i in order]
    assert side_of(shuffled, split(shuffled)) == whole
    some = KEYS[100:300]
    assert side_of(some, split(some)) == {key: whole[key] for key in some}


def test_a_seed_is_another_split() -> None:
    sides = [side_of(KEYS, split(KEYS, seed=seed)) for seed in (0, 1)]
    same = sum(sides[0][key] == sides[1][key] for key in KEYS)
    # Independent: 0.8² + 0.1² + 0.1².
    assert abs(same / 5000 - 0.66) < 0.04


def test_another_process_splits_alike() -> None:
    code = "from ostinato.data import split; print(split([str(i) for i in range(50)])['test'])"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{split([str(i) for i in range(50)])['test']}\n"


def test_duplicates_fall_on_one_side() -> None:
    keys = [f"film {i}" for i in range(200)]
    accents = ["café" + str(i) for i in range(200)]
    copies = [
        *keys,
        *(key.upper() for key in keys),
        *(f"  {key.replace(' ', '  ')}\n" for key in keys),
        *accents,
        *(key.replace("é", "e\u0301") for key in accents),
    ]
    sides = split(copies)
    side = np.empty(len(copies), dtype=object)
    for name, indices in sides.items():
        side[indices] = name
    assert (side[:200] == side[200:400]).all()
    assert (side[:200] == side[400:600]).all()
    assert (side[600:800] == side[800:]).all()
    assert len(set(side[:200])) == 3


@pytest.mark.parametrize("count", [3, 4, 7])
def test_no_part_of_little_data_is_empty(count: int) -> None:
    for seed in range(20):
        keys = KEYS[:count] * 2
        sides = split(keys, seed=seed)
        assert all(len(indices) for indices in sides.values())
        side = side_of(keys, sides)
        assert sum(len(i) for i in sides.values()) == len(keys)
        # A key's copy is where the key is.
        assert all(side[keys[i]] == name for name, indices in sides.items() for i in indices)


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"2 different examples can't be split into 3 parts"):
        split(["a", "b", "A"])
    with pytest.raises(InputError, match="shares are above 0"):
        split(KEYS, {"train": 1.0, "test": 0.0})
    with pytest.raises(InputError, match="shares are above 0"):
        split(KEYS, {})


def test_shares_are_relative() -> None:
    assert (
        split(KEYS, {"a": 8, "b": 2})["b"].tolist()
        == split(KEYS, {"a": 0.8, "b": 0.2})["b"].tolist()
    )


def test_odd_characters_in_keys() -> None:
    assert sum(map(len, split(["\ud800", "\x00", "", "漢"]).values())) == 4
