"""Runs, windows, scales, seasons and future times: what stands before a forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ostinato.data.examples import SeriesTable
from ostinato.errors import DataError, ModelError
from ostinato.tasks.future_times import future_times
from ostinato.tasks.rolling import Run, fill, runs_of
from ostinato.tasks.scaling import Scaling
from ostinato.tasks.season import find_season
from ostinato.tasks.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NAN = np.nan


def run_of(values: Sequence[Any] | NDArray[np.float64], name: str = "") -> Run:
    array = np.array(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    return Run(name, [str(i) for i in range(len(array))], array)


# ---- runs and windows


def test_runs_of_a_table() -> None:
    values = np.array([[1.0], [2], [NAN], [NAN], [5]])
    groups = {"a": slice(0, 2), "none": slice(2, 4), "b": slice(4, 5)}
    table = SeriesTable(("x",), list("01234"), values, groups, [""] * 5)
    found = runs_of(table)
    assert [(run.name, run.times, run.values[:, 0].tolist()) for run in found] == [
        ("a", ["0", "1"], [1, 2]),
        ("b", ["4"], [5]),
    ]


def test_gaps_are_straight_lines_of_their_own_series() -> None:
    values = np.array([[NAN, 1.0], [2, NAN], [NAN, NAN], [NAN, 4], [8, NAN]])
    assert fill(values).T.tolist() == [[2, 2, 4, 6, 8], [1, 2, 3, 4, 4]]


def test_parts_do_not_overlap_in_their_targets() -> None:
    run = run_of(range(100))
    assert run.cuts() == (65, 80)
    targets = {
        part: Windows.of([run], part, 10, 5).targets().ravel()
        for part in ("train", "validation", "test")
    }
    # Each row is some origin's target but the first ten, which have no past.
    assert set(targets["train"]) == set(range(10, 65))
    assert set(targets["validation"]) == set(range(65, 80))
    assert set(targets["test"]) == set(range(80, 100))
    assert len(Windows.of([run], "test", 10, 5)) == 16
    assert len(Windows.of([run], "all", 10, 5)) == 86


def test_a_window_is_what_is_before_its_targets() -> None:
    runs = [run_of(range(20), "a"), run_of(range(100, 130), "b")]
    scaling = Scaling.learn(runs, 1)
    windows = Windows.of(runs, "all", 3, 2)
    inputs, targets = windows.arrays(scaling)
    assert len(inputs) == len(targets) == len(windows) == 16 + 26
    places = [(run, int(o)) for run, origins in windows.parts for o in origins]
    for (run, origin), past, ahead in zip(places, inputs, targets, strict=True):
        first = run.values[0, 0]
        wanted = np.arange(origin - 3, origin) + first
        np.testing.assert_allclose(scaling.restored(run, past)[:, 0], wanted, atol=1e-4)
        wanted = np.arange(origin, origin + 2) + first
        np.testing.assert_allclose(scaling.restored(run, ahead)[:, 0], wanted, atol=1e-4)
    np.testing.assert_array_equal(windows.changes(scaling), np.ones((42, 1)))


def test_origins_with_missing_values() -> None:
    values = np.arange(20.0)
    values[[5, 10, 11, 12]] = NAN
    windows = Windows.of([run_of(values)], "all", 4, 2)
    (_, origins) = windows.parts[0]
    # Not after a missing value, and not before two of them.
    assert origins.tolist() == [4, 5, 7, 8, 9, 14, 15, 16, 17, 18]
    assert np.isnan(windows.targets()[1]).ravel().tolist() == [True, False]


def test_a_past_is_filled_from_itself_alone() -> None:
    """For each origin, rows from it on may be anything."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(40, 2))
    values[draw.random((40, 2)) < 0.3] = NAN
    values[0] = 0
    run = run_of(values)
    window = 6
    origins = run.origins(window, 3, 0, 40)
    assert len(origins) > 5
    for origin in origins:
        changed = values.copy()
        changed[origin:] = 1e9
        np.testing.assert_array_equal(
            run_of(changed).filled[origin - window : origin], run.filled[origin - window : origin]
        )


