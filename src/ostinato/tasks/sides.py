"""The training, validation and test sides of the data that a configuration names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ostinato.data import named
from ostinato.data.split import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from ostinato.tasks.config import TrainConfig

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
#: Share of the training data that becomes a side for which there is no data of its own.
_HELD_OUT = 0.1
#: Labels that a note names.
_SHOWN = 5


class Examples(Protocol):
    """What can be split: see :mod:`ostinato.data.examples`."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def keys(self) -> list[str]:
        """One key each; equal examples have equal ones."""
        ...

    def subset(self, indices: Sequence[int] | NDArray[Any]) -> Self:
        """Those at ``indices``."""
        ...


E = TypeVar("E", bound=Examples)


@dataclass
class Sides(Generic[E]):
    """Data on its three sides.

    Attributes:
        train, validation, test: the examples.
        source: where they are from, in words.
        notes: what a reader of the run should know, a sentence each.
    """

    train: E
    validation: E
    test: E
    source: str
    notes: list[str] = field(default_factory=list)

    def labels(self, of: Callable[[E], Iterable[str]]) -> set[str]:
        """The labels on all sides; a note tells of those that training doesn't have.

        Such a label is known, but can't be learnt: each of its examples will be an error.
        """
        learnt = set(of(self.train))
        all_labels = learnt.union(of(self.validation), of(self.test))
        if len(all_labels) > len(learnt):
            never = sorted(all_labels - learnt)
            shown = ", ".join(map(repr, never[:_SHOWN])) + (", ..." if len(never) > _SHOWN else "")
            self.notes.append(
                f"labels that the training part doesn't have, and that can't be learnt: {shown} "
                f"({len(never)} of {len(all_labels)})"
            )
        return all_labels


def read_sides(config: TrainConfig, read: Callable[[list[Path]], E]) -> Sides[E]:
    """Load the files or the named data set, and split off the sides that have none.

    Files whose names all say their side (``train.csv``, ``my-dev.csv``, ``test.csv``) are those
    sides. Other files are one body of data, of which a tenth becomes the validation and another
    tenth the test side, by :func:`ostinato.data.split.split`: the same examples in every run, and
    equal ones on one side.

    Args:
        config: names files or a data set.
        read: the examples in some files.

    Raises:
        InputError: data that is missing or too little.
    """
    if config.data:
        paths = [Path(path) for path in config.data]
        files = by_side(paths)
        found = {side: read(some) for side, some in files.items()}
        source, about = ", ".join(str(path) for path in paths), None
    else:
        data = named.load(config.dataset or named.default(config.task), config.task)
        given = {"train": data.train, "validation": data.validation, "test": data.test}
        found = {side: examples for side, examples in given.items() if examples is not None}
        source = data.name
        about = f"{data.name} is from the {data.source}"
    return _completed(found, source, about)


def by_side(paths: list[Path]) -> dict[str, list[Path]]:
    """The files by the sides that all their names say; else they are one body, ``"train"``."""
    files: dict[str, list[Path]] = {}
    for path in paths:
        words = set(re.split(r"[^a-z]+", path.name.lower()))
        sides = [side for side, names in _WORDS.items() if words & set(names)]
        if len(sides) != 1:
            return {"train": paths}
        files.setdefault(sides[0], []).append(path)
    return files if "train" in files else {"train": paths}


def _completed(found: dict[str, E], source: str, about: str | None) -> Sides[E]:
    notes = [] if about is None else [about]
    missing = [side for side in ("validation", "test") if side not in found]
    if "test" in found:
        seen = set(found["train"].keys())
        keys = found["test"].keys()
        again = sum(key in seen for key in keys)
        if again:
            notes.append(f"{again} of {len(found['test'])} test examples are training examples too")
    if missing:
        shares = {"train": 1 - _HELD_OUT * len(missing), **dict.fromkeys(missing, _HELD_OUT)}
        whole = found["train"]
        parts = split(whole.keys(), shares)
        found = {**found, **{side: whole.subset(rows) for side, rows in parts.items()}}
    sizes = ", ".join(f"{len(found[side]):,} {side}" for side in _WORDS)
    notes.insert(0, f"{source}: {sizes}")
    return Sides(found["train"], found["validation"], found["test"], source, notes)
