"""Errors of forecasts by step ahead, beside those of the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.errors import InputError
from ostinato.tasks.task import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MODEL, NAIVE, LINEAR = "model", "seasonal naive", "linear AR"
#: Steps of a table, at most.
SHOWN = 13


@dataclass(frozen=True)
class Errors:
    """Of one series: errors of the model and the baselines.

    Attributes:
        mae, rmse: who forecast -> ``(H,)`` for each step ahead, in the series' units.
        mase: the same as ``mae`` in units of the training part's mean seasonal change.
        all_mae, all_rmse, all_mase: who forecast -> over all steps.
    """

    mae: dict[str, Floats]
    rmse: dict[str, Floats]
    mase: dict[str, Floats]
    all_mae: dict[str, float]
    all_rmse: dict[str, float]
    all_mase: dict[str, float]


def errors_of(forecasts: dict[str, Floats], targets: Floats, unit: Floats) -> Errors:
    """Errors of one series.

    Args:
        forecasts: who -> ``(M, H)`` forecasts from M origins.
        targets: ``(M, H)``; missing ones (NaN) aren't counted.
        unit: ``(M,)``, the unit of the scaled error.

    Raises:
        InputError: scikit-learn isn't installed.
    """
    metrics = _sklearn()
    known = ~np.isnan(targets)
    units = np.broadcast_to(unit[:, None], targets.shape)
    found = Errors({}, {}, {}, {}, {}, {})
    for who, forecast in forecasts.items():

        def by_step(measure: str, scaled: bool = False, forecast: Floats = forecast) -> Floats:
            divisor = units if scaled else np.ones_like(units)
            one = getattr(metrics, measure)
            return np.array(
                [
                    one(targets[k, h] / divisor[k, h], forecast[k, h] / divisor[k, h])
                    if k.any()
                    else np.nan
                    for h, k in enumerate(known.T)
                ]
            )

        t, f, u = targets[known], forecast[known], units[known]
        found.mae[who] = by_step("mean_absolute_error")
        found.rmse[who] = by_step("root_mean_squared_error")
        found.mase[who] = by_step("mean_absolute_error", scaled=True)
        found.all_mae[who] = float(metrics.mean_absolute_error(t, f))
        found.all_rmse[who] = float(metrics.root_mean_squared_error(t, f))
        found.all_mase[who] = float(metrics.mean_absolute_error(t / u, f / u))
    return found


def metrics_of(names: tuple[str, ...], errors: list[Errors]) -> dict[str, float]:
    """Errors over all steps as metrics by name.

    Of one series ``mae``, ``rmse`` and ``mase``; of several ``NAME_mae`` and so on, and ``mase``
    their mean. Each also with ``seasonal_naive_`` and ``linear_ar_`` before it.
    """
    found: dict[str, float] = {}
    for who in (MODEL, NAIVE, LINEAR):
        before = "" if who == MODEL else who.lower().replace(" ", "_") + "_"
        for name, one in zip(names, errors, strict=True):
            series = f"{name}_" if len(names) > 1 else ""
            found[f"{before}{series}mae"] = one.all_mae[who]
            found[f"{before}{series}rmse"] = one.all_rmse[who]
            found[f"{before}{series}mase"] = one.all_mase[who]
        if len(names) > 1:
            found[f"{before}mase"] = float(np.mean([one.all_mase[who] for one in errors]))
    return found


def error_table(title: str, errors: Errors) -> Table:
    """MAE, RMSE and MASE by step ahead, and over all steps."""
    who = list(errors.mae)
    horizon = len(errors.mae[MODEL])
    steps = np.unique(np.linspace(0, horizon - 1, min(horizon, SHOWN)).round().astype(int))
    kinds = (
        ("MAE", errors.mae, errors.all_mae),
        ("RMSE", errors.rmse, errors.all_rmse),
        ("MASE", errors.mase, errors.all_mase),
    )
    rows = [
        [str(step + 1), *(_shown(by[name][step]) for _, by, _ in kinds for name in who)]
        for step in steps
    ]
    rows.append(["all", *(_shown(over[name]) for _, _, over in kinds for name in who)])
    return Table(title, ["step", *(f"{kind} {name}" for kind, _, _ in kinds for name in who)], rows)


def verdict(series: str, errors: Errors) -> str:
    """A sentence: which of the three has the smallest mean absolute error, and at which steps not.

    Steps are counted from 1.
    """
    others = [who for who in errors.mae if who != MODEL]
    over = errors.all_mae
    best = min(over, key=over.__getitem__)
    second = min(others, key=over.__getitem__)
    if best != MODEL and over[best] == 0:
        text = f"{series}: {best} wins, without an error"
    elif best != MODEL:
        worse = over[MODEL] / over[best] - 1
        text = f"{series}: {best} wins; the model's mean absolute error is {worse:.1%} above its"
    elif over[second] == 0:
        text = f"{series}: the model has no error, nor has {second}"
    else:
        better = 1 - over[MODEL] / over[second]
        text = f"{series}: the model's mean absolute error is {better:.1%} below {second}'s"
    lost = np.min([errors.mae[who] for who in others], axis=0) < errors.mae[MODEL]
    if best == MODEL and lost.any():
        text += f"; a baseline wins at {_ranges(np.flatnonzero(lost) + 1)} of {len(lost)}"
    return text


def _ranges(steps: NDArray[np.int64]) -> str:
    """``step 3``, ``steps 1-3, 7``."""
    groups = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1)
    parts = [str(g[0]) if len(g) == 1 else f"{g[0]}-{g[-1]}" for g in groups]
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(parts)


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"


def _sklearn() -> Any:
    try:
        import sklearn.metrics
    except ImportError as error:
        raise InputError(
            "metrics need scikit-learn, which isn't installed: pip install 'ostinato[train]'"
        ) from error
    return sklearn.metrics