# ---- scales


def test_scales_are_those_of_the_training_part() -> None:
    values = np.random.default_rng(0).normal(7, 3, (100, 2))
    found = Scaling.learn([run_of(values)], 4)
    part = values[:65]
    np.testing.assert_allclose(found.center[""], part.mean(0))
    np.testing.assert_allclose(found.scale[""], part.std(0))
    np.testing.assert_allclose(found.change[""], abs(part[4:] - part[:-4]).mean(0))
    values[65:] *= 100
    again = Scaling.learn([run_of(values)], 4)
    assert again.to_json() == found.to_json()


def test_a_gap_over_the_cut_is_not_filled_from_beyond_it() -> None:
    values = np.arange(100.0)
    values[60:70] = NAN
    before = Scaling.learn([run_of(values)], 1).to_json()
    values[70:] = 1e6
    assert Scaling.learn([run_of(values)], 1).to_json() == before


def test_scaled_and_restored() -> None:
    runs = [run_of([1.0, 5, 2, 8, 1, 1], "a"), run_of([100.0, 300, 100, 300, 9, 9], "b")]
    found = Scaling.learn(runs, 1)
    for run in runs:
        scaled = found.scaled(run, run.values)
        np.testing.assert_allclose(found.restored(run, scaled), run.values, rtol=1e-12)
    assert found.scaled(runs[1], np.array([[200.0], [300]]))[0, 0] == pytest.approx(
        1 / 3 / 0.9428, 1e-3
    )
    # A run that it doesn't know has the mean of those that it knows.
    other = run_of([0.0], "c")
    center = (found.center["a"] + found.center["b"]) / 2
    np.testing.assert_allclose(found.restored(other, np.zeros((1, 1)))[0], center)


def test_a_constant_has_the_scale_one() -> None:
    found = Scaling.learn([run_of([0.1] * 20)], 3)
    assert found.scale[""].tolist() == found.change[""].tolist() == [1]


def test_without_two_seasons_the_change_is_the_scale() -> None:
    found = Scaling.learn([run_of([1.0, 2, 3, 4, 5, 6])], 5)
    np.testing.assert_array_equal(found.change[""], found.scale[""])


def test_a_training_part_without_values_is_refused() -> None:
    late = [NAN] * 15 + [1.0, 2, 3, 4, 5]
    with pytest.raises(DataError, match=r"expected a value of each series in the first 65 %"):
        Scaling.learn([run_of(late)], 1)
    found = Scaling.learn([run_of(late, "late"), run_of(range(20), "whole")], 1)
    assert set(found.center) == {"whole"}


def test_scales_go_to_json_and_back() -> None:
    found = Scaling.learn([run_of(np.random.default_rng(0).normal(size=(30, 2)))], 2)
    assert Scaling.from_json(found.to_json(), 2).to_json() == found.to_json()
    for damaged in (None, {}, {"center": {}, "scale": {}, "change": {}}, {"center": 1}):
        with pytest.raises(ModelError, match="the model's scales are damaged"):
            Scaling.from_json(damaged, 2)
    with pytest.raises(ModelError, match="not 3 numbers a run"):
        Scaling.from_json(found.to_json(), 3)


# ---- seasons


@pytest.mark.parametrize("season", [4, 7, 12])
def test_a_season_is_found_under_noise_and_a_trend(season: int) -> None:
    t = np.arange(240)
    noise = np.random.default_rng(season).normal(size=(240, 2))
    values = 3 * np.sin(2 * np.pi * t / season)[:, None] + 0.05 * t[:, None] + 0.5 * noise
    assert find_season([run_of(values)]) == season


