"""The units of series: what their training parts say of level and spread, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ostinato.tasks.rolling import Run

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """What the training part says of each series of each run: its units.

    A run that it doesn't know has the mean of the known ones.

    Attributes:
        center, scale: run's name -> ``(C,)``, mean and standard deviation.
        change: run's name -> ``(C,)``, the mean absolute difference to a season before, which is
            the unit of the scaled error MASE; of a run without two seasons its scale.

    Source: of MASE: R. J. Hyndman and A. B. Koehler (2006), Another look at measures of forecast
    accuracy, International Journal of Forecasting 22(4).
    """

    center: dict[str, Floats]
    scale: dict[str, Floats]
    change: dict[str, Floats]

    @classmethod
    def learn(cls, runs: Sequence[Run], season: int) -> Scaling:
        """From the training parts alone. A series that is constant there has the scale 1.

        Raises:
            DataError: no run has a value of each series in its training part.
        """
        center, scale, change = {}, {}, {}
        for run in runs:
            part = run.training()
            if part is None:
                continue
            center[run.name] = part.mean(0)
            # The deviation of a constant is rounding, not always 0.
            still = part.std(0) <= 1e-9 * np.abs(part).max(0)
            scale[run.name] = np.where(still, 1.0, part.std(0))
            moved = np.abs(part[season:] - part[:-season])
            unit = moved.mean(0) if len(moved) else scale[run.name]
            change[run.name] = np.where(unit > 0, unit, scale[run.name])
        if not center:
            raise DataError(
                "expected a value of each series in the first 65 % of a run, which are learnt "
                "from; there are only missing ones"
            )
        return cls(center, scale, change)

    def scaled(self, run: Run, values: Floats) -> Floats:
        """``(..., C)`` values of ``run`` in units of the training part."""
        return (values - _of(self.center, run)) / _of(self.scale, run)

    def restored(self, run: Run, values: Floats) -> Floats:
        """What :meth:`scaled` made, in the series' own units again."""
        return values * _of(self.scale, run) + _of(self.center, run)

    def change_of(self, run: Run) -> Floats:
        """``(C,)``, the unit of MASE."""
        return _of(self.change, run)

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        parts = {"center": self.center, "scale": self.scale, "change": self.change}
        return {
            part: {name: one.tolist() for name, one in values.items()}
            for part, values in parts.items()
        }

    @classmethod
    def from_json(cls, values: Any, channels: int) -> Scaling:
        """Back from JSON.

        Raises:
            ModelError: damaged.
        """
        try:
            center, scale, change = (
                {str(name): np.array(one, dtype=np.float64) for name, one in values[part].items()}
                for part in ("center", "scale", "change")
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the model's scales are damaged: {error!r}") from error
        whole = [*center.values(), *scale.values(), *change.values()]
        if not whole or any(one.shape != (channels,) for one in whole):
            raise ModelError(f"the model's scales are damaged: not {channels} numbers a run")
        return cls(center, scale, change)


def _of(values: dict[str, Floats], run: Run) -> Floats:
    """A run's own; the mean of all for one that training didn't have."""
    found = values.get(run.name)
    return found if found is not None else np.mean(list(values.values()), axis=0)
