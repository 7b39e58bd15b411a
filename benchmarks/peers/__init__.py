"""Contestants, one a file: each makes a :class:`Runner` of a case.

A contestant is a module with ``prepare(case) -> Runner``; what it lacks it says by
:class:`UnsupportedError`, and a library that isn't installed by the ``ImportError`` itself.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.case import Case, Results


class UnsupportedError(Exception):
    """This contestant doesn't do this problem; the text says why."""


@dataclass
class Runner:
    """A contestant that is set up.

    ``call`` does the whole work and returns when it is done, on whatever device; where it does it
    ``steps`` times, a figure is of one. ``collect`` names what a call returned. ``compile_s`` is
    the time of a compiler that the contestant's user waits for, which is no part of any other
    figure.
    """

    call: Callable[[], Any]
    collect: Callable[[Any], Results]
    compile_s: float | None = None
    steps: int = 1


#: Contestant -> its module in this package, and the function if not ``prepare``. The first is ours.
PEERS = {
    "ostinato": "ostinato_layer",
    "ostinato_packed": "ostinato_packed",
    "torch_nn": "torch_nn",
    "torch_nn_packed": "torch_nn_packed",
    "torch_loop": "torch_loop",
    "torch_compile": "torch_compile",
    "jax_scan": "jax_scan",
    "onnxruntime": "onnx_runtime",
    "keras_jax": "keras_layer",
    "keras_torch": "keras_layer",
    "ostinato_keras": "ostinato_keras",
    "ostinato_recorded": "ostinato_keras:prepare_recorded",
}
OURS = "ostinato"


def prepare(peer: str, case: Case) -> Runner:
    """Set a contestant up.

    Raises:
        UnsupportedError: it doesn't do this problem.
        ImportError: its library is missing.
    """
    name, _, function = PEERS[peer].partition(":")
    module = importlib.import_module(f"benchmarks.peers.{name}")
    runner: Runner = getattr(module, function or "prepare")(case)
    return runner


def checked(peer: str, case: Case, want: Results) -> tuple[Runner, dict[str, Any]]:
    """Set a contestant up and compare what it computes; what of this goes into a record.

    Raises:
        UnsupportedError, ImportError: as of :func:`prepare`.
    """
    # It loads PyTorch, which `remote` may do only when it has its CPUs.
    from benchmarks.case import worst_error

    begin = time.perf_counter()
    runner = prepare(peer, case)
    setup_s = time.perf_counter() - begin
    error, where = worst_error(runner.collect(runner.call()), want, case.problem.dtype)
    found = {"error": error, "where": where, "setup_s": setup_s, "compile_s": runner.compile_s}
    return runner, found | gate(error, where)


def gate(error: float, where: str) -> dict[str, str]:
    """A record's ``status`` and ``note`` for an error as a fraction of what is allowed."""
    if error <= 1:  # NaN isn't
        return {"status": "ok", "note": ""}
    return {"status": "wrong", "note": f"too far from float64 in {where}"}


def failure(error: Exception) -> dict[str, str]:
    """A record's ``status`` and ``note`` for a contestant that raised."""
    for kind, status in ((UnsupportedError, "unsupported"), (ImportError, "missing")):
        if isinstance(error, kind):
            return {"status": status, "note": str(error)}
    note = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return {"status": "failed", "note": note}


def compiled(call: Callable[[], Any]) -> float:
    """Seconds of the first call, which compiles."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
