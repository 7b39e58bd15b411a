"""Two processes train as one does; what messages cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ostinato.errors import InputError
from ostinato.train import Processes, communication_seconds, distributed
from small_runs import KINDS, Losses, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What ``two_processes.py`` wrote, by rank."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        command += ["--master-addr", "localhost", "--master-port", str(free.getsockname()[1])]
    done = subprocess.run(
        [*command, Path(__file__).with_name("two_processes.py"), folder],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_curve_is_that_of_one_process(kind: str, results: list[dict[str, Any]]) -> None:
    """Rows of lengths 1 to 9, five of them in a batch: three here, two there, other terms each."""
    seen = Losses()
    model, history = train(kind, callbacks=[seen])
    two = results[0][kind]
    assert two["losses"] == pytest.approx(seen.losses, rel=2e-6)
    for got, record in zip(two["epochs"], history.epochs, strict=True):
        want = (record.loss, record.metrics["val_loss"], record.grad_norm)
        assert got == pytest.approx(want, rel=1e-5)
    for name, p in model.named_parameters():
        assert torch.allclose(torch.tensor(two["weights"][name]), p, atol=2e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_agree(kind: str, results: list[dict[str, Any]]) -> None:
    main, other = results
    assert main[kind]["digest"] == other[kind]["digest"]
    assert len(main[kind]["losses"]) == len(results[0][kind]["losses"]) > 10
    assert other[kind]["losses"] == [], "callbacks are for the main process"


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_on_one_ends_both_and_they_resume(kind: str, results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result[kind]["stopped"] == "interrupted"
        assert result[kind]["digest of resumed"] == result[kind]["digest"]
    assert results[0][kind]["resumed"] == 8  # told at step 7, agreed on with the next


def test_a_full_disk_ends_both(results: list[dict[str, Any]]) -> None:
    assert "the disk is full" in results[0]["full disk"]
    assert results[1]["full disk"] == results[0]["full disk"]


def test_messages(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        assert (result["rank"], result["world"], result["is_main"]) == (rank, 2, rank == 0)
        assert result["total"] == [3.0, 1.0]
        assert result["mean"] == [1.25]  # 1 with weight 3, 2 with weight 1
        assert result["gathered"] == ["from 0", "from the 1"]


def test_no_message_is_kept(results: list[dict[str, Any]]) -> None:
    """A message that one of gloo's threads drops while Python shuts down aborts the process."""
    assert [result["kept"] for result in results] == [0, 0]


# ---- one process


def test_a_message_that_somebody_keeps_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "_PATIENCE", 0.01)
    kept = torch.zeros(1)
    messages = [kept]
    distributed._let_go(messages)
    assert messages == []


def test_one_process_alone() -> None:
    alone = Processes()
    assert alone.is_main
    assert alone.total([1, 2.5]) == [1.0, 2.5]
    assert alone.mean([3.0], weight=2.0) == [3.0]
    assert alone.gather(b"x") == [b"x"]
    assert alone.from_main(b"y") == b"y"
    model = torch.nn.Linear(1, 1)
    assert alone.wrap(model) is model
    alone.barrier()
    alone.close()


def test_a_share_without_terms_adds_nothing() -> None:
    weight = torch.ones(2, requires_grad=True)
    logits = weight.unsqueeze(0) * 1.0
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([-100]))
    assert loss.isnan()
    share = Processes(1, 2).share_of_loss(loss, 0, 4)
    share.backward()  # type: ignore[no-untyped-call]
    assert share == 0
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rank", "world", "match"),
    [("0", None, "both or neither"), ("2", "2", "below WORLD_SIZE"), ("a", "2", "not numbers")],
)
def test_an_environment_that_does_not_fit(
    rank: str, world: str | None, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match=match):
        Processes.from_environment()


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Processes.from_environment() == Processes()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Processes.from_environment() == Processes()


def test_fit_under_torchrun_needs_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"pass processes=Processes.from_environment\(\)"):
        train("carry")


# ---- the cost of messages


def test_cost_of_a_ring() -> None:
    assert communication_seconds(10**6, 1, 125e6) == 0
    # 2 rounds of half a message each.
    assert communication_seconds(10**6, 2, 125e6, 0) == pytest.approx(2 * 0.5e6 / 125e6)
    assert communication_seconds(0, 8, 125e6, 1e-4) == pytest.approx(14e-4)
    # The part that depends on the size stays below twice the message.
    assert communication_seconds(10**6, 1000, 125e6, 0) < 2 * 10**6 / 125e6


@pytest.mark.parametrize("wrong", [(-1, 2, 1.0, 0.0), (1, 0, 1.0, 0.0), (1, 2, 0.0, 0.0)])
def test_cost_of_nonsense_is_refused(wrong: tuple[int, int, float, float]) -> None:
    with pytest.raises(InputError, match="are needed"):
        communication_seconds(*wrong)
