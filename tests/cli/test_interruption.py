"""Ctrl-C while modules are imported, and what is missing is said before the work."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from command_line import ENVIRONMENT
from ostinato.cli.interruption import ctrl_c
from ostinato.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


def test_an_import_that_swallows_exceptions_is_ended(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    (tmp_path / "outer.py").write_text("try:\n    import inner\nexcept BaseException:\n    pass\n")
    code = """
        from ostinato.cli.interruption import ctrl_c
        with ctrl_c():
            import outer
        print("went on")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "\nostinato: interrupted\n"


def test_elsewhere_it_is_pythons(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), ctrl_c():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("module", "words"),
    [("safetensors", "needs safetensors"), ("sklearn", "needs scikit-learn")],
)
@pytest.mark.usefixtures("here")
def test_missing_packages_are_told_before_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    assert main(["train", "lm", "text.txt", "--out", "never"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "pip install 'ostinato[train]'" in captured.err
