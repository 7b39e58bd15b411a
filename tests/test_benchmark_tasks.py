"""The benchmarks of whole trainings, on small data: ours from the command line, and Keras."""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks aren't installed

from benchmarks import keras_imdb, tasks  # noqa: E402
from benchmarks.tasks import GOALS, Goal  # noqa: E402
from benchmarks.time_to_accuracy import Curve, markdown, ours  # noqa: E402

import small_data  # noqa: E402
from command_line import write_data  # noqa: E402
from ostinato.data.examples import TextExamples  # noqa: E402
from ostinato.tasks.config import TrainConfig, option_fields  # noqa: E402
from ostinato.tasks.run import train  # noqa: E402
from ostinato.train.schedules import one_cycle  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_goals_are_those_of_the_issue() -> None:
    assert {goal.name: goal.target() for goal in GOALS.values()} == {
        "imdb": "≥ 0.87",
        "shakespeare": "≤ 2.2",
        "japanese-vowels": "≥ 0.97",
        "hkcancor": "≥ 0.3",
        "co2": "below seasonal naive mae, below linear ar mae",
        "sunspots": "below seasonal naive mae, below linear ar mae",
    }
    assert (GOALS["imdb"].seconds, GOALS["shakespeare"].seconds) == (120, 300)
    from ostinato.data import named

    for goal in GOALS.values():
        # Without a name it is the task's default.
        given = goal.train[goal.train.index("--dataset") + 1] if len(goal.train) > 1 else None
        assert (given or named.default(goal.train[0])) == goal.name


def a_run(seed: int, seconds: float = 10.0, **metrics: float) -> dict[str, Any]:
    return {
        "name": "some",
        "seed": seed,
        "options": [],
        "seconds": seconds,
        "load": 0.1,
        "metrics": metrics,
        "revision": {"commit": "0123456789abcdef", "changed": False},
    }


def test_medians_are_held_against_targets() -> None:
    goal = Goal("some", ("classify",), "accuracy", at_least=0.9, seconds=20)
    runs = [a_run(0, accuracy=0.5), a_run(1, accuracy=0.9), a_run(2, 90.0, accuracy=0.95)]
    assert goal.met(runs)
    assert not goal.met(runs[:2])  # 0.7
    assert not replace(goal, seconds=9).met(runs)
    low = Goal("some", ("lm",), "bits", at_most=2.0)
    assert low.met([a_run(0, bits=2.0)])
    assert not low.met([a_run(0, bits=2.1)])
    below = Goal("some", ("forecast",), "mae", below=("naive", "linear"))
    assert below.met([a_run(0, mae=1.0, naive=2.0, linear=1.1)])
    assert not below.met([a_run(0, mae=1.0, naive=2.0, linear=1.0)])
    assert not below.met([a_run(0, mae=1.0, naive=0.9, linear=2.0)])


def test_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    goal = Goal("some", ("tag",), "accuracy", at_least=0.9, beside=("baseline",), seconds=20)
    results = tasks.opened(None)
    for seed, value in ((2, 0.7), (0, 0.96), (1, 0.91)):
        results = tasks.added(results, a_run(seed, 10.0 + seed, accuracy=value, baseline=0.6))
    # The same seed again replaces the first.
    results = tasks.added(results, a_run(2, 19.0, accuracy=0.8, baseline=0.6))
    text = tasks.markdown(results, {"some": goal})
    assert text.splitlines()[-1] == (
        "| some | accuracy | 0.96 0.91 0.8 | 0.91 (baseline 0.6) | ≥ 0.9 | 10 11 19: 11 s "
        "| 20 s | met |"
    )
    assert "- commit 0123456789ab\n" in text
    assert "busy" not in text
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    assert tasks.opened(file) == results
    file.write_text(json.dumps({**results, "versions": {"torch": "1"}}))
    with pytest.raises(SystemExit, match="its versions aren't this run's"):
        tasks.opened(file)


def test_a_run_is_a_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and evaluate as processes, on a small file."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    goal = Goal(
        "tags", ("tag", "tags.conll"), "error_reduction", at_least=0.3, beside=("accuracy",)
    )
    found = tasks.run(goal, 5, ["--epochs", "1", "--hidden", "8"])
    assert found["command"] == [
        *("train", "tag", "tags.conll", "--seed", "5", "--epochs", "1", "--hidden", "8")
    ]
    assert found["seconds"] > 0
    assert 0 <= found["metrics"]["accuracy"] <= 1
    assert any("sentences" in note for note in found["notes"])
    assert set(tmp_path.iterdir()) == {
        tmp_path / name for name in ("reviews.csv", "tags.conll", "text.txt", "series.csv")
    }


def test_a_command_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SystemExit, match=r"(?s)`ostinato train lm no\.txt.*` ended with 1.*no\.txt"
    ):
        tasks.run(Goal("none", ("lm", "no.txt"), "loss"), 0)


# ---- Keras


