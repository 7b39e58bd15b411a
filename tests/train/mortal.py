"""Runs that get killed, for ``test_resume.py``: prints what came of each.

    python mortal.py FOLDER SEED

A process that has imported everything forks one child after another. Each child resumes the run of
the one before it and is killed, at a random moment or at its n-th call that writes; the last one
reaches the end, and its weights and history are compared with those of a run that wasn't cut.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

from small_runs import KINDS, digest, train  # noqa: E402

#: Calls of the operating system by which a checkpoint is written and older ones deleted.
CALLS = ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir")


def child(kind: str, folder: Path, fatal_call: int | None) -> int:
    """Start one that resumes; killed at its n-th call of CALLS, or left alone."""
    number = os.fork()
    if number:
        return number
    try:
        if fatal_call is not None:
            die_at(fatal_call)
        result = digest(*train(kind, folder, resume=True))
        (folder / "result").write_text(result)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def die_at(fatal_call: int) -> None:
    calls = 0

    def counted(call: Any) -> Any:
        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal_call:
                if call is os_write:  # in the middle of a file
                    call(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return deadly

    os_write = os.write
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def ended(number: int) -> str:
    _, status = os.waitpid(number, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.WEXITSTATUS(status)}"


def killed_at_random(kind: str, folder: Path, seconds: float, draw: random.Random) -> int:
    """Kill twice at random moments; gives how often the kill came before the end."""
    kills = 0
    for _ in range(2):
        number = child(kind, folder, None)
        time.sleep(draw.uniform(0.02, 0.4) * seconds)
        os.kill(number, signal.SIGKILL)
        kills += ended(number) == "SIGKILL"
    return kills


def main(folder: Path, seed: int) -> None:
    os.fsync = lambda number: None  # a process is killed, not the system: its cache stays
    draw = random.Random(seed)
    for kind in KINDS:
        reference = digest(*train(kind))
        path = folder / f"{kind}-whole"
        path.mkdir()
        start = time.perf_counter()
        assert ended(child(kind, path, None)) == "exit 0"
        seconds = time.perf_counter() - start
        assert (path / "result").read_text() == reference, f"{kind}: checkpoints change the result"
        path = folder / kind
        path.mkdir()
        kills = killed_at_random(kind, path, seconds, draw)
        assert ended(child(kind, path, None)) == "exit 0"
        same = (path / "result").read_text() == reference
        print(kind, kills, "same" if same else "DIFFERENT", reference, flush=True)
    # Every call of the first checkpoints of a run in turn, one folder for all of them.
    reference = digest(*train("dropout"))
    path = folder / "calls"
    path.mkdir()
    deaths = 0
    for fatal_call in range(1, 21):
        deaths += ended(child("dropout", path, fatal_call)) == "SIGKILL"
        if fatal_call % 10 == 0:
            assert ended(child("dropout", path, None)) == "exit 0"
            same = (path / "result").read_text() == reference
            print("calls", deaths, "same" if same else "DIFFERENT", reference, flush=True)
            path = folder / f"calls-{fatal_call}"
            path.mkdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
