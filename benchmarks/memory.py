"""Peak memory of one training call, each in a fresh process; and whether what is kept is as told.

``python -m benchmarks.memory`` is that process: it reads a request from its command line (JSON) and
prints the answer. The peak is the kernel's (``VmHWM``, Linux), so that no allocator's bookkeeping
is needed; data, parameters and everything that a first call loads stand before it. A peak is exact
to about a quarter of a MiB.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.case import Case, make_case, oracle, worst_error
from benchmarks.measure import ROOT
from benchmarks.peers import OURS, gate, prepare
from benchmarks.problems import Problem, small
from benchmarks.work import row_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How far two equal peaks may differ.
RESOLUTION = 256 << 10


def memory_records(
    problem: Problem, threads: int, repeats: int, peers: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Peak extra bytes of ours and of torch.nn's, the median of ``repeats`` processes each; of ours
    alone where ``peers`` leaves torch.nn out.
    """
    records = []
    for peer in (OURS, "torch_nn") if peers is None or "torch_nn" in peers else (OURS,):
        answers = [_ask(peer, problem, threads) for _ in range(repeats)]
        record: dict[str, Any] = {
            "suite": "memory",
            "name": problem.name,
            "contestant": peer,
            "peer": peer,
            "problem": problem.asdict(),
            "threads": threads,
        }
        peaks = [a.pop("peak_bytes", None) for a in answers]
        record |= next((a for a in answers if a["status"] != "ok"), answers[0])
        if record["status"] == "ok":
            record |= {"peak_bytes": statistics.median(peaks), "samples": len(peaks)}
        records.append(record)
    return records


def _ask(peer: str, problem: Problem, threads: int) -> dict[str, Any]:
    request = json.dumps({"peer": peer, "problem": problem.asdict(), "threads": threads})
    # Freed memory goes back at once, so that a block isn't counted where an earlier one was.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", request],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        return {"status": "failed", "note": said[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(peer: str, problem: Problem, threads: int) -> dict[str, Any]:
    """In this process: the peak, the check against the oracle, and for ours what is kept."""
    torch.set_num_threads(threads)
    prepare(peer, make_case(small(problem))).call()
    case = make_case(problem)
    runner = prepare(peer, case)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    done = runner.call()
    peak = _status("VmHWM") - before
    error, where = worst_error(runner.collect(done), oracle(case), problem.dtype)
    answer = {"peak_bytes": max(0, peak), "error": error, "where": where, **gate(error, where)}
    return answer | (kept(case) if peer == OURS else {})


def kept(case: Case) -> dict[str, int]:
    """Bytes that autograd holds after forward besides what the caller holds, and what
    ``explain()`` says of it.
    """
    from benchmarks.peers.ostinato_layer import make_layer

    layer, drop_in = make_layer(case)
    parts = tuple((s[None] if drop_in else s).clone().requires_grad_() for s in case.state)
    x = case.x.clone().requires_grad_()
    state = parts[0] if case.bare else parts
    layer(x, state)  # traces, which calls the cell in PyTorch
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, final = layer(x, state)
    finals = (final,) if case.bare else tuple(final)
    for held in (x, y, *parts, *finals, *layer.parameters()):
        saved.pop(held.untyped_storage().data_ptr(), None)
    report = layer.explain()
    report = report.parts[0][1] if drop_in else report
    told = report.kept_bytes * row_steps(case.problem) + report.kept_bytes_a_call
    return {"kept_bytes": sum(saved.values()), "told_bytes": told}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(measure(asked["peer"], Problem(**asked["problem"]), asked["threads"])))
