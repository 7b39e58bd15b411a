"""What a named data set is: its parts, where they come from, and what its task should know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ostinato.data.examples import (
    SeriesExamples,
    SeriesTable,
    TaggedExamples,
    TextExamples,
    TextStream,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Data = TextExamples | SeriesExamples | TaggedExamples | TextStream | SeriesTable
D = TypeVar("D", bound=Data, covariant=True)


@dataclass(frozen=True)
class Dataset(Generic[D]):
    """One data set.

    Attributes:
        name: what ``--dataset`` calls it.
        task: ``classify``, ``tag``, ``lm`` or ``forecast``.
        source: the package, the licence as far as it is stated, and the size.
        train: what may be learnt from. Of ``forecast`` the whole table: its parts are a matter of
            time, and the task cuts them.
        validation: for choices; None where the set has none, so that it must come out of ``train``.
        test: what is held out; None only for ``forecast``.
        options: values for options of the task that the data themselves suggest (``season``).
    """

    name: str
    task: str
    source: str
    train: D
    validation: D | None = None
    test: D | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
