"""Importing the door where Keras runs on something else, or can't run, or isn't there."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import keras
import pytest

from ostinato.keras import backend


def test_a_backend_that_is_not_installed() -> None:
    """Keras's own default, and what happens where nothing was selected."""
    run = subprocess.run(
        [sys.executable, "-c", "import ostinato.keras"],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ostinato.keras needs Keras on its torch backend, but")
    assert "could not be imported (No module named 'tensorflow')" in last
    assert 'os.environ["KERAS_BACKEND"] = "torch"' in last


def test_another_backend_is_an_import_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"Keras runs on 'jax'; select it before .*KERAS_BACKEND"):
        backend.require_torch_backend()


def test_no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'ostinato\[keras\]'"):
        backend.require_torch_backend()


def test_an_old_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.SimpleNamespace(__version__="2.15.0")
    monkeypatch.setattr(backend.importlib, "import_module", lambda name: old)
    with pytest.raises(ImportError, match=r"needs Keras 3, found 2\.15\.0"):
        backend.require_torch_backend()
