"""ostinato: recurrent neural networks on PyTorch, any cell at native speed.

Write a cell as the equations of its paper, an ordinary module that takes one step, and give it to
:class:`Recurrent`. Names are imported when they are first used, so that ``ostinato._native`` alone
needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato import cells as cells
    from ostinato import nn as nn
    from ostinato.acceleration import accelerate as accelerate
    from ostinato.acceleration import restore as restore
    from ostinato.errors import DataError as DataError
    from ostinato.errors import DivergedError as DivergedError
    from ostinato.errors import InputError as InputError
    from ostinato.errors import ModelError as ModelError
    from ostinato.errors import OstinatoError as OstinatoError
    from ostinato.errors import SlowPathError as SlowPathError
    from ostinato.errors import TraceError as TraceError
    from ostinato.nn import Bidirectional as Bidirectional
    from ostinato.nn import Recurrent as Recurrent
    from ostinato.nn import Stacked as Stacked
    from ostinato.nn import TimeDistributed as TimeDistributed
    from ostinato.strictness import strict as strict
    from ostinato.truncated import detach_state as detach_state
    from ostinato.truncated import windows as windows

__version__ = "0.1.0"

_HOMES = {
    "Bidirectional": "ostinato.nn",
    "DataError": "ostinato.errors",
    "DivergedError": "ostinato.errors",
    "InputError": "ostinato.errors",
    "ModelError": "ostinato.errors",
    "OstinatoError": "ostinato.errors",
    "Recurrent": "ostinato.nn",
    "SlowPathError": "ostinato.errors",
    "Stacked": "ostinato.nn",
    "TimeDistributed": "ostinato.nn",
    "TraceError": "ostinato.errors",
    "accelerate": "ostinato.acceleration",
    "cells": "ostinato.cells",
    "detach_state": "ostinato.truncated",
    "nn": "ostinato.nn",
    "restore": "ostinato.acceleration",
    "strict": "ostinato.strictness",
    "windows": "ostinato.truncated",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if name in ("cells", "nn") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
