"""Optimisers, schedules, clipping and files, each by itself."""

from __future__ import annotations

import errno
import math
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ostinato.errors import InputError, ModelError
from ostinato.train.clipping import global_norm, measure_and_clip
from ostinato.train.directory import (
    remove_unfinished,
    write_atomically,
    write_directory_atomically,
)
from ostinato.train.optimisers import OPTIMISERS, make_optimiser
from ostinato.train.schedules import SCHEDULES, make_rates

if TYPE_CHECKING:
    from pathlib import Path

# ---- optimisers


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_are_those_of_torch(name: str) -> None:
    layer = nn.Linear(2, 3)
    made = make_optimiser(name, layer, 0.1, 0.0)
    assert type(made) is OPTIMISERS[name][0]
    assert [len(g["params"]) for g in made.param_groups] == [2]
    assert all(g["lr"] == 0.1 for g in made.param_groups)
    assert name == "rmsprop" or made.param_groups[0]["fused"] is True


def test_only_what_multiplies_decays() -> None:
    layer = nn.Linear(2, 3)
    made = make_optimiser("adamw", layer, 0.1, 0.5)
    decay = {id(p): g["weight_decay"] for g in made.param_groups for p in g["params"]}
    assert decay == {id(layer.weight): 0.5, id(layer.bias): 0.0}


# ---- schedules


def rates_of(name: Any, steps: int, warmup: float = 0.0) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0)
    rates = make_rates(name, warmup, steps, optimizer)
    found = []
    for step in range(steps):
        lr = rates.set(optimizer, step)
        assert optimizer.param_groups[0]["lr"] == lr
        found.append(lr)
    return found


def test_constant_linear_cosine() -> None:
    assert rates_of("constant", 3) == [2.0, 2.0, 2.0]
    assert rates_of("linear", 4) == pytest.approx([2.0, 1.5, 1.0, 0.5])
    cosine = [1 + math.cos(math.pi * k / 4) for k in range(4)]
    assert rates_of("cosine", 4) == pytest.approx(cosine)


def test_one_cycle_is_that_of_torch() -> None:
    steps = 100
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, total_steps=steps, cycle_momentum=False, final_div_factor=1e4
    )
    want = []
    for _ in range(steps):
        want.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    # Theirs reaches its turning points one step earlier.
    assert rates_of("one-cycle", steps) == pytest.approx(want, abs=0.06)
    assert max(rates_of("one-cycle", steps)) == pytest.approx(2.0)


def test_warmup_goes_before_the_schedule() -> None:
    assert rates_of("linear", 8, warmup=0.5) == pytest.approx(
        [0.4, 0.8, 1.2, 1.6, 2.0, 1.5, 1.0, 0.5]
    )


def test_groups_keep_their_rates() -> None:
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": [second]}], lr=0.1)
    rates = make_rates(lambda step, steps: 1 / (1 + step), 0.0, 4, optimizer)
    rates.set(optimizer, 3)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.025]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_rates_stay_above_zero(name: str, steps: int) -> None:
    assert all(0 < lr <= 2.0 for lr in rates_of(name, steps))


# ---- clipping


def gradients(*values: torch.Tensor) -> list[tuple[str, nn.Parameter]]:
    made = []
    for k, value in enumerate(values):
        p = nn.Parameter(torch.zeros_like(value))
        p.grad = value.clone()
        made.append((f"p{k}", p))
    return made


@pytest.mark.parametrize("size", [3, 65_536, 70_001, 300_000])
def test_norm_of_small_and_large(size: int) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(size), torch.randn(5, 7), torch.randn(300, 400).t()]
    want = math.sqrt(sum(float(t.double().square().sum()) for t in tensors))
    assert global_norm(tensors) == pytest.approx(want, rel=1e-6)


def test_clipping() -> None:
    given = gradients(torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))
    assert measure_and_clip(given, None) == (5.0, False)
    assert measure_and_clip(given, 5.0) == (5.0, False)
    assert measure_and_clip(given, 2.5) == (5.0, True)
    assert [p.grad.flatten().tolist() for _, p in given if p.grad is not None] == [[1.5, 0], [2.0]]


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_is_told_and_left(odd: float) -> None:
    given = gradients(torch.tensor([1.0, odd]), torch.full((70_000,), odd))
    norm, clipped = measure_and_clip(given, 1.0)
    assert not math.isfinite(norm)
    assert not clipped


def test_no_gradient_at_all() -> None:
    with pytest.raises(InputError, match="doesn't depend on any"):
        measure_and_clip([("p", nn.Parameter(torch.ones(1)))], 1.0)


# ---- files


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ModelError, match="the disk is full, 5 bytes could not be written"):
        write_atomically(path, b"three")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"file: can't be written: No such file or directory"):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_a_directory_comes_whole(tmp_path: Path) -> None:
    write_directory_atomically(tmp_path / "d", {"a": b"1", "b": b"22"})
    assert {p.name: p.read_bytes() for p in (tmp_path / "d").iterdir()} == {"a": b"1", "b": b"22"}
    with pytest.raises(ModelError, match="can't be written"):
        write_directory_atomically(tmp_path / "d", {"c": b"3"})
    assert {p.name for p in tmp_path.iterdir()} == {"d"}
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"a", "b"}


def test_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-1-a").mkdir()
    (tmp_path / ".unfinished-1-a" / "part").write_text("")
    (tmp_path / ".unfinished-2-b").write_text("")
    (tmp_path / "kept").write_text("")
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
