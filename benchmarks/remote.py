"""A contestant in a process of its own: another revision, or a library set up by its environment.

``python -m benchmarks.remote`` reads one request a line (JSON) and answers each by one line:
``prepare`` (checks against the oracle, too), ``turn``, ``where``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT, local_turn, pin
from benchmarks.peers import Runner, UnsupportedError, checked, failure
from benchmarks.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping


class RemoteError(Exception):
    """The other process refused or died; the text says why."""


class Remote:
    """The near end: starts the process and speaks with it.

    ``environment`` is added to this process's own, whose CPUs it inherits; ``pinned`` gives it no
    more of them than threads.
    """

    def __init__(
        self, threads: int, environment: Mapping[str, str], *, pinned: bool = False
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.remote", str(threads)]
        self._process = subprocess.Popen(
            [*command, "pinned"] if pinned else command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        """The answer to one request.

        Raises:
            UnsupportedError, ImportError: so it was at the far end.
            RemoteError: the far end has another error to tell, or is gone.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RemoteError(f"the process ended with status {process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            kinds = {"unsupported": UnsupportedError, "missing": ImportError}
            raise kinds.get(answer["error"]["status"], RemoteError)(answer["error"]["note"])
        return answer["answer"]

    def prepare(self, peer: str, problem: Problem) -> dict[str, Any]:
        """Set up; gives what :func:`benchmarks.peers.checked` does."""
        prepared: dict[str, Any] = self.ask(do="prepare", peer=peer, problem=problem.asdict())
        return prepared

    def turn(self, calls: int, inner: int) -> list[float]:
        """What :func:`benchmarks.measure.race` wants."""
        samples: list[float] = self.ask(do="turn", calls=calls, inner=inner)
        return samples

    def close(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # what a process that died hasn't read
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(threads: int) -> None:
    """The far end. Whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    from benchmarks.case import make_case, oracle

    torch.set_num_threads(threads)
    runner: Runner | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: Any = None
            if request["do"] == "prepare":
                case = make_case(Problem(**request["problem"]))
                runner, answer = checked(request["peer"], case, oracle(case))
            elif request["do"] == "turn":
                assert runner is not None
                turn = local_turn(runner.call, runner.steps)
                answer = turn(request["calls"], request["inner"])
            else:
                import ostinato

                answer = {"file": ostinato.__file__, "version": ostinato.__version__}
            message = {"answer": answer}
        except Exception as error:
            message = {"error": failure(error)}
        print(json.dumps(message), file=answers, flush=True)


if __name__ == "__main__":
    if "pinned" in sys.argv[2:]:
        pin(int(sys.argv[1]))
    serve(int(sys.argv[1]))
