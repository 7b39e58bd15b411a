"""A training that is interrupted and killed ends with the bits of one that wasn't."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

from command_line import finish, start, write_data
from ostinato.cli.main import main

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import pytest

TRAIN = ["train", "lm", "text.txt", "--hidden", "16", "--epochs", "12", "--batch-size", "2"]


def history(folder: Path) -> Any:
    found = json.loads((folder / "history.json").read_text())
    for record in found["epochs"]:
        del record["seconds"], record["steps_per_second"]
    return found


def after_epoch(process: subprocess.Popen[str], number: int) -> None:
    """Wait until the training has said that an epoch is done."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"epoch {number}/"):
            return
    raise AssertionError(f"it ended before epoch {number}")


def test_interrupted_killed_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    whole = start(*TRAIN, "--dropout", "0.2", "--out", "whole", cwd=tmp_path)
    cut = start(*TRAIN, "--dropout", "0.2", "--out", "cut", cwd=tmp_path)
    after_epoch(cut, 2)
    cut.send_signal(signal.SIGINT)
    stopped = finish(cut)
    assert stopped.code == 130
    assert "stopped after step" in stopped.err
    command = stopped.err.strip().splitlines()[-1].strip()
    assert command.startswith("ostinato train lm text.txt")
    assert command.endswith("--out cut --resume")
    assert finish(whole).code == 0

    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--dropout", "0.2", "--out", "cut"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "lm", "--out", "cut", "--resume", "--hidden", "8"]) == 1
    assert "hidden was 16 and is 8" in capsys.readouterr().err

    killed = start(*command.split()[1:], cwd=tmp_path)
    after_epoch(killed, 6)
    killed.kill()
    assert finish(killed).code == -signal.SIGKILL

    # The options are known: they needn't be said again.
    assert main(["train", "lm", "--out", "cut", "--resume"]) == 0
    assert "\nresumed after step " in capsys.readouterr().out
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert weights[0] == weights[1]
