"""The baselines of forecasting, against hand-computed values, scikit-learn and exact series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from ostinato.errors import ModelError
from ostinato.tasks.baselines import (
    LinearAutoregression,
    Sample,
    choose,
    iterated,
    pasts,
    ridge,
    seasonal_naive,
)

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def sample(series: Floats, window: int, horizon: int, targets: Floats | None = None) -> Sample:
    """65 % to learn from, 15 % to choose on."""
    first, second = int(len(series) * 0.65), int(len(series) * 0.8)
    return Sample(
        series,
        series if targets is None else targets,
        np.arange(window, first - horizon + 1),
        np.arange(first, second - horizon + 1),
    )


def autoregressive(weights: tuple[float, ...], bias: float, count: int, noise: float) -> Floats:
    """``x[t] = bias + weights[0] x[t-1] + weights[1] x[t-2] + ... + noise``."""
    draw = np.random.default_rng(0)
    values = list(draw.normal(size=len(weights)))
    for _ in range(count - len(weights)):
        last = np.array(values[: -len(weights) - 1 : -1])
        values.append(bias + float(last @ weights) + noise * draw.normal())
    return np.array(values)


def test_seasonal_naive_repeats_the_last_season() -> None:
    values = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40], [5, 50]])
    found = seasonal_naive(values, np.array([3, 5]), 4, 3)
    assert found[0].tolist() == [[1, 10], [2, 20], [3, 30], [1, 10]]
    assert found[1].tolist() == [[3, 30], [4, 40], [5, 50], [3, 30]]
    # With a season of 1 it is the last value.
    assert seasonal_naive(values, np.array([2]), 3, 1)[0, :, 0].tolist() == [2, 2, 2]


def test_pasts_end_before_the_origin() -> None:
    found = pasts(np.arange(6.0)[:, None], np.array([3, 6]), 2)
    assert found[..., 0].tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_ridge_equals_scikit_learn(penalty: float) -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(1, 2, (50, 4)), draw.normal(3, 1, (50, 3))
    y[[3, 7], 1] = np.nan
    y[[4], 2] = np.nan
    weight, bias = ridge(x, y, penalty)
    for h in range(3):
        known = ~np.isnan(y[:, h])
        oracle = Ridge(alpha=penalty) if penalty else LinearRegression()
        oracle.fit(x[known], y[known, h])
        np.testing.assert_allclose(weight[:, h], oracle.coef_, rtol=1e-9)
        np.testing.assert_allclose(bias[h], oracle.intercept_, rtol=1e-9)


def test_ridge_of_nothing_is_zero() -> None:
    weight, bias = ridge(np.ones((2, 3)), np.full((2, 1), np.nan), 1.0)
    assert weight.tolist() == [[0], [0], [0]]
    assert bias.tolist() == [0]


def test_iterated_is_the_map_applied_to_its_own_forecasts() -> None:
    draw = np.random.default_rng(2)
    weight, bias = draw.normal(0, 0.4, 5), 0.7
    past = draw.normal(size=5)
    values = list(past)
    for _ in range(9):
        values.append(float(np.array(values[-5:]) @ weight) + bias)
    whole, ahead = iterated(weight, bias, 9)
    np.testing.assert_allclose(past @ whole + ahead, values[5:], rtol=1e-12)


def test_an_exact_autoregression_is_found_and_foretold() -> None:
    # |roots| = 0.999: it goes on swinging, so there is something to foretell.
    series = autoregressive((1.6, -0.998), 0.5, 300, 0.0)
    found = choose([sample(series, 12, 6)], 6, 12, 1)
    origins = np.arange(240, 294)
    wanted = series[origins[:, None] + np.arange(6)]
    assert wanted.std() > 0.5
    np.testing.assert_allclose(found.predict(series, origins), wanted, atol=1e-6)


def test_a_noisy_autoregression_has_its_weights() -> None:
    series = autoregressive((0.5, 0.3), 1.0, 4000, 1.0)
    found = choose([sample(series, 8, 1)], 1, 8, 1)
    newest_first = found.weight[::-1, 0]
    assert newest_first[:2] == pytest.approx([0.5, 0.3], abs=0.05)
    assert abs(newest_first[2:]).max(initial=0) < 0.05
    assert found.bias[0] == pytest.approx(1.0, abs=0.2)


def plainly(one: Sample, order: int, kind: str, penalty: float, horizon: int) -> float:
    """The squared error on the validation part of a fit on the training part."""

    def windows(origins: Any, ahead: int) -> tuple[Floats, Floats]:
        x = np.array([one.series[o - order : o] for o in origins])
        return x, np.array([one.targets[o : o + ahead] for o in origins])

    x, y = windows(one.train, horizon)
    if kind == "direct":
        weight, bias = ridge(x, y, penalty)
    else:
        step, start = ridge(x, y[:, :1], 0.0)
        weight, bias = iterated(step[:, 0], float(start[0]), horizon)
    x, y = windows(one.validation, horizon)
    return float(np.nanmean((x @ weight + bias - y) ** 2))


@pytest.mark.parametrize("gaps", [False, True])
def test_the_choice_is_the_best_on_the_validation_part(gaps: bool) -> None:
    t = np.arange(240)
    series = np.sin(t / 3) + 0.5 * np.random.default_rng(3).normal(size=240)
    targets = series.copy()
    if gaps:
        targets[[20, 21, 60, 100, 170, 171]] = np.nan
    one = sample(series, 9, 4, targets)
    found = choose([one], 4, 9, 3)
    ways = [("iterated", 0.0), *(("direct", p) for p in (0.0, 1.0, 10.0, 100.0))]
    errors = {
        (kind, order, penalty): plainly(one, order, kind, penalty, 4)
        for order in range(1, 10)
        for kind, penalty in ways
    }
    assert (found.kind, found.order, found.penalty) == min(errors, key=errors.__getitem__)
    # Fitted anew, on both parts.
    both = np.concatenate([one.train, one.validation])
    x = np.array([series[o - found.order : o] for o in both])
    y = np.array([targets[o : o + 4] for o in both])
    if found.kind == "direct":
        weight, bias = ridge(x, y, found.penalty)
    else:
        step, start = ridge(x, y[:, :1], 0.0)
        weight, bias = iterated(step[:, 0], float(start[0]), 4)
    np.testing.assert_allclose(found.weight, weight)
    np.testing.assert_allclose(found.bias, bias)


def test_values_past_the_two_parts_do_not_count() -> None:
    series = autoregressive((0.5, 0.3), 0.0, 200, 1.0)
    before = choose([sample(series, 6, 3)], 3, 6, 2)
    changed = series.copy()
    changed[160:] = 1e6
    after = choose([sample(changed, 6, 3)], 3, 6, 2)
    assert after.to_json() == before.to_json()


def test_runs_are_not_joined() -> None:
    runs = [np.full(60, 2.0), np.full(60, -5.0)]
    found = choose([sample(run, 6, 2) for run in runs], 2, 6, 1)
    for run in runs:
        np.testing.assert_allclose(found.predict(run, np.array([30]))[0], run[:2], atol=1e-6)


def test_an_explosive_regression_does_not_win() -> None:
    """Doubling 1,100 times overflows, which is no warning and no best error."""
    series = np.concatenate([2.0 ** np.arange(30), np.zeros(1500)])
    found = choose([Sample(series, series, np.arange(1, 29), np.arange(100, 110))], 1100, 1, 1)
    assert found.kind == "direct"
    assert np.isfinite(found.weight).all()


def test_baselines_go_to_json_and_back() -> None:
    found = choose([sample(autoregressive((0.5,), 0.0, 100, 1.0), 5, 2)], 2, 5, 1)
    values = found.to_json()
    again = LinearAutoregression.from_json(values)
    assert again.to_json() == values
    series, origins = np.arange(20.0), np.array([5, 20])
    np.testing.assert_array_equal(again.predict(series, origins), found.predict(series, origins))


@pytest.mark.parametrize(
    "damage",
    [{"weight": [[1.0]]}, {"weight": "x"}, {"bias": [[1.0]]}, {"order": None}, {"kind": ...}],
)
def test_a_damaged_baseline_is_refused(damage: dict[str, Any]) -> None:
    values = LinearAutoregression("direct", 2, 1.0, np.ones((2, 3)), np.ones(3)).to_json()
    values = {name: one for name, one in {**values, **damage}.items() if one is not ...}
    with pytest.raises(ModelError, match="the model's linear baseline is damaged"):
        LinearAutoregression.from_json(values)


def test_titles() -> None:
    one = LinearAutoregression("direct", 2, 10.0, np.ones((2, 3)), np.ones(3))
    assert one.title == "direct, order 2, ridge 10"
    other = LinearAutoregression("iterated", 3, 0.0, np.ones((3, 3)), np.ones(3))
    assert other.title == "iterated, order 3, least squares"
