"""The registry, and that a new cell takes one file and one line."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from helpers import assert_same_run, cell_cases, plain_loop, random_input, random_state
from helpers import run_and_differentiate as differentiated
from ostinato import cells
from ostinato.cells import registry
from ostinato.errors import InputError
from ostinato.nn import Recurrent

NEW_CELL = """
import torch
from torch import nn
from ostinato.cells.registry import register

@register("leaky", paper="Jaeger (2001), The echo state approach", variants=({"leak": 0.5},))
class Leaky(nn.Module):
    def __init__(self, input_size, hidden_size, bias=True, *, leak=0.3):
        super().__init__()
        self.input_size, self.hidden_size, self.state_size = input_size, hidden_size, hidden_size
        self.leak = leak
        self.W = nn.Linear(input_size, hidden_size, bias)
        self.U = nn.Linear(hidden_size, hidden_size, False)

    def forward(self, x, h):
        return (1 - self.leak) * h + self.leak * torch.tanh(self.W(x) + self.U(h))
"""


@pytest.fixture
def untouched_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "CELLS", dict(registry.CELLS))
    monkeypatch.setattr(registry, "_names", dict(registry._names))


def _import(path: Path) -> None:
    """The one line: ``import leaky``."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]


@pytest.mark.usefixtures("untouched_registry")
def test_a_new_cell_is_one_file_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(NEW_CELL)
    before = {case.name for case in cell_cases()}
    _import(tmp_path / "leaky.py")
    assert "leaky" in registry.names()
    (case,) = [c for c in cell_cases() if c.name not in before]
    assert case.name == "leaky-0.5"
    cell = case.make(3, 4).double()
    assert cell.leak == 0.5
    layer = Recurrent(cell)
    x, state = random_input(5, 2, 3), random_state(cell, 2, dtype=torch.float64)
    own = dict(cell.named_parameters())
    lengths = [5, 2]
    want = differentiated(lambda x, s: plain_loop(cell, x, s, lengths=lengths), x, state, own)
    got = differentiated(lambda x, s: layer(x, s, lengths=lengths), x, state, own)
    assert_same_run(got, want)


def test_each_cell_has_one_file_with_no_gradient_in_it() -> None:
    folder = Path(cells.__file__).parent
    shared = {"__init__.py", "base.py", "registry.py"}
    files = {p.name for p in folder.glob("*.py")} - shared
    assert files == {Path(sys.modules[e.cls.__module__].__file__).name for e in _built_in()}
    for name in files:
        source = (folder / name).read_text()
        assert 40 <= len(source.splitlines()) <= 150, name
        words = {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
        assert not words & {"autograd", "Function", "backward", "grad", "register_hook"}, name


def test_each_cell_is_exported_by_one_line() -> None:
    lines = Path(cells.__file__).read_text().splitlines()
    for entry in _built_in():
        name = entry.cls.__name__
        assert getattr(cells, name) is entry.cls
        assert sum(line.endswith(f" {name} as {name}") for line in lines) == 1


def _built_in() -> list[registry.CellEntry]:
    return [e for e in registry.CELLS.values() if e.cls.__module__.startswith("ostinato.")]


def test_names_are_forgiving() -> None:
    assert registry.get("LSTM") is cells.LSTM
    assert registry.get("peephole-lstm") is cells.PeepholeLSTM
    assert registry.get(" Light GRU ") is cells.LiGRU
    assert registry.entry("cifg").name == "lstm_coupled"
    assert registry.names() == tuple(sorted(registry.CELLS))
    assert len(registry.names()) >= 13


def test_an_unknown_name_lists_what_is_near() -> None:
    with pytest.raises(InputError, match=r"no cell is called 'lsmt'; did you mean .*'lstm'"):
        registry.get("lsmt")
    with pytest.raises(InputError, match=r"there are: elman, gru, .*mingru"):
        registry.get("qqqqqq")


@pytest.mark.usefixtures("untouched_registry")
def test_a_name_is_taken_once() -> None:
    class Other(torch.nn.Module):
        pass

    with pytest.raises(InputError, match="'gru' is taken by GRU"):
        registry.register("gru", paper="none")(Other)
    with pytest.raises(InputError, match="'cifg' is taken by CoupledLSTM"):
        registry.register("other", paper="none", aliases=("cifg",))(Other)
    with pytest.raises(InputError, match="lower case"):
        registry.register("Other", paper="none")(Other)
    # A module that is loaded again may register its class again.
    registry.register("gru", paper="again", aliases=("gru_reset_after",))(cells.GRU)
