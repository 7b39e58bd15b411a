"""Forecasting: nothing of the future is seen, and errors are those of honest forecasts."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ostinato.data import BadRows, read_rows
from ostinato.errors import DataError, InputError, ModelError
from ostinato.tasks import model_directory, run
from ostinato.tasks.config import TrainConfig
from ostinato.tasks.forecast import Forecast
from ostinato.tasks.forecaster import linear_part
from small_data import small

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ostinato.train import History

ROWS, HORIZON, WINDOW, SEASON = 160, 3, 8, 4


def swings(count: int = ROWS, seed: int = 0, level: float = 50) -> list[float]:
    """A season of 4 steps, a slow wave, noise."""
    draw = np.random.default_rng(seed)
    t = np.arange(count)
    noise = np.convolve(draw.normal(0, 0.5, count + 2), [1, 0.5, 0.2], "valid")
    return list((level + np.sin(np.pi / 2 * t) + np.sin(t / 9) + noise).round(4))


def text_of(values: Sequence[float | None], name: str = "level") -> str:
    """A CSV with ``time`` from 1 and one series; None is missing."""
    rows = [f"{t},{'' if v is None else v}" for t, v in enumerate(values, 1)]
    return "\n".join([f"time,{name}", *rows]) + "\n"


def write(path: Path, values: Sequence[float | None], name: str = "level") -> Path:
    path.write_text(text_of(values, name))
    return path


def config_of(path: Path, **given: object) -> TrainConfig:
    choices: dict[str, object] = {
        "task": "forecast",
        "horizon": HORIZON,
        "window": WINDOW,
        "season": SEASON,
        "epochs": 2,
    }
    return small(path, **{**choices, **given})


def task_of(path: Path, **given: object) -> Forecast:
    task = Forecast(config_of(path, **given))
    task.read(BadRows())
    return task


def rows_in(text: str) -> Any:
    return read_rows(io.BytesIO(text.encode()), BadRows())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model of one series."""
    path = write(tmp_path_factory.mktemp("forecast") / "level.csv", swings())
    return run.train(config_of(path)).directory


# ---- evaluation


def test_errors_are_those_of_predictions_from_the_past_alone(trained: Path) -> None:
    """Each origin anew: a model that is given only the rows before it predicts what follows."""
    found = run.evaluate(trained)
    task, model, _ = model_directory.load(trained)
    values, model_errors, naive_errors = swings(), [], []
    for origin in range(int(ROWS * 0.8), ROWS - HORIZON + 1):
        rows = list(task.predict(model, rows_in(text_of(values[:origin])), BadRows()))
        assert [row["step"] for row in rows] == [1, 2, 3]
        assert [row["time"] for row in rows] == [str(origin + k) for k in (1, 2, 3)]
        wanted = np.array(values[origin : origin + HORIZON])
        model_errors.append([row["level"] for row in rows] - wanted)
        naive_errors.append(np.array(values[origin - SEASON :][:HORIZON]) - wanted)
    first = np.array(values[: int(ROWS * 0.65)])
    unit = abs(first[SEASON:] - first[:-SEASON]).mean()
    assert len(model_errors) == 30
    assert "30 origins, 129 to 158" in found.notes[0]
    for name, errors in (("", model_errors), ("seasonal_naive_", naive_errors)):
        mae, rmse = np.mean(np.abs(errors)), np.sqrt(np.mean(np.square(errors)))
        for kind, wanted in (("mae", mae), ("mase", mae / unit), ("rmse", rmse)):
            assert found.metrics[f"{name}{kind}"] == pytest.approx(wanted, rel=1e-5)
    (table,) = found.tables
    assert table.columns[:4] == ["step", "MAE model", "MAE seasonal naive", "MAE linear AR"]
    assert [row[0] for row in table.rows] == ["1", "2", "3", "all"]
    for row, errors in zip(table.rows, np.abs(model_errors).T, strict=False):
        assert float(row[1]) == pytest.approx(errors.mean(), rel=1e-3)
    assert set(found.metrics) == {
        f"{who}{kind}" for who in ("", "seasonal_naive_", "linear_ar_")
        for kind in ("mae", "rmse", "mase")
    }  # fmt: skip


