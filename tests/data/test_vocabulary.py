"""The vocabulary: order, size, the special tokens, what is unknown, and back from JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ostinato.data import Vocabulary
from ostinato.errors import InputError, ModelError

TOKENS = [["b", "a", "c"], ["a", "b"], ["d", "e", "d", "d"]]


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ({}, ["<unk>", "d", "a", "b", "c", "e"]),
        ({"padding": True}, ["<pad>", "<unk>", "d", "a", "b", "c", "e"]),
        ({"unknown": False}, ["d", "a", "b", "c", "e"]),
        ({"padding": True, "unknown": False, "size": 3}, ["<pad>", "d", "a"]),
        ({"padding": True, "size": 4}, ["<pad>", "<unk>", "d", "a"]),
        ({"min_count": 2}, ["<unk>", "d", "a", "b"]),
        ({"min_count": 3, "size": 9}, ["<unk>", "d"]),
    ],
)
def test_build(arguments: dict[str, Any], tokens: list[str]) -> None:
    counts = Counter(token for some in TOKENS for token in some)
    for given in (TOKENS, reversed(TOKENS), counts):
        vocabulary = Vocabulary.build(given, **arguments)
        assert list(vocabulary.tokens) == tokens
        assert len(vocabulary) == len(tokens)
        assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_encode_and_decode() -> None:
    vocabulary = Vocabulary.build(TOKENS, 4, padding=True)
    assert (vocabulary.padding, vocabulary.unknown_index) == (0, 1)
    numbers = vocabulary.encode(["a", "z", "d", "c", "<pad>", "<unk>"])
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [3, 1, 2, 1, 1, 1]
    assert vocabulary.encode([]).tolist() == []
    assert vocabulary.encode([]).dtype == np.int64
    assert vocabulary.decode(numbers) == ["a", "<unk>", "d", "<unk>", "<unk>", "<unk>"]
    assert vocabulary.unknown(["a", "z", "z", "c", "<pad>"]) == {"z": 2, "c": 1, "<pad>": 1}
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert "<pad>" not in vocabulary


def test_without_unknown() -> None:
    vocabulary = Vocabulary.build(TOKENS, unknown=False)
    assert vocabulary.encode(["e", "d"]).tolist() == [4, 0]
    assert vocabulary.unknown_index is None
    with pytest.raises(InputError, match="'z' isn't one of the 5 tokens that are known"):
        vocabulary.encode(["a", "z"])


def test_special_tokens_in_the_text_are_unknown() -> None:
    vocabulary = Vocabulary.build([["<pad>", "<pad>", "<unk>", "a"]], padding=True)
    assert vocabulary.tokens == ("<pad>", "<unk>", "a")
    assert vocabulary.encode(["<pad>", "a"]).tolist() == [1, 2]
    # Without padding "<pad>" would be a token like others in a text, but not in a decoded one.
    assert Vocabulary.build([["<pad>", "a"]]).tokens == ("<unk>", "a")


def test_refusals() -> None:
    with pytest.raises(InputError, match="a vocabulary of 2 has no room"):
        Vocabulary.build(TOKENS, 2, padding=True)
    with pytest.raises(InputError, match="no token that comes 5 times"):
        Vocabulary.build(TOKENS, min_count=5)
    with pytest.raises(InputError, match="'a' is there twice"):
        Vocabulary(["b", "a", "a"])
    with pytest.raises(InputError, match="'<unk>' is there twice"):
        Vocabulary(["<unk>", "a"])
    for number in (-1, 6):
        with pytest.raises(InputError, match=f"from 0 to 5, got {number}"):
            Vocabulary.build(TOKENS).decode([0, number])


@pytest.mark.parametrize(
    "damage",
    [
        None,
        [],
        {},
        {"tokens": ["a"]},
        {"padding": True, "unknown": True, "tokens": ["a"], "more": 1},
        {"padding": True, "unknown": True, "tokens": "abc"},
        {"padding": True, "unknown": True, "tokens": ["a", 1]},
        {"padding": 1, "unknown": True, "tokens": ["a"]},
        {"padding": True, "unknown": None, "tokens": ["a"]},
        {"padding": True, "unknown": True, "tokens": ["a", "a"]},
        {"padding": True, "unknown": True, "tokens": ["<pad>"]},
    ],
)
def test_damage_is_noticed(damage: Any) -> None:
    with pytest.raises(ModelError, match="damaged"):
        Vocabulary.from_json(damage)


def test_equality() -> None:
    assert Vocabulary(["a"]) != Vocabulary(["a"], padding=True)
    assert Vocabulary(["a"]) == Vocabulary(["a"])
    assert hash(Vocabulary(["a"])) == hash(Vocabulary(["a"]))
    assert Vocabulary(["a"]) != ["<unk>", "a"]
