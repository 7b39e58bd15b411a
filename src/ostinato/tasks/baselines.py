"""What a forecast is compared with: last season's values, and a linear autoregression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

#: Orders that are tried, beside one to three seasons (and a step more).
ORDERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 21, 24, 30)
#: Ridge penalties that are tried for direct regressions, in units of the series' variance.
PENALTIES = (0.0, 1.0, 10.0, 100.0)
#: Origins whose pasts are in memory at a time.
BLOCK = 1 << 14


def seasonal_naive(filled: Floats, origins: Rows, horizon: int, season: int) -> Floats:
    """Each step's forecast is the latest known value of the same phase of the season.

    Args:
        filled: ``(N, C)`` without gaps.
        origins: ``(M,)`` rows of the first forecast values, each at least ``season``.
        horizon: steps ahead.
        season: steps of a season; 1: the last value is repeated.

    Returns:
        ``(M, horizon, C)``.

    Source: R. J. Hyndman and G. Athanasopoulos (2021), Forecasting: principles and practice, 3rd
    edition, section 5.2.

    >>> seasonal_naive(np.arange(6.0)[:, None], np.array([6]), 4, 3)[0, :, 0].tolist()
    [3.0, 4.0, 5.0, 3.0]
    """
    return filled[origins[:, None] - season + np.arange(horizon) % season]


def ridge(x: Floats, y: Floats, penalty: float) -> tuple[Floats, Floats]:
    """Linear regression of ``y`` ``(M, H)`` on ``x`` ``(M, P)`` with an unpenalised intercept.

    A missing (NaN) target is left out of its column's regression. Without a penalty it is ordinary
    least squares, and of several solutions the shortest.

    Returns:
        weights ``(P, H)`` and intercepts ``(H,)``.

    Source: A. E. Hoerl and R. W. Kennard (1970), Ridge regression: biased estimation for
    nonorthogonal problems, Technometrics 12(1).
    """
    known: NDArray[np.bool_] = ~np.isnan(y)
    if known.all():
        return _regression(x, y, penalty)
    weight, bias = np.empty((x.shape[1], y.shape[1])), np.empty(y.shape[1])
    # Columns that miss the same rows are one regression.
    patterns, which = np.unique(known.T, axis=0, return_inverse=True)
    for i, rows in enumerate(patterns):
        columns = np.flatnonzero(which == i)
        some = y[np.ix_(np.flatnonzero(rows), columns)]
        weight[:, columns], bias[columns] = _regression(x[rows], some, penalty)
    return weight, bias


def _regression(x: Floats, y: Floats, penalty: float) -> tuple[Floats, Floats]:
    if not len(x):
        return np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    if penalty:
        found = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    else:
        found = np.linalg.lstsq(x, y, rcond=None)[0]
    weight = found.astype(np.float64, copy=False)
    return weight, y_mean - x_mean @ weight


def pasts(filled: Floats, origins: Rows, window: int) -> Floats:
    """``(M, window, C)``: the rows before each origin."""
    return filled[origins[:, None] + np.arange(-window, 0)]


@dataclass(frozen=True)
class LinearAutoregression:
    """The next values of one series as a linear map of its last ones.

    Attributes:
        kind: ``"direct"``: one regression for each step ahead; ``"iterated"``: one for the next
            step, applied to its own forecasts.
        order: how many last values.
        penalty: of the ridge regression; 0: ordinary least squares.
        weight: ``(order, horizon)``; iterated ones are multiplied out.
        bias: ``(horizon,)``.
    """

    kind: str
    order: int
    penalty: float
    weight: Floats
    bias: Floats

    def predict(self, series: Floats, origins: Rows) -> Floats:
        """``(M, horizon)`` forecasts of a series ``(N,)`` without gaps."""
        past = pasts(series[:, None], origins, self.order)[..., 0]
        return past @ self.weight + self.bias

    @property
    def title(self) -> str:
        """In words."""
        fit = f"ridge {self.penalty:g}" if self.penalty else "least squares"
        return f"{self.kind}, order {self.order}, {fit}"

    def to_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return {
            "kind": self.kind,
            "order": self.order,
            "penalty": self.penalty,
            "weight": self.weight.tolist(),
            "bias": self.bias.tolist(),
        }

    @classmethod
    def from_json(cls, values: Any) -> LinearAutoregression:
        """Back from JSON.

        Raises:
            ModelError: damaged.
        """
        try:
            weight = np.array(values["weight"], dtype=np.float64)
            bias = np.array(values["bias"], dtype=np.float64)
            found = cls(
                str(values["kind"]), int(values["order"]), float(values["penalty"]), weight, bias
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the model's linear baseline is damaged: {error!r}") from error
        if weight.shape != (found.order, *bias.shape) or bias.ndim != 1:
            raise ModelError(f"the model's linear baseline is damaged: weights {weight.shape}")
        return found


@dataclass(frozen=True)
class Sample:
    """One run of one series, for fitting.

    Attributes:
        series: ``(N,)`` without gaps, scaled.
        targets: ``(N,)`` the same, NaN where the value was missing.
        train, validation: origins that may be learnt from and chosen on.
    """

    series: Floats
    targets: Floats
    train: Rows
    validation: Rows


def choose(
    samples: Sequence[Sample], horizon: int, window: int, season: int
) -> LinearAutoregression:
    """The best autoregression on the validation part, fitted anew on training and validation.

    All kinds, the orders up to ``window`` and the penalties are fitted on the training origins;
    the least squared error on the validation origins wins. So it is as strong as such a model
    gets: it sees as much of the past as the network does, and later data when it is fitted again.

    Args:
        samples: the runs.
        horizon: steps ahead.
        window: the largest order.
        season: one, two and three of it are tried as orders.
    """
    orders = {*ORDERS, *(k * season + extra for k in (1, 2, 3) for extra in (0, 1)), window}
    count = sum(len(sample.train) for sample in samples)
    # As many windows as coefficients are the least that a regression can be judged by.
    usable = sorted(order for order in orders if order <= window and order < max(count, 2))
    moments = _Moments.of(samples, max(usable), horizon)
    parts = [(sample, sample.validation) for sample in samples]
    past, wanted = _regressors(parts, max(usable)), _targets(parts, horizon)
    best: tuple[float, str, int, float] | None = None
    for order in usable:
        for kind, penalties in (("iterated", (0.0,)), ("direct", PENALTIES)):
            for penalty in penalties:
                # An explosive regression may overflow, and none of these wins.
                with np.errstate(over="ignore", invalid="ignore"):
                    weight, bias = moments.fit(order, penalty, 1 if kind == "iterated" else horizon)
                    if kind == "iterated":
                        weight, bias = iterated(weight[:, 0], float(bias[0]), horizon)
                    squares = (past[:, -order:] @ weight + bias - wanted) ** 2
                    error = float(np.mean(squares[~np.isnan(wanted)]))
                if best is None or error < best[0]:
                    best = error if np.isfinite(error) else np.inf, kind, order, penalty
    assert best is not None
    return _fit(samples, *best[1:], horizon)


@dataclass(frozen=True)
class _Moments:
    """Sums over the training origins from which a regression of any order is solved.

    Attributes:
        gram: ``(W + 1, W + 1)``, products of a past's values, the newest last, and a 1.
        cross: ``(W + 1, H)``, their products with the targets; missing ones count nothing.
        less: step ahead -> what to take off ``gram`` for the origins whose target is missing.
    """

    gram: Floats
    cross: Floats
    less: dict[int, Floats]

    @classmethod
    def of(cls, samples: Sequence[Sample], window: int, horizon: int) -> _Moments:
        gram, cross = np.zeros((window + 1, window + 1)), np.zeros((window + 1, horizon))
        less: dict[int, Floats] = {}
        for sample in samples:
            for first in range(0, len(sample.train), BLOCK):
                some = [(sample, sample.train[first : first + BLOCK])]
                x, y = _regressors(some, window), _targets(some, horizon)
                x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
                missing = np.asarray(np.isnan(y))
                gram += x.T @ x
                cross += x.T @ np.nan_to_num(y)
                for step in np.flatnonzero(missing.any(0)).tolist():
                    rows = x[missing[:, step]]
                    less[step] = less.get(step, 0.0) + rows.T @ rows
        return cls(gram, cross, less)

    def fit(self, order: int, penalty: float, horizon: int) -> tuple[Floats, Floats]:
        """As :func:`ridge`; least squares has a tiny penalty, so that it can be solved as well."""
        tiny = 1e-10 * float(np.trace(self.gram)) / len(self.gram)
        ridge = np.diag([*np.full(order, max(penalty, tiny)), tiny])
        gram, cross = self.gram[-order - 1 :, -order - 1 :], self.cross[-order - 1 :, :horizon]
        found = np.linalg.solve(gram + ridge, cross)
        for step, less in self.less.items():
            if step < horizon:
                own = gram - less[-order - 1 :, -order - 1 :] + ridge
                found[:, step] = np.linalg.solve(own, cross[:, step])
        return found[:-1], found[-1]


def _fit(
    samples: Sequence[Sample], kind: str, order: int, penalty: float, horizon: int
) -> LinearAutoregression:
    """The chosen one, on training and validation origins."""
    parts = [(s, np.concatenate([s.train, s.validation])) for s in samples]
    y = _targets(parts, horizon if kind == "direct" else 1)
    weight, bias = ridge(_regressors(parts, order), y, penalty)
    if kind == "iterated":
        weight, bias = iterated(weight[:, 0], float(bias[0]), horizon)
    return LinearAutoregression(kind, order, penalty, weight, bias)


def _regressors(parts: Sequence[tuple[Sample, Rows]], order: int) -> Floats:
    """``(M, order)`` last values before the origins."""
    return np.concatenate([pasts(s.series[:, None], o, order)[..., 0] for s, o in parts])


def _targets(parts: Sequence[tuple[Sample, Rows]], horizon: int) -> Floats:
    """``(M, horizon)``; NaN where one is missing."""
    return np.concatenate([s.targets[o[:, None] + np.arange(horizon)] for s, o in parts])


def iterated(weight: Floats, bias: float, horizon: int) -> tuple[Floats, Floats]:
    """A one-step map ``(P,)`` applied to its own forecasts, as one map ``(P, H)`` and ``(H,)``.

    >>> weight, bias = iterated(np.array([0.0, 0.5]), 1.0, 3)
    >>> weight[1].tolist(), bias.tolist()
    ([0.5, 0.25, 0.125], [1.0, 1.5, 1.75])
    """
    order = len(weight)
    # Row j of `state` is how the state depends on past value j; the last row on the constant 1.
    state = np.concatenate([np.eye(order), np.zeros((1, order))])
    steps = []
    for _ in range(horizon):
        step = state @ weight
        step[-1] += bias
        steps.append(step)
        state = np.concatenate([state[:, 1:], step[:, None]], axis=1)
    whole = np.stack(steps, axis=1)
    return whole[:-1], whole[-1]