def test_the_held_out_end_changes_nothing_that_is_learnt(tmp_path: Path) -> None:
    values = swings()
    changed = [*values[:128], *(-1000 * v for v in values[128:])]
    results, metas, weights = [], [], []
    for name, series in (("a", values), ("b", changed)):
        config = config_of(write(tmp_path / f"{name}.csv", series), out=str(tmp_path / name))
        results.append(run.train(config))
        metas.append((tmp_path / name / "vocabulary.json").read_bytes())
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert metas[0] == metas[1]
    assert weights[0] == weights[1]
    metrics = [[e.metrics for e in r.history.epochs] for r in results]
    assert metrics[0] == metrics[1]
    assert results[0].evaluation != results[1].evaluation


def test_the_validation_part_changes_only_choices(tmp_path: Path) -> None:
    """Not the scales, not what the network is trained on and begins with."""
    values = swings()
    changed = [*values[:104], *(-1000 * v for v in values[104:])]
    tasks = [task_of(write(tmp_path / f"{n}.csv", v)) for n, v in (("a", values), ("b", changed))]
    assert tasks[0].scaling.to_json() == tasks[1].scaling.to_json()
    batches, states = [], []
    for task in tasks:
        torch.manual_seed(0)
        model = task.build()
        states.append(model.state_dict())
        batches.append(list(task.prepare(model, None).batches.epoch(0)))
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.target, b.target)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_evaluation_on_another_file(trained: Path, tmp_path: Path) -> None:
    values = swings(60, seed=4)
    path = write(tmp_path / "more.csv", values)
    found = run.evaluate(trained, [path])
    assert "more.csv: 50 origins, 9 to 58" in found.notes[0]
    naive = [
        abs(values[o + h] - values[o + h - SEASON]) for o in range(8, 58) for h in range(HORIZON)
    ]
    assert found.metrics["seasonal_naive_mae"] == pytest.approx(np.mean(naive))
    short = write(tmp_path / "short.csv", values[:10])
    with pytest.raises(DataError, match=r"short\.csv: no run has 8 past and 3 next values"):
        run.evaluate(trained, [short])


def season_before(values: Sequence[Any], row: int) -> float:
    """A gap is filled by its neighbours' mean."""
    found = values[row - SEASON]
    return (values[row - SEASON - 1] + values[row - SEASON + 1]) / 2 if found is None else found


def test_missing_targets_are_not_counted(trained: Path, tmp_path: Path) -> None:
    values: list[float | None] = [*swings(30, seed=5)]
    whole = run.evaluate(trained, [write(tmp_path / "whole.csv", values)])
    values[20] = None
    found = run.evaluate(trained, [write(tmp_path / "gap.csv", values)])
    # The row after the gap has no complete row before it.
    assert "20 origins" in whole.notes[0]
    assert "19 origins" in found.notes[0]
    known = [
        abs(values[o + h] - season_before(values, o + h))
        for o in range(8, 28)
        for h in range(HORIZON)
        if o != 21 and values[o + h] is not None
    ]
    assert found.metrics["seasonal_naive_mae"] == pytest.approx(np.mean(known))


def test_several_series(tmp_path: Path) -> None:
    a, b = swings(seed=1), [1000 * v for v in swings(seed=2)]
    path = tmp_path / "two.csv"
    lines = [f"{t},{x},{y},word" for t, (x, y) in enumerate(zip(a, b, strict=True))]
    path.write_text("\n".join(["day,a,b,note", *lines]) + "\n")
    result = run.train(config_of(path, time="day"))
    assert result.evaluation is not None
    metrics = result.evaluation.metrics
    assert metrics["mase"] == pytest.approx((metrics["a_mase"] + metrics["b_mase"]) / 2)
    assert 300 < metrics["b_mae"] / metrics["a_mae"] < 3000
    assert [t.title for t in result.evaluation.tables] == [
        "error of a by steps ahead",
        "error of b by steps ahead",
    ]
    found = list(run.predict(result.directory, read_rows(path, BadRows())))
    assert [list(row) for row in found] == [["step", "time", "a", "b"]] * 3
    assert all(45 < row["a"] < 55 and 45_000 < row["b"] < 55_000 for row in found)
    one = task_of(path, time="day", value=("b",))
    assert one.names == ("b",)


