"""One small trained model of each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from command_line import COMMANDS, SMALL, TRAININGS, Models, finish, in_process, start, write_data

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    write_data(folder)
    running = {
        task: start("train", task, *arguments, *SMALL, "--out", task, cwd=folder)
        for task, arguments in TRAININGS.items()
    }
    trained = {task: finish(process) for task, process in running.items()}
    # One of the commands that use a model as a process: most of its time is PyTorch's import.
    asked = {
        name: finish(start(*words, cwd=folder)) if name == "generate" else in_process(words, folder)
        for name, words in COMMANDS.items()
    }
    return Models(folder, trained, asked)


@pytest.fixture
def here(models: Models, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with data and models, as the current one."""
    monkeypatch.chdir(models.folder)
    return models.folder
