"""A deterministic split, with duplicates on one side."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

PARTS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split(
    keys: Sequence[str], parts: Mapping[str, float] = PARTS, seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Share out N examples.

    An example's part follows from its key and the seed alone: a hash of the key, as a number from
    0 to 1, falls into one part's share. So it is the same in every process, on every machine and
    in any order of the rows; equal keys (apart from case, spaces, and the way that accents are
    encoded) fall into one part; and rows that are added or left out move no other. Where there is
    so little data that a part would stay empty, the keys in the order of their hashes are cut at
    the shares instead.

    Args:
        keys: N keys, ``examples.keys()``.
        parts: name -> share, which is taken relative to their sum.
        seed: another seed, another split.

    Returns:
        name -> int64 indices, ascending.

    Raises:
        InputError: shares that aren't positive, or fewer different keys than parts.

    Example:
        >>> sides = split(["a", "b", "A ", "c", "d", "e"], {"train": 0.7, "test": 0.3})
        >>> {name: indices.tolist() for name, indices in sides.items()}
        {'train': [0, 1, 2, 3, 4], 'test': [5]}
    """
    if not parts or not all(share > 0 for share in parts.values()):
        raise InputError(f"a split's shares are above 0, got {dict(parts)}")
    hashes = np.array([_hash(key, seed) for key in keys], dtype=np.uint64)
    different = np.unique(hashes)
    if len(different) < len(parts):
        raise InputError(
            f"{len(different)} different examples can't be split into {len(parts)} parts "
            f"({', '.join(parts)}); give each part its own data"
        )
    edges = np.cumsum(list(parts.values())) / sum(parts.values())
    # 53 bits: a double's own precision, so that the comparison is the same everywhere.
    side = _side((hashes >> np.uint64(11)).astype(np.float64) / 2.0**53, edges)
    if len(np.unique(side)) < len(parts):
        rank = np.searchsorted(different, hashes)
        side = _cut(len(different), edges)[rank]
    return {name: np.flatnonzero(side == i) for i, name in enumerate(parts)}


def _hash(key: str, seed: int) -> int:
    text = " ".join(unicodedata.normalize("NFC", key).casefold().split())
    raw = text.encode("utf-8", "surrogatepass")
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8, salt=salt).digest(), "big")


def _side(place: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(edges[:-1], place, side="right").astype(np.int64)


def _cut(count: int, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The part of each of ``count`` ranks, none of them empty."""
    sizes = np.diff(np.round(edges * count).astype(np.int64), prepend=0)
    while (sizes == 0).any():
        sizes[sizes.argmin()] += 1
        sizes[sizes.argmax()] -= 1
    return np.repeat(np.arange(len(sizes)), sizes)
