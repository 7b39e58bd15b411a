"""Windows over runs of time: from each origin the past that is seen, and what comes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.tasks.rolling import Run
    from ostinato.tasks.scaling import Scaling

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Origins in runs, each with its past and its targets.

    Attributes:
        parts: runs with M origins in all; a run may have none.
        window: rows of a past.
        horizon: rows of targets.
    """

    parts: list[tuple[Run, Rows]]
    window: int
    horizon: int

    @classmethod
    def of(cls, runs: Sequence[Run], part: str, window: int, horizon: int) -> Windows:
        """All origins in the runs' ``train``, ``validation`` or ``test`` part, or ``all``."""
        parts = []
        for run in runs:
            first, second = run.cuts()
            start, stop = {
                "train": (0, first),
                "validation": (first, second),
                "test": (second, len(run)),
                "all": (0, len(run)),
            }[part]
            parts.append((run, run.origins(window, horizon, start, stop)))
        return cls(parts, window, horizon)

    def __len__(self) -> int:
        return sum(len(origins) for _, origins in self.parts)

    def arrays(self, scaling: Scaling) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        """Scaled: M pasts, views of ``(window, C)``, and targets ``(M, horizon, C)``."""
        inputs: list[NDArray[np.float32]] = []
        targets = []
        for run, origins in self.parts:
            scaled = scaling.scaled(run, run.filled).astype(np.float32)
            inputs += [scaled[o - self.window : o] for o in origins]
            targets.append(scaling.scaled(run, run.targets(origins, self.horizon)))
        return inputs, np.concatenate(targets).astype(np.float32)

    def targets(self) -> Floats:
        """``(M, horizon, C)`` in the series' own units."""
        return np.concatenate([run.targets(origins, self.horizon) for run, origins in self.parts])

    def changes(self, scaling: Scaling) -> Floats:
        """``(M, C)``, the unit of the scaled error MASE at each origin."""
        units = [np.tile(scaling.change_of(run), (len(o), 1)) for run, o in self.parts]
        return np.concatenate(units)
