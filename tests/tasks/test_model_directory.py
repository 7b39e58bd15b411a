"""The model directory: whole or refused with the reason, whatever happens to it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ostinato.data import BadRows
from ostinato.errors import ModelError
from ostinato.tasks import model_directory
from ostinato.tasks.classify import Classify
from ostinato.tasks.config import TrainConfig
from ostinato.train import History
from small_data import reviews, small

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

FILES = ("config.json", "history.json", "model.safetensors", "vocabulary.json")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Classify, nn.Module]:
    """A model directory, and what is in it."""
    task = Classify(small(reviews(tmp_path / "r.csv", count=60)))
    task.read(BadRows())
    torch.manual_seed(0)
    model = task.build()
    path = tmp_path / "model"
    model_directory.save(path, task, model, History(best_epoch=3))
    return path, task, model


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_everything_comes_back(saved: tuple[Path, Classify, nn.Module]) -> None:
    path, task, model = saved
    assert sorted(p.name for p in path.iterdir()) == list(FILES)
    state = torch.random.get_rng_state()
    task2, model2, history = model_directory.load(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_weights(model, model2)
    assert not model2.training
    assert task2.config == task.config
    assert task2.meta() == task.meta()
    assert history == History(best_epoch=3)
    assert TrainConfig.from_file(path / "config.json") == task.config
    about = json.loads((path / "config.json").read_text())
    assert about["format"] == 1
    assert about["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", FILES[1:])
def test_a_damaged_or_missing_file_is_named(
    saved: tuple[Path, Classify, nn.Module], name: str
) -> None:
    path, *_ = saved
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name}: the file is damaged: its contents aren't"):
        model_directory.load(path)
    (path / name).unlink()
    with pytest.raises(ModelError, match=rf"damaged: {name} is missing"):
        model_directory.load(path)


def test_every_bit_of_the_configuration_counts(saved: tuple[Path, Classify, nn.Module]) -> None:
    path, draw = saved[0] / "config.json", random.Random(0)
    whole = path.read_bytes()
    for _ in range(100):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ModelError):
            model_directory.load(saved[0])


def edit(key: str, value: Any) -> Callable[[Path], None]:
    """A change by a version of ostinato that writes other things."""

    def change(path: Path) -> None:
        about = json.loads((path / "config.json").read_text())
        hashes = about.pop("sha256")
        about[key] = value
        hashes["config.json"] = hashlib.sha256(model_directory._json(about)).hexdigest()
        about.setdefault("sha256", hashes)
        (path / "config.json").write_text(json.dumps(about))

    return change


def cut(path: Path) -> None:
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text[: len(text) // 2])


def only_checkpoints(path: Path) -> None:
    shutil.rmtree(path)
    (path / "checkpoints").mkdir(parents=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            edit("format", 2),
            r"the model has format 2, written by ostinato 0\.1\.0; .*install a new",
        ),
        (edit("sha256", {}), "it doesn't list"),
        (edit("config", {"task": "classify", "hiden": 3}), "no option is called 'hiden'"),
        (
            lambda path: (path / "config.json").write_text(
                (path / "config.json").read_text().replace('"hidden": 8', '"hidden": 9')
            ),
            r"config\.json: the file is damaged or was edited: its contents aren't those",
        ),
        (cut, r"config\.json: the file is damaged"),
        (lambda path: (path / "config.json").unlink(), r"is no model directory; it would have"),
        (shutil.rmtree, "there is no such directory"),
        (only_checkpoints, "training hasn't finished: .*go on with --resume"),
    ],
)
def test_what_is_refused(
    saved: tuple[Path, Classify, nn.Module], damage: Callable[[Path], None], message: str
) -> None:
    path, *_ = saved
    damage(path)
    with pytest.raises(ModelError, match=message):
        model_directory.load(path)


def test_weights_that_do_not_fit(saved: tuple[Path, Classify, nn.Module]) -> None:
    path, task, _ = saved
    config = {**task.config.to_dict(), "hidden": 9}
    edit("config", config)(path)
    with pytest.raises(ModelError, match="the weights don't fit the model that the configuration"):
        model_directory.load(path)


@pytest.mark.parametrize("moves", range(6))
def test_a_save_that_is_cut_off_leaves_one_whole_model(
    saved: tuple[Path, Classify, nn.Module], monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Killed after any number of moves, there is the old model or the new one, and a save after
    that works."""
    path, task, old = saved
    torch.manual_seed(1)
    new = task.build()
    real, done = os.replace, []

    class Killed(BaseException):
        pass

    def replace(source: Any, target: Any) -> None:
        if len(done) == moves:
            raise Killed
        done.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            model_directory.save(path, task, new, History())
        except Killed:
            assert moves < len(FILES)
        else:
            assert moves >= len(FILES)
    # From the moment that the new files are there, it is the new model.
    assert same_weights(model_directory.load(path)[1], new)
    model_directory.save(path, task, old, History())
    assert sorted(p.name for p in path.iterdir()) == list(FILES)
    assert same_weights(model_directory.load(path)[1], old)


def test_a_full_disk_leaves_the_old_model(
    saved: tuple[Path, Classify, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, task, old = saved
    torch.manual_seed(1)
    new = task.build()
    real, budget = os.write, [0]

    def write(number: int, data: Any) -> int:
        if budget[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        budget[0] -= 1
        return real(number, data)

    for budget[0] in range(len(FILES)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(ModelError, match="the disk is full"):
                model_directory.save(path, task, new, History())
        assert sorted(p.name for p in path.iterdir()) == list(FILES)
        assert same_weights(model_directory.load(path)[1], old)
    model_directory.save(path, task, new, History())
    assert same_weights(model_directory.load(path)[1], new)


def test_tied_weights_are_saved(saved: tuple[Path, Classify, nn.Module]) -> None:
    """As a cell of the user's own may have them; the format of the file knows no ties."""
    path, task, model = saved
    model.twin = model.head
    model_directory.save(path, task, model, History())
    with pytest.raises(ModelError, match=r"(?s)the weights don't fit .*twin\.weight"):
        model_directory.load(path)
