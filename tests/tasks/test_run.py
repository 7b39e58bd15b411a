"""Runs: the same bits again, also after an interruption; nothing is overwritten unasked."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ostinato.errors import DataError, DivergedError, InputError, ModelError
from ostinato.tasks import model_directory, run
from ostinato.tasks.classify import Classify
from ostinato.tasks.config import TrainConfig
from ostinato.train import Callback, directory
from small_data import reviews, sentences, small

if TYPE_CHECKING:
    from ostinato.train import History, Run, StepInfo


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def timeless(history: History) -> Any:
    return [replace(e, seconds=0.0, steps_per_second=0.0) for e in history.epochs]


class InterruptAt(Callback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_the_saved_configuration_alone_gives_the_same_bits(tmp_path: Path) -> None:
    config = small(reviews(tmp_path / "r.csv"), out=str(tmp_path / "a"), epochs=2, seed=5)
    first = run.train(config)
    again = TrainConfig.from_file(first.directory / "config.json")
    second = run.train(again.replace(out=str(tmp_path / "b")))
    assert weights(first.directory) == weights(second.directory)
    assert timeless(first.history) == timeless(second.history)
    assert first.evaluation == second.evaluation
    other = run.train(again.replace(out=str(tmp_path / "c"), seed=6))
    assert weights(first.directory) != weights(other.directory)


@pytest.mark.parametrize("task", ["classify", "tag"])
@pytest.mark.parametrize("step", [1, 17])
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path: Path, task: str, step: int) -> None:
    make = reviews if task == "classify" else sentences
    path = make(tmp_path / ("r.csv" if task == "classify" else "s.conll"), 100)
    config = small(path, task=task, epochs=3, out=str(tmp_path / "whole"))
    whole = run.train(config)
    cut = config.replace(out=str(tmp_path / "cut"))
    stopped = run.train(cut, callbacks=[InterruptAt(step)])
    assert stopped.history.stopped == "interrupted"
    assert stopped.evaluation is None
    with pytest.raises(InputError, match="go on with --resume, start anew with --overwrite"):
        run.train(cut)
    with pytest.raises(InputError, match=r"other options: lr was 0\.02 and is 0\.5\. Resume"):
        run.train(cut.replace(lr=0.5), resume=True)
    resumed = run.train(cut, resume=True)
    assert resumed.history.stopped == "finished"
    assert weights(resumed.directory) == weights(whole.directory)
    assert timeless(resumed.history) == timeless(whole.history)
    assert resumed.evaluation == whole.evaluation
    assert sorted(p.name for p in resumed.directory.iterdir()) == [
        "config.json",
        "history.json",
        "model.safetensors",
        "vocabulary.json",
    ]
    with pytest.raises(InputError, match="has finished; nothing to resume"):
        run.train(cut, resume=True)


def test_an_interrupted_run_has_a_model_once_it_was_validated(tmp_path: Path) -> None:
    config = small(reviews(tmp_path / "r.csv", 100))
    run.train(config, callbacks=[InterruptAt(2)])
    with pytest.raises(ModelError, match="training hasn't finished"):
        run.evaluate(Path(config.out or ""))
    run.train(config, overwrite=True, callbacks=[InterruptAt(15)])
    assert run.evaluate(Path(config.out or "")).metrics["accuracy"] > 0.3


class Killed(BaseException):
    """In place of SIGKILL: nothing that is left to do is done."""


def killed(*args: Any, **kwargs: Any) -> Any:
    raise Killed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The configuration of a run, whose directory has a model."""
    folder = tmp_path_factory.mktemp("finished")
    config = small(reviews(folder / "r.csv", 60), epochs=1, out=str(folder / "m"))
    run.train(config)
    return config