def test_several_groups(tmp_path: Path) -> None:
    levels = {"low": 10.0, "high": 5000.0}
    lines = [
        f"{name},2000-{t // 28 + 1:02d}-{t % 28 + 1:02d},{v}"
        for name, level in levels.items()
        for t, v in enumerate(swings(150, seed=len(name), level=level))
    ]
    path = tmp_path / "shops.csv"
    path.write_text("\n".join(["shop,date,sold", *lines, "new,2000-01-01,3", ""]))
    result = run.train(config_of(path, group="shop", value=("sold",)))
    assert result.evaluation is not None
    assert "56 origins in 2 runs" in result.evaluation.notes[0]
    assert "the times keep no one distance: each row is taken for one step" in result.notes
    task, _, _ = model_directory.load(result.directory)
    assert isinstance(task, Forecast)
    assert task.scaling.center["low"][0] == pytest.approx(10, abs=1)
    assert task.scaling.center["high"][0] == pytest.approx(5000, abs=1)
    bad = BadRows("skip")
    found = list(run.predict(result.directory, read_rows(path, BadRows()), bad))
    assert [row["shop"] for row in found] == ["low"] * 3 + ["high"] * 3
    assert all(abs(row["sold"] - levels[row["shop"]]) < 5 for row in found)
    assert bad.examples == [
        f"{path}:302: the run is shorter than the model's window: 1 rows up to the last complete "
        "one, 8 needed"
    ]
    with pytest.raises(DataError, match=r"shops\.csv:302: the run is shorter"):
        list(run.predict(result.directory, read_rows(path, BadRows())))


# ---- prediction


def test_predictions_do_not_depend_on_other_rows(trained: Path) -> None:
    """Only the last window counts, in time's order, wherever the rows are from."""
    values = swings(40, seed=7)
    whole = list(run.predict(trained, rows_in(text_of(values))))
    assert [row["time"] for row in whole] == ["41", "42", "43"]
    lines = text_of(values).splitlines()
    mixed = "\n".join([lines[0], *reversed(lines[-WINDOW:])])
    assert list(run.predict(trained, rows_in(mixed))) == whole
    as_json = "\n".join(json.dumps({"time": t, "level": v}) for t, v in enumerate(values, 1))
    assert list(run.predict(trained, rows_in(as_json))) == whole


def test_prediction_begins_after_the_last_complete_row(trained: Path) -> None:
    values = swings(40, seed=7)
    whole = list(run.predict(trained, rows_in(text_of(values))))
    ends_open = list(run.predict(trained, rows_in(text_of([*values, None, None]))))
    assert ends_open == whole
    with pytest.raises(DataError, match=r"the open file:2: the run is shorter"):
        list(run.predict(trained, rows_in(text_of([*values[:7], None, None]))))
    with pytest.raises(DataError, match="level"):
        list(run.predict(trained, rows_in("time,other\n1,2\n")))


def test_a_gap_in_the_past_is_a_straight_line(trained: Path) -> None:
    values: list[float | None] = [*swings(40, seed=7)]
    filled = [*values[:35], (values[34] + values[36]) / 2, *values[36:]]  # type: ignore[operator]
    gap = [*values[:35], None, *values[36:]]
    first, second = (list(run.predict(trained, rows_in(text_of(v)))) for v in (filled, gap))
    for a, b in zip(first, second, strict=True):
        assert a["level"] == pytest.approx(b["level"], abs=1e-5)
    assert first != list(run.predict(trained, rows_in(text_of(values))))


# ---- a run


def timeless(history: History) -> Any:
    return [(e.loss, e.metrics, e.grad_norm) for e in history.epochs]


