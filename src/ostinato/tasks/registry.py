"""The tasks by name. A task's module is imported when the task is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ostinato.errors import InputError

if TYPE_CHECKING:
    from ostinato.tasks.task import Task

_HOMES = {
    "classify": ("ostinato.tasks.classify", "Classify"),
    "tag": ("ostinato.tasks.tag", "Tag"),
    "lm": ("ostinato.tasks.language_model", "LanguageModel"),
    "forecast": ("ostinato.tasks.forecast", "Forecast"),
}


class _Tasks(Mapping[str, "type[Task]"]):
    def __getitem__(self, name: str) -> type[Task]:
        if name not in _HOMES:
            raise InputError(f"no task is called {name!r}; there are: {', '.join(_HOMES)}")
        module, cls = _HOMES[name]
        return getattr(importlib.import_module(module), cls)  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in _HOMES

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


#: The classes of all tasks by name.
TASKS: Mapping[str, type[Task]] = _Tasks()
