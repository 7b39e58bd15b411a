"""The listing of cells, and the contestants of `bench`."""

from __future__ import annotations

import numpy as np
import pytest

from ostinato.cells import registry
from ostinato.cli.bench_peers import Problem, contestants
from ostinato.cli.main import main
from ostinato.cli.printing import equations


def test_every_cell_is_listed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cells", "--input", "3", "--hidden", "5"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.split()[0] for block in blocks] == list(registry.names())
    for block, name in zip(blocks, registry.names(), strict=True):
        entry = registry.entry(name)
        count = sum(p.numel() for p in entry.cls(3, 5).parameters())
        assert entry.paper in block
        assert f"parameters  {count} at input 3, hidden 5" in block
        lines = equations(entry.cls.__doc__)
        assert lines
        assert all(f"    {line}" in block for line in lines)
        assert not any(mark in block for mark in "\\&{}"), block


def test_equations_read_as_in_the_paper() -> None:
    assert equations(registry.get("lstm").__doc__) == [
        "i, f, g, o = W_ih x + b_ih + W_hh h + b_hh",
        "c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g)",  # noqa: RUF001
        "h' = σ(o) ⊙ tanh(c')",  # noqa: RUF001
    ]


@pytest.mark.parametrize("cell", registry.names())
def test_contestants_are_right_and_wrong_ones_are_found(cell: str) -> None:
    problem = Problem(cell, 7, 3, 5, 6)
    running, left_out = contestants(problem)
    names = {c.name for c in running} | {name for name, _ in left_out}
    assert names == {"ostinato", "torch loop", "torch.nn", "JAX", "ONNX Runtime"}
    assert ("torch.nn" in {c.name for c in running}) == (cell in ("elman", "gru", "lstm"))
    for contestant in running:
        for mode, call in contestant.calls.items():
            results = call()
            assert problem.verdict(mode, results) is None, (contestant.name, mode)
            for k in range(len(results)):
                wrong = [np.array(r) for r in results]
                wrong[k] = wrong[k] + 0.1 * np.abs(wrong[k]).max() + 0.1
                assert problem.verdict(mode, wrong) is not None
                wrong[k] = np.full_like(wrong[k], np.nan)
                assert problem.verdict(mode, wrong) is not None