def test_the_saved_configuration_alone_gives_the_same_bits(tmp_path: Path) -> None:
    path = write(tmp_path / "level.csv", swings())
    # Season, window and horizon are the task's to choose.
    config = small(path, task="forecast", epochs=2, seed=3, out=str(tmp_path / "a"))
    first = run.train(config)
    again = TrainConfig.from_file(first.directory / "config.json")
    assert (again.season, again.window, again.horizon) == (4, 12, 12)
    second = run.train(again.replace(out=str(tmp_path / "b")))
    for name in ("model.safetensors", "vocabulary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert timeless(first.history) == timeless(second.history)
    assert first.evaluation == second.evaluation == run.evaluate(tmp_path / "a")
    other = run.train(again.replace(out=str(tmp_path / "c"), seed=4))
    assert timeless(other.history) != timeless(first.history)


@pytest.mark.parametrize(
    "damage",
    [
        {"names": None},
        {"names": ["a", "b"]},
        {"baselines": []},
        {"baselines": [{}]},
        {"scaling": {"center": {"": [1.0, 2.0]}, "scale": {}, "change": {}}},
    ],
)
def test_a_damaged_description_is_refused(trained: Path, damage: dict[str, Any]) -> None:
    task, _, _ = model_directory.load(trained)
    meta = task.meta()
    assert Forecast.restore(task.config, json.loads(json.dumps(meta))).meta() == meta
    with pytest.raises(ModelError, match=r"damaged|2 series, but 1 baselines|1 series, but 0"):
        Forecast.restore(task.config, {**meta, **damage})


def test_the_options_that_the_series_decide(tmp_path: Path) -> None:
    path = write(tmp_path / "level.csv", swings())
    found = task_of(path, season=0, window=0).config
    assert (found.season, found.window) == (4, 12)
    flat = write(tmp_path / "noise.csv", list(np.random.default_rng(0).normal(size=160)))
    found = task_of(flat, season=0, window=0).config
    assert (found.season, found.window) == (1, 24)
    assert task_of(path, epochs=None).config.epochs == 120
    # 94 windows: enough for 8 coefficients, not for 20.
    assert task_of(path, window=8).linear
    assert not task_of(path, window=20).linear


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            swings(20),
            {"horizon": 4},
            r"the longest run has 20 rows, of which the validation part has no window",
        ),
        (
            swings(12),
            {},
            r"the longest run has 12 rows, of which the train part has no window of 8",
        ),
        (swings(), {"window": 3}, r"window of 3 steps is shorter than the season of 4.*--window"),
        ([None] * 20, {"value": ("level",)}, "each series needs values, and one has none"),
        (swings(), {"value": ("lvel",)}, r"'lvel'.*'time', 'level'"),
        (swings(), {"time": "tme"}, r"'tme'.*'time', 'level'"),
        (swings(), {"group": "shop"}, r"'shop'.*'time', 'level'"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, values: list[float | None], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        task_of(write(tmp_path / "level.csv", values), **options)


def test_names_that_predictions_need_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "level.csv", swings(), name="step")
    with pytest.raises(InputError, match="a series can't be called step, which predictions have"):
        task_of(path)


def test_a_series_of_a_named_data_set() -> None:
    config = TrainConfig(task="forecast", dataset="sunspots", value=("spots",))
    with pytest.raises(InputError, match="sunspots has no series spots; there are: SUNACTIVITY"):
        Forecast(config).read(BadRows())
    task = Forecast(config.replace(value=()))
    task.read(BadRows())
    assert (task.config.season, task.config.horizon, task.config.window) == (11, 11, 33)


# ---- the model of a task


def test_training_begins_with_the_linear_part(tmp_path: Path) -> None:
    task = task_of(write(tmp_path / "level.csv", swings()))
    built = task.build()
    wanted, _ = linear_part(*task._windows("train").arrays(task.scaling))
    torch.testing.assert_close(built.weight.detach(), wanted.float())
    assert not built.head.weight.any()


def test_a_missing_target_is_no_error(tmp_path: Path) -> None:
    values: list[float | None] = [*swings()]
    values[40] = None
    task = task_of(write(tmp_path / "level.csv", values), batch_size=200)
    torch.manual_seed(0)
    model = task.build().eval()
    prepared = task.prepare(model, None)
    (batch,) = prepared.batches.epoch(0)
    assert batch.target.isnan().sum() == 3
    outcome = prepared.objective(model, batch, None)
    forecast = model(batch.x)
    known = ~batch.target.isnan()
    squares = (forecast - batch.target)[known].square().sum()
    torch.testing.assert_close(outcome.loss, squares / batch.target.numel())
    outcome.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_baseline_that_wins_is_said_to(tmp_path: Path) -> None:
    """A season that repeats exactly, and a network that goes wrong."""
    path = write(tmp_path / "level.csv", [1.0, 5, 2, 8] * 40)
    result = run.train(config_of(path, window=20, epochs=1, lr=0.3))
    assert result.evaluation is not None
    assert result.evaluation.metrics["seasonal_naive_mae"] == 0
    assert any("seasonal naive wins, without an error" in note for note in result.evaluation.notes)