def test_a_series_of_noise_does_not_hide_another_ones_season() -> None:
    t = np.arange(200)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        swing = 3 * np.sin(2 * np.pi * t / 7) + draw.normal(0, 0.5, 200)
        assert find_season([run_of(np.stack([swing, draw.normal(size=200)], 1))]) == 7


def test_no_season_in_noise_in_a_line_or_in_little() -> None:
    noise = np.random.default_rng(0).normal(size=300)
    assert find_season([run_of(noise)]) == 1
    assert find_season([run_of(np.arange(300.0))]) == 1
    assert find_season([run_of(np.ones(300))]) == 1
    assert find_season([run_of([1.0, 2, 1, 2, 1, 2, 1, 2])]) == 1


def test_what_moves_slowly_has_no_season() -> None:
    t = np.arange(900)
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 0.7, 900)
        assert find_season([run_of(np.sin(2 * np.pi * t / 365) + noise)]) == 1


def test_runs_of_about_the_same_length_decide_together() -> None:
    t = np.arange(200)
    long = run_of(np.random.default_rng(0).normal(size=200), "noise")
    swings = [run_of(np.sin(2 * np.pi * t[:n] / 6), str(n)) for n in (180, 190)]
    assert find_season([long, *swings]) == 6
    # A run of less than half the longest one's length has no say.
    assert find_season([long, run_of(np.sin(2 * np.pi * t[:60] / 6), "short")]) == 1


def test_a_season_is_found_in_the_training_part() -> None:
    t = np.arange(200)
    values = np.sin(2 * np.pi * t / 8)
    values[130:] = np.sin(2 * np.pi * t[130:] / 5) * 50
    assert find_season([run_of(values)]) == 8


# ---- times


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (["2000-02-27", "2000-02-28"], ["2000-02-29", "2000-03-01"]),
        (["2000-12-18", "2000-12-25"], ["2001-01-01", "2001-01-08"]),
        (["2000-10-01", "2000-11-01", "2000-12-01"], ["2001-01-01", "2001-02-01"]),
        (["2000-10-31", "2000-11-30", "2000-12-31"], ["2001-01-31", "2001-02-28"]),
        (["2000-08-31", "2000-09-30", "2000-10-31", "2000-11-30"], ["2000-12-31", "2001-01-31"]),
        (["2000-01-31", "2000-04-30", "2000-07-31"], ["2000-10-31", "2001-01-31"]),
        (["1998-06-15", "1999-06-15", "2000-06-15"], ["2001-06-15", "2002-06-15"]),
        (["2000-01-01T22:00", "2000-01-01T23:00"], ["2000-01-02T00:00", "2000-01-02T01:00"]),
        (
            ["2000-01-01 00:00:30", "2000-01-01 00:01:00"],
            ["2000-01-01 00:01:30", "2000-01-01 00:02:00"],
        ),
        (["2000-01-01T00:00Z", "2000-01-01T12:00Z"], ["2000-01-02T00:00Z", "2000-01-02T12:00Z"]),
        (["20000130", "20000131"], ["20000201", "20000202"]),
        (["1999", "2000"], ["2001", "2002"]),
        (["-4", "-2"], ["0", "2"]),
        (["10000000", "10000001"], ["10000002", "10000003"]),
    ],
)
def test_times_go_on(times: list[str], wanted: list[str]) -> None:
    assert future_times(times, 2) == wanted


@pytest.mark.parametrize(
    "times",
    [
        ["2000-01-01", "2000-01-03", "2000-01-04"],
        ["2000-01-01", "2000-01-05", "2000-02-01"],
        ["1", "2", "4"],
        ["0.5", "1.0"],
        ["2000-01-01"],
        ["7"],
        [],
        ["2000-01-01T00:00", "2000-01-01T01:00+00:00"],
    ],
)
def test_times_without_a_rhythm(times: list[str]) -> None:
    assert future_times(times, 2) == [None, None]


def test_only_the_last_times_count() -> None:
    times = ["3", "1000", *map(str, range(2000, 2025))]
    assert future_times(times, 1) == ["2025"]
