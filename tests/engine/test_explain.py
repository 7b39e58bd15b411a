"""What explain() says, which engine is chosen and why, and what is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ostinato import InputError, Recurrent, SlowPathError, TraceError, cells, strict
from ostinato.compiler.plan import Needs, make_plan
from ostinato.engine import Step, choose, explain
from ostinato.engine.explain import recurrence_kind


class Block(nn.Module):
    """A block-diagonal recurrence: each of two heads has its own map."""

    state_size = 6

    def __init__(self) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.randn(2, 3, 3))
        self.W = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        heads = torch.einsum("bhi,hij->bhj", h.view(-1, 2, 3), self.U)
        return torch.tanh(self.W(x) + heads.reshape(-1, 6))


class Memoryless(nn.Module):
    state_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.W(x))


class Branching(nn.Module):
    state_size = 3

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return h if x.sum() > 0 else -h


@pytest.mark.parametrize(
    ("cell", "forward", "backward"),
    [
        (cells.LSTM(4, 6), 6, 6),
        (cells.GRU(6, 6), 6, 6),
        (cells.Elman(4, 6), 6, 6),
        (cells.PeepholeLSTM(4, 6), 6, 6),
        (cells.MinGRU(4, 6), 6, 6),
        (cells.ResetBeforeGRU(4, 6), 6, 0),  # its weight gradient wants r * h whole
        (cells.LayerNormLSTM(4, 6), 0, 0),
        (Block(), 0, 0),
    ],
)
def test_units_that_threads_can_divide(cell: nn.Module, forward: int, backward: int) -> None:
    report = explain(Step(cell), cell.input_size if hasattr(cell, "input_size") else 4)
    assert report.forward is not None
    assert report.backward is not None
    assert (report.forward.units, report.backward.units) == (forward, backward)
    assert f"few rows     {'threads divide units' if forward else 'an operation wants'}" in str(
        report
    )


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (cells.LSTM(4, 3), "dense"),
        (cells.ResetBeforeGRU(4, 3), "dense"),
        (Block(), "block-diagonal"),
        (cells.IndRNN(4, 3), "elementwise"),
        (cells.MinGRU(4, 3), "affine"),
        (Memoryless(), "none"),
    ],
)
def test_kind_of_recurrence(cell: nn.Module, kind: str) -> None:
    program = Step(cell).trace(4, torch.float32).program
    assert recurrence_kind(program) == kind
    assert explain(Step(cell), 4).recurrence == kind


def test_phases_of_an_lstm() -> None:
    report = Recurrent(cells.LSTM(7, 5)).explain()
    assert report.engine == "native"
    assert not report.slow
    assert report.isa in ("baseline", "avx2", "avx512")
    assert len(report.forward.hoisted) == 1
    assert "weight_ih" in report.forward.hoisted[0]
    assert any("weight_hh" in text for text in report.forward.loop)
    assert report.forward.deferred == ()
    assert [t for t in report.backward.loop if "product" in t] == ["product 20 -> 5 by weight_hh"]
    assert sum("weight gradient" in text for text in report.backward.deferred) == 2
    # Four gates and the history of c; the history of h is the output.
    assert report.kept_bytes == (4 * 5 + 5) * 4
    assert report.forward.weight_bytes == 4 * 5 * 5 * 4
    products = 2 * 4 * 5 * (7 + 5)
    assert products < report.forward.flop < products + 40 * 5
    assert 2 * products < report.backward.flop < 2 * products + 100 * 5


def test_what_is_said_to_be_kept_is_kept() -> None:
    """The report's bytes are those of the buffer that forward hands to backward."""
    layer = Recurrent(cells.LSTM(7, 5))
    x = torch.randn(11, 3, 7, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y, _ = layer(x)
    own = {x.data_ptr(), y.data_ptr(), *(p.data_ptr() for p in layer.parameters())}
    rest = [t for t in saved if t.data_ptr() not in own and tuple(t.shape) != (3, 5)]
    report = layer.explain()
    told = report.kept_bytes * 11 * 3 + report.kept_bytes_a_call
    assert sum(t.numel() * t.element_size() for t in rest) == told


def test_output_map_that_feeds_no_state_is_deferred() -> None:
    class WithReadout(nn.Module):
        state_size = 5

        def __init__(self) -> None:
            super().__init__()
            self.W, self.U, self.V = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = torch.tanh(self.W(x) + self.U(h))
            return self.V(h), h

    report = Recurrent(WithReadout()).explain(4)
    assert [t for t in report.forward.deferred if "product" in t] == [
        "product 5 -> 2 by V.weight + V.bias"
    ]
    assert report.backward.hoisted == ("product 2 -> 5 by V.weight",)


def test_inference_keeps_nothing() -> None:
    program = Step(cells.LSTM(4, 3)).trace(4, torch.float32).program
    assert make_plan(program, None).kept == ()


def test_only_what_is_wanted_is_computed() -> None:
    program = Step(cells.LSTM(4, 3)).trace(4, torch.float32).program
    names = [s.name for s in program.statics]
    only = Needs(False, frozenset({names.index("bias_hh")}))
    plan = make_plan(program, only)
    assert set(plan.backward.dstatics) == {names.index("bias_hh")}
    assert "dx" not in {s.name for s in plan.backward.streams}
    assert all(not phase for phase in plan.backward.schedule.phases[2:])


def test_report_reads_well() -> None:
    text = str(Recurrent(cells.GRU(4, 3), reverse=True).explain())
    for part in ("GRU: input 4, state (3), in reverse", "engine       native", "hoisted", "kept"):
        assert part in text


def test_input_size_is_remembered_from_the_last_call() -> None:
    layer = Recurrent(Memoryless())
    with pytest.raises(InputError, match=r"input_size=\.\.\."):
        layer.explain()
    layer(torch.zeros(2, 1, 4))
    assert layer.explain().input_size == 4


def test_untraceable_cell_says_why_and_where() -> None:
    layer = Recurrent(Branching())
    report = layer.explain(3)
    assert report.engine == "eager"
    assert report.slow
    assert "test_explain.py" in report.reason
    assert "slow path" in str(report)
    layer(torch.ones(2, 1, 3))
    with strict(), pytest.raises(SlowPathError, match=r"test_explain\.py"):
        layer(torch.ones(2, 1, 3))
    with pytest.raises(TraceError, match=r"test_explain\.py"):
        Recurrent(Branching(), engine="native")(torch.ones(2, 1, 3))


def test_choice_by_device_and_dtype() -> None:
    step = Step(cells.LSTM(4, 3))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert choose(step, 4, torch.float32, cpu, "auto").engine == "native"
    assert choose(step, 4, torch.float32, cuda, "auto").engine == "cudnn"
    assert choose(step, 4, torch.float32, cuda, "auto", plain=False).engine == "eager"
    own = Step(cells.PeepholeLSTM(4, 3))
    choice = choose(own, 4, torch.float32, cuda, "auto")
    assert (choice.engine, choice.slow) == ("eager", True)
    assert "cuda" in choice.reason
    choice = choose(step, 4, torch.bfloat16, cpu, "auto")
    assert (choice.engine, choice.slow) == ("eager", True)
    assert "bfloat16" in choice.reason
    with pytest.raises(InputError, match="bfloat16"):
        choose(step, 4, torch.bfloat16, cpu, "native")
    with strict(), pytest.raises(SlowPathError, match="asked for"):
        Recurrent(cells.LSTM(4, 3), engine="eager")(torch.zeros(1, 1, 4))