@pytest.mark.parametrize("call", ["fit", "save", "evaluate", "unlink", "rmtree"])
def test_killed_between_two_writes_of_the_end_and_resumed(
    call: str, finished: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run replaces a model: before its first checkpoint, and while it tidies up."""
    out = tmp_path / "m"
    shutil.copytree(Path(finished.out or ""), out)
    config = finished.replace(out=str(out), seed=3)
    with monkeypatch.context() as patch:
        if call == "fit":
            patch.setattr(run, "fit", killed)
        elif call == "save":
            patch.setattr(model_directory, "save", killed)
        elif call == "evaluate":
            patch.setattr(Classify, "evaluate", killed)
        elif call == "unlink":
            patch.setattr(Path, "unlink", killed)
        else:
            patch.setattr(directory.shutil, "rmtree", rmtree_killed_half_way(shutil.rmtree))
        with pytest.raises(Killed):
            run.train(config, overwrite=True)
    if call == "rmtree":
        with pytest.raises(InputError, match="has finished; nothing to resume"):
            run.train(config, resume=True)
    else:
        run.train(config, resume=True)
    want = run.train(config.replace(out=str(tmp_path / "whole")))
    assert weights(out) == weights(want.directory)
    with pytest.raises(InputError, match="has a model already"):
        run.train(config)


def rmtree_killed_half_way(rmtree: Any) -> Any:
    def remove(path: Path, **options: Any) -> None:
        if Path(path).name.endswith("-checkpoints"):
            next(Path(path).rglob("manifest.json")).unlink()
            raise Killed
        rmtree(path, **options)

    return remove


def test_a_full_disk_at_any_write_loses_nothing(
    finished: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the writes of the checkpoint, the model and the files beside them."""
    real, left, fatal, whole = os.write, 0, 0, weights(Path(finished.out or ""))

    def write(number: int, data: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(number, data)

    while True:
        config = finished.replace(out=str(tmp_path / str(fatal)))
        left = fatal
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            try:
                run.train(config)
                break
            except ModelError as error:
                message = str(error)
        assert "the disk is full" in message
        assert weights(run.train(config, resume=True).directory) == whole
        fatal += 1
    # The configuration, three files of a checkpoint, four of the model.
    assert fatal == 8


def test_a_model_is_not_overwritten_unasked(tmp_path: Path) -> None:
    config = small(reviews(tmp_path / "r.csv", 60), epochs=1)
    directory = run.train(config).directory
    before = weights(directory)
    with pytest.raises(InputError, match="has a model already; replace it with --overwrite"):
        run.train(config.replace(seed=1))
    assert weights(directory) == before
    with pytest.raises(DataError):
        run.train(config.replace(data=[str(tmp_path / "no.csv")]), overwrite=True)
    assert weights(directory) == before
    run.train(config.replace(seed=1), overwrite=True)
    assert weights(directory) != before
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file; give another place"):
        run.train(config.replace(out=str(tmp_path / "file")))


def test_bad_rows_stop_the_run_or_are_counted(tmp_path: Path) -> None:
    path = reviews(tmp_path / "r.csv", 60)
    with path.open("ab") as file:
        file.write(b"60,,good\n61,one,two,three\n62,\xff\xfe,bad\n63,fine,\n64,...,good\n")
    config = small(path, epochs=1)
    with pytest.raises(DataError, match=r"r\.csv:62: 'text' is (missing|empty)"):
        run.train(config)
    assert not Path(config.out or "").exists()
    result = run.train(config.replace(bad_rows="skip"))
    assert result.notes[-1].startswith("5 bad rows left out")
    sizes = [int(n) for n in re.findall(r"(\d+) (?:train|validation|test)", result.notes[0])]
    # 60 and the one whose text has no word in it, which is found out later.
    assert sum(sizes) == 61


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    config = small(reviews(tmp_path / "r.csv", 60), lr=1e38, clip_norm=0.0, optimizer="sgd")
    with pytest.raises(DivergedError, match=r"gradient norm .*Try: a lower learning rate"):
        run.train(config)
    assert not model_directory.exists(Path(config.out or ""))


def test_default_directories() -> None:
    assert run.default_directory(TrainConfig()) == Path("classify-imdb")
    config = TrainConfig(task="tag", data=["/x/news.conll.gz"])
    assert run.default_directory(config) == Path("tag-news")


def test_config_json_is_readable(tmp_path: Path) -> None:
    directory = run.train(small(reviews(tmp_path / "r.csv", 60), epochs=1)).directory
    about = json.loads((directory / "config.json").read_text())
    assert about["config"]["cell"] == "gru"
    assert about["config"]["text"] == "text"
    assert set(about["sha256"]) == {
        "config.json",
        "model.safetensors",
        "vocabulary.json",
        "history.json",
    }
