"""What a training says on the way."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from torch import nn

from ostinato.cli import progress
from ostinato.cli.progress import Averages, LiveProgress, PlainProgress
from ostinato.cli.tensorboard import TensorBoard
from ostinato.errors import InputError
from ostinato.train import EpochRecord, History, Processes, Run, StepInfo

INFO = StepInfo(1, 1, 1, 10, "", 2.0, 0.5, True, 100, 100, 1e-3, 0.01, 1.0)
RECORD = EpochRecord(1, 1.5, {"val_loss": 1.25, "val_accuracy": 0.875}, 1e-3, 0.5, 0.25, 9876, 65.0)


def a_run(**more: Any) -> Run:
    made: dict[str, Any] = {
        "model": nn.Identity(),
        "optimizer": None,
        "epochs": 3,
        "batches": 10,
        "step": 0,
        "history": History(),
        "directory": None,
        "resumed": None,
        "monitor": "val_loss",
        "processes": Processes(),
    }
    return Run(**{**made, **more})


def plain(text: str) -> str:
    """Without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_averages_are_means_of_what_came() -> None:
    averages = Averages()
    averages.add(INFO)
    assert (averages.loss, averages.norm, averages.speed) == pytest.approx((2.0, 0.5, 10_000))
    for _ in range(500):
        averages.add(replace(INFO, batch=2, loss=1.0, clipped=False))
    assert averages.loss == pytest.approx(1.0, abs=1e-3)
    assert averages.clipped_share == pytest.approx(1 / 501)
    averages.add(replace(INFO, clipped=False))  # a new epoch
    assert averages.clipped_share == 0


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = PlainProgress("tokens")
    run = a_run(step=4, resumed=4)
    shown.on_start(run)
    shown.on_step(run, replace(INFO, step=5, elapsed=9.0))
    shown.on_step(run, replace(INFO, step=6, batch=6, elapsed=10.5))
    shown.on_step(run, replace(INFO, step=7, batch=7, elapsed=11.0))
    shown.on_epoch(run, RECORD)
    shown.on_step(run, replace(INFO, step=11, epoch=2, elapsed=21.0, clipped=False))
    assert capsys.readouterr().out.splitlines() == [
        "resumed after step 4 of 30",
        # 24 steps are left, at 5.25 s each.
        "epoch 1/3  step 6/30  loss 2.000  gradient 0.5 (100% clipped)  10,000 tokens/s  "
        "2 min 6 s left",
        "epoch 1/3  loss 1.500  validation loss 1.250  validation accuracy 0.8750  "
        "gradient 0.5 (25% clipped)  9,880 tokens/s  1 min 5 s",
        "epoch 2/3  step 11/30  loss 2.000  validation accuracy 0.8750  gradient 0.5 (0% clipped)  "
        "10,000 tokens/s  57.0 s left",
    ]


def test_the_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr("rich.live.get_console", lambda: console)
    shown = LiveProgress("time steps")
    run = a_run()
    with shown:
        assert "reading the data" in screen.getvalue()
        shown.on_start(run)
        shown.on_step(run, replace(INFO, step=15, epoch=2))
        shown.on_epoch(run, RECORD)
        shown.on_step(run, replace(INFO, step=15, epoch=2, batch=5))
        shown._live.refresh()
        shown.on_end(run, History())
        shown._live.refresh()
    lines = [line.split("\r")[-1] for line in plain(screen.getvalue()).splitlines()]
    bars = [k for k, line in enumerate(lines) if line.startswith("epoch 2/3") and " 50% " in line]
    bar = lines[bars[-1]]
    assert bar.rstrip().endswith("1.0 s left")
    # A terminal of 80 columns shows all of it.
    facts = " ".join(lines[bars[-1] + 1 : bars[-1] + 3])
    assert facts.split("  ")[0] == "loss 2.000"
    for words in ("validation accuracy 0.8750", "gradient 0.5 (100% clipped)", "time steps/s"):
        assert words in " ".join(facts.split())
    assert any(line.startswith("epoch 1/3  loss 1.500  validation loss 1.250") for line in lines)
    assert any(line.startswith("measuring on the held-out part") for line in lines)
    assert "\x1b[?25h" in screen.getvalue()  # the cursor is back


def test_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "rich", None)
    with pytest.raises(InputError, match=r"pip install 'ostinato\[train\]'"):
        progress.progress_for("steps")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own imports
def test_tensorboard(tmp_path: Any) -> None:
    log = TensorBoard()
    run = a_run(directory=tmp_path)
    log.on_start(run)
    for step in range(1, 21):
        log.on_step(run, replace(INFO, step=step, loss=float(step)))
    log.on_epoch(run, RECORD)
    log.on_end(run, History())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 10.0), (20, 20.0)]
    assert events.Scalars("epoch/val_accuracy")[0].value == 0.875
