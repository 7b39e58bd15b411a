"""The table of named data sets: a name, its task, the module that loads it."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from ostinato.data.named.labelled_series import SETS as LABELLED_SERIES
from ostinato.errors import InputError

if TYPE_CHECKING:
    from ostinato.data.named.dataset import Dataset

#: Name -> task and module, each with a ``load(name)``. The first one of a task is its default.
DATASETS: dict[str, tuple[str, str]] = {
    "imdb": ("classify", "movie_reviews"),
    "rotten-tomatoes": ("classify", "movie_reviews"),
    **dict.fromkeys(LABELLED_SERIES, ("classify", "labelled_series")),
    "hkcancor": ("tag", "hkcancor"),
    "shakespeare": ("lm", "shakespeare"),
    "co2": ("forecast", "co2"),
    "sunspots": ("forecast", "sunspots"),
    "seattle-weather": ("forecast", "seattle_weather"),
}


def names(task: str | None = None) -> list[str]:
    """The data sets of a task, its default one first; without ``task`` all of them.

    >>> names("forecast")
    ['co2', 'sunspots', 'seattle-weather']
    """
    return [name for name, (of, _) in DATASETS.items() if task in (None, of)]


def default(task: str) -> str:
    """The data set that a task takes where none is named.

    Raises:
        InputError: no such task.

    >>> default("classify")
    'imdb'
    """
    found = names(task)
    if not found:
        tasks = dict.fromkeys(of for of, _ in DATASETS.values())
        raise InputError(f"no task is called {task!r}; there are: {', '.join(tasks)}")
    return found[0]


def load(name: str, task: str | None = None) -> Dataset[Any]:
    """Read a data set.

    Args:
        name: one of :func:`names`.
        task: the task that wants it.

    Raises:
        InputError: no such data set, or one of another task; or its package isn't installed,
            which the message says how to do.
        DataError: the package's file isn't what it was.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"no data set is called {name!r}; {hint}there are: {', '.join(names(task))}"
        )
    of, module = DATASETS[name]
    if task not in (None, of):
        known = ", ".join(names(task))
        raise InputError(f"the data set {name!r} is for {of}, not {task}; for {task}: {known}")
    loaded: Dataset[Any] = importlib.import_module(f"ostinato.data.named.{module}").load(name)
    return loaded
