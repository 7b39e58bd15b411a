"""A run that is cut anywhere and resumed has the same bits as one that wasn't."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ostinato.errors import InputError, ModelError
from ostinato.train import Callback, Run, StepInfo, fit
from ostinato.train.checkpoints import Checkpoints
from ostinato.train.packing import pack, unpack
from small_runs import KINDS, Losses, RaggedSums, arguments, build, digest, train, validation_of

ROOT = Path(__file__).parents[2]


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    """At random moments, and at each call of the system that writes a checkpoint."""
    script = Path(__file__).with_name("mortal.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [*KINDS, "calls", "calls"]
    here = {kind: digest(*train(kind)) for kind in KINDS}
    here["calls"] = here["dropout"]
    for name, deaths, same, reference in lines:
        assert same == "same", name
        assert int(deaths) >= (1 if name in KINDS else 10), name
        assert reference == here[name], "another process gets other bits"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 6, 7, 13])
def test_interrupted_and_resumed(kind: str, step: int, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = Losses()
    _, history = train(kind, tmp_path, callbacks=[Stop(step), seen], checkpoint_every=1e9)
    assert history.stopped == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
    assert len(seen.losses) == step
    rest = Losses()
    resumed = train(kind, tmp_path, callbacks=[rest], resume=True)
    assert rest.resumed == step
    whole = Losses()
    assert digest(*resumed) == digest(*train(kind, callbacks=[whole]))
    assert seen.losses + rest.losses == whole.losses


def test_the_second_ctrl_c_raises_at_once() -> None:
    class Impatient(Callback):
        def on_step(self, run: Run, info: StepInfo) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("carry", callbacks=[Impatient()])


def test_sigterm_is_taken_as_ctrl_c(tmp_path: Path) -> None:
    class Terminate(Callback):
        def on_step(self, run: Run, info: StepInfo) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    _, history = train("carry", tmp_path, callbacks=[Terminate()])
    assert history.stopped == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interruption_at_the_last_step_is_the_end() -> None:
    _, history = train("carry", callbacks=[Stop(18)])
    assert history.stopped == "finished"


# ---- a full disk


class FullDisk:
    """The n-th call that writes finds the disk full; a write has put half of its bytes there."""

    def __init__(self, patch: pytest.MonkeyPatch, fatal: int) -> None:
        self.calls = 0
        self.fatal = fatal
        for name in ("open", "write", "fsync", "mkdir", "rename", "replace"):
            patch.setattr(os, name, self.around(name, getattr(os, name)))

    def around(self, name: str, call: Any) -> Any:
        def failing(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return call(*args, **kwargs)  # reading needs no room
            self.calls += 1
            if self.calls == self.fatal:
                if name == "write":
                    call(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args, **kwargs)

        return failing


def test_a_full_disk_at_any_write_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start"
    train("dropout", start, callbacks=[Stop(3)])
    want = digest(*train("dropout"))
    fatal, messages = 0, []
    while True:
        fatal += 1
        path = tmp_path / str(fatal)
        shutil.copytree(start, path)
        seen = Losses()
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, fatal)
            try:
                # One checkpoint alone, by Ctrl-C at step 5.
                train("dropout", path, resume=True, callbacks=[Stop(5), seen], checkpoint_every=1e9)
            except ModelError as error:
                messages.append(str(error))
        if disk.calls < fatal:
            break
        rest = Losses()
        resumed = train("dropout", path, resume=True, callbacks=[rest], checkpoint_every=1e9)
        assert rest.resumed in (3, 5)
        assert digest(*resumed) == want
        assert not list((path / "checkpoints").glob(".unfinished*"))
    # mkdir; three files opened, written and flushed; the directory, rename, its directory. Before
    # that, the folder of all checkpoints, which is there already.
    assert len(messages) == fatal - 2 == 13
    assert all("the disk is full" in m and "is whole" in m for m in messages)


def test_another_reason_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't be written: "):
        train("carry", tmp_path / "file")


# ---- what can't be resumed


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    train("carry", tmp_path, callbacks=[Stop(3)])
    older = tmp_path / "checkpoints" / "000009"
    shutil.copytree(next((tmp_path / "checkpoints").iterdir()), older)
    train("carry", tmp_path, resume=True, callbacks=[Stop(6)])
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert int(newest.name) > 9
    assert not older.exists()
    shutil.copytree(newest, older)
    damaged = newest.with_name("000020")
    shutil.copytree(newest, damaged)
    state = damaged / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    seen = Losses()
    train("carry", tmp_path, resume=True, callbacks=[seen])
    assert seen.resumed == 6


@pytest.mark.parametrize("damage", ["flip", "short", "missing", "manifest"])
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    train("carry", tmp_path, callbacks=[Stop(2)])
    (path,) = (tmp_path / "checkpoints").iterdir()
    state, manifest = path / "state.safetensors", path / "manifest.json"
    data = bytearray(state.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    elif damage == "short":
        state.write_bytes(data[:-8])
    elif damage == "missing":
        state.unlink()
    else:
        manifest.write_text(manifest.read_text()[:-5])
    with pytest.raises(ModelError, match=f"no checkpoint is whole.*{path.name} is damaged"):
        train("carry", tmp_path, resume=True)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    train("carry", tmp_path, callbacks=[Stop(2)])
    (path,) = (tmp_path / "checkpoints").iterdir()
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ModelError, match="format 99 is newer"):
        train("carry", tmp_path, resume=True)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    train("carry", tmp_path, callbacks=[Stop(2)])
    with pytest.raises(ModelError, match=r"lr was \[0.01\] and is \[0.02\]; seed was 0 and is 1"):
        train("carry", tmp_path, resume=True, lr=0.02, seed=1)


def test_another_number_of_threads_is_told(tmp_path: Path) -> None:
    train("carry", tmp_path, callbacks=[Stop(2)])
    torch.set_num_threads(2)
    try:
        with pytest.warns(UserWarning, match="written with 1 threads and goes on with 2"):
            train("carry", tmp_path, resume=True)
    finally:
        torch.set_num_threads(1)


def test_without_a_checkpoint_the_run_starts_anew(tmp_path: Path) -> None:
    seen = Losses()
    run = train("carry", tmp_path, resume=True, callbacks=[seen])
    assert seen.resumed is None
    assert digest(*run) == digest(*train("carry"))


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    whole = train("dropout", tmp_path)
    seen = Losses()
    again = train("dropout", tmp_path, resume=True, callbacks=[seen])
    assert seen.losses == []
    assert digest(*again) == digest(*whole)


def test_resume_needs_a_directory() -> None:
    with pytest.raises(InputError, match="needs the directory"):
        train("carry", resume=True)


def test_one_checkpoint_is_kept_and_no_pickle(tmp_path: Path) -> None:
    train("mixed", tmp_path)
    (path,) = (tmp_path / "checkpoints").iterdir()
    names = sorted(p.name for p in path.iterdir())
    assert names == ["manifest.json", "process-0.safetensors", "state.safetensors"]
    checkpoint = Checkpoints(tmp_path).newest()
    assert checkpoint is not None
    state = checkpoint.state()
    assert state["progress"]["step"] == 21
    # A number a step, of which an epoch may have millions.
    assert state["progress"]["norms"].dtype == torch.float64
    assert [r["epoch"] for r in state["history"]["epochs"]] == [1, 2, 3]


# ---- packing


def test_packing_gives_back_what_it_got() -> None:
    tied = torch.randn(3, 4)
    rows = torch.arange(12.0).view(3, 4)
    value = {
        0: (1, 2.5, None, True, "text", [float("inf"), 1e-323]),
        "tensors": [tied, tied, rows[1], rows.t(), torch.zeros(0, 3), torch.tensor(7)],
        ("a", 1): {"nested": ()},
    }
    back = unpack(pack(value))
    assert list(back) == list(value)
    assert back[0] == value[0]
    assert type(back[0]) is tuple
    assert back[("a", 1)] == {"nested": ()}
    for got, want in zip(back["tensors"], value["tensors"], strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_packing_refuses_what_it_would_have_to_pickle() -> None:
    with pytest.raises(InputError, match=r"\['a'\]\[1\] is a object"):
        pack({"a": [1, object()]})


def test_damaged_packing_is_refused() -> None:
    with pytest.raises(ModelError, match="not what was packed"):
        unpack(pack({"a": torch.ones(3)})[:-3])


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = build("dropout")
    model.register_module("twin", nn.Linear(8, 1))
    model.twin.weight = model.head.weight  # type: ignore[union-attr, assignment]
    model.twin.bias = model.head.bias  # type: ignore[union-attr, assignment]
    given = arguments("dropout") | {"validate": validation_of(RaggedSums(batches=2))}
    fit(model, epochs=1, directory=tmp_path, **given)
    assert torch.equal(model.twin.weight, model.head.weight)  # type: ignore[union-attr]
    checkpoint = Checkpoints(tmp_path).newest()
    assert checkpoint is not None
    saved = checkpoint.state()["model"]
    assert saved["twin.weight"].data_ptr() == saved["head.weight"].data_ptr()