@pytest.fixture
def own_random_state() -> Iterator[None]:
    """Keras seeds everything there is; other tests shall not notice."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


def reviews(count: int, seed: int) -> TextExamples:
    draw = random.Random(seed)
    labels = [draw.choice(["bad", "good"]) for _ in range(count)]
    texts = [f"{'film ' * draw.randint(1, 9)}{label} film" for label in labels]
    return TextExamples(texts, labels, [str(i) for i in range(count)])


def keras_run(budget: float = 100.0) -> Curve:
    curve = Curve("Keras", 0, time.perf_counter())
    parts = reviews(96, 0), reviews(40, 1)
    keras_imdb.train(*parts, curve, padding="buckets", checks=1, budget=budget)
    return curve


@pytest.mark.usefixtures("own_random_state")
def test_keras_learns_the_same_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = keras_imdb.settings
    monkeypatch.setattr(keras_imdb, "settings", lambda n: settings(n).replace(epochs=8))
    curve = keras_run()
    assert [check["epoch"] for check in curve.checks] == list(range(1, 9))
    assert curve.checks[-1]["accuracy"] == 1.0
    assert len(curve.batches) == 8 * 3
    assert "epoch 8.000: held-out accuracy 1.0000" in capsys.readouterr().out


@pytest.mark.usefixtures("own_random_state")
def test_keras_out_of_time(capsys: pytest.CaptureFixture[str]) -> None:
    curve = keras_run(budget=0.0)
    assert curve.checks == []
    assert "the budget is used up after 1 batches" in capsys.readouterr().out
    assert "not reached in" in markdown([curve.to_json()])


@pytest.mark.usefixtures("own_random_state")
def test_our_curve_is_the_commands_training(tmp_path: Path) -> None:
    """The looks at the accuracy change nothing: the last one is what a training reaches."""
    options = {"epochs": 3, "hidden": 8, "embedding": 8, "lr": 0.03, "batch_size": 8}
    data = [str(small_data.reviews(tmp_path / "reviews.csv"))]
    curve = Curve("ours", 3, time.perf_counter())
    ours(curve, 2, data=data, **options)
    assert [check["epoch"] for check in curve.checks] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    config = TrainConfig(task="classify", data=data, seed=3, out=str(tmp_path / "model"), **options)
    result = train(config)
    assert result.evaluation is not None
    assert result.history.best_epoch == 3
    assert curve.checks[-1]["accuracy"] == result.evaluation.metrics["accuracy"]
    assert curve.checks[-1]["accuracy"] > 0.6


def test_the_clock_stands_still_at_checks() -> None:
    curve = Curve("some", 0, time.perf_counter())

    def slow() -> float:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        return 0.5

    before = time.process_time()
    curve.check(1.0, slow)
    between = curve.now()
    assert between < 0.15
    curve.check(2.0, lambda: 0.6)
    assert between <= curve.checks[1]["seconds"] < 0.15
    # CPU time is the whole process's, from its start.
    assert curve.checks[0]["cpu"] >= before
    assert curve.checks[1]["cpu"] - curve.checks[0]["cpu"] < 0.15


def test_times_beside_ours() -> None:
    def made(who: str, seed: int, ready: float, seconds: list[float]) -> dict[str, Any]:
        checks = [
            {"epoch": float(k), "seconds": s, "accuracy": a}
            for k, (s, a) in enumerate(zip(seconds, (0.5, 0.9, 0.8), strict=True))
        ]
        return {
            **{"who": who, "seed": seed, "ready": ready, "batch": 0.01, "seconds": 99.0},
            "checks": checks,
        }

    curves = [
        made("ours", 0, 5.0, [6.0, 9.0, 10.0]),
        made("ours", 1, 5.0, [6.0, 10.0, 11.0]),
        made("ours", 2, 5.0, [6.0, 99.0, 100.0]),
        made("Keras", 0, 20.0, [30.0, 50.0, 60.0]),
    ]
    assert markdown(curves, [0.87, 0.95]).splitlines()[2:] == [
        "| ours | 3 | 5.0 | 10.0 | 10.0 | not reached in 99 | 99.0 | 0.9000 |",
        "| Keras | 1 | 20.0 | 10.0 | 50.0 (5.0x, 6.0x) | not reached in 99 | 99.0 | 0.9000 |",
    ]


def test_keras_has_our_schedule() -> None:
    schedule = keras_imdb.OneCycle(0.5, 90)
    for step in (0, 10, 26, 27, 28, 60, 90):
        assert float(schedule(step)) == pytest.approx(0.5 * one_cycle(step, 90), abs=1e-6)


def test_kerass_batches() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, size=1000)
    for similar in (False, True):
        batches = keras_imdb.batches_of(lengths, 32, np.random.default_rng(1), similar=similar)
        assert [len(batch) for batch in batches] == [32] * 31
        rows = np.concatenate(batches)
        assert len(np.unique(rows)) == len(rows)
        padded = sum(32 * -(-lengths[b].max() // 50) * 50 for b in batches) / lengths[rows].sum()
        assert (padded < 1.25) == similar
    texts = [np.array([5, 6]), np.array([7])], np.array([1, 0])
    x, y = keras_imdb.Padded(texts, [np.array([1, 0])], 4)[0]
    assert x.tolist() == [[8, 0, 0, 0], [6, 7, 0, 0]]
    assert y.tolist() == [0, 1]
    assert keras_imdb.Padded(texts, [np.array([1])], 0)[0][0].shape == (1, 50)


def test_keras_follows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    config = keras_imdb.settings(20_000)
    assert config.epochs == 3
    assert all(
        getattr(config, name) is not None or name in ("dataset", "format", "text", "label", "out")
        for name in option_fields("classify")
        if name not in ("group", "time", "log")
    )
    monkeypatch.setitem(keras_imdb.Classify.defaults, "cell", "lstm")
    with pytest.raises(SystemExit, match="defaults have changed in cell"):
        keras_imdb.settings(20_000)
