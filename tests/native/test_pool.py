"""Threads, PyTorch's and our own: bodies at once, many callers, exceptions, fork, exit."""

import os
import subprocess
import sys
import threading
import time

import pytest

from ostinato import _native

CAN_FORK = hasattr(os, "fork")
both_kinds = pytest.mark.parametrize("own", [False, True])


@both_kinds
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_bodies_meet_at_the_barrier(n: int, own: bool) -> None:
    assert _native.pool_check(n, 50, own=own) == 50 * n


@both_kinds
def test_workers_that_went_to_sleep_wake_up(own: bool) -> None:
    for _ in range(5):
        assert _native.pool_check(3, 3, own=own) == 9
        time.sleep(0.02)


@both_kinds
def test_many_callers_at_once(own: bool) -> None:
    results: list[int] = []

    def call() -> None:
        for _ in range(20):
            results.append(_native.pool_check(3, 5, own=own))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert results == [15] * 120


@both_kinds
@pytest.mark.parametrize("thrower", [0, 1, 3])
def test_an_exception_comes_back_and_the_pool_goes_on(thrower: int, own: bool) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match=f"body {thrower} was told to throw"):
            _native.pool_check(4, 5, thrower, own)
        assert _native.pool_check(4, 5, own=own) == 20


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="OpenMP is looked up on Linux only"
)
def test_whose_threads() -> None:
    shares = "from ostinato import _native; print(_native.shares_threads())"
    assert run(shares).stdout == "False\n"
    assert run("import torch; " + shares).stdout == "True\n"
    # A runtime that may grant fewer threads than asked for can't run bodies that wait for another.
    limited = "import torch; from ostinato import _native; print(_native.pool_check(3, 5))"
    done = run(limited, OMP_THREAD_LIMIT="2")
    assert done.stdout == "15\n", done.stderr


def run(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


# The parent has workers, asleep and at work for another thread, when it forks; the child, which has
# none of them, must neither wait for them nor for a lock that one of them held.
FORK = """
import os, sys, threading, time
{imports}
from ostinato import _native

assert _native.pool_check(4, 5) == 20
stop = threading.Event()

def work():
    while not stop.is_set():
        _native.pool_check(2, 50)

thread = threading.Thread(target=work)
thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if _native.pool_check(4, 20) == 80 else 1)
    deadline = time.monotonic() + 30
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            sys.exit("the child hangs")
        time.sleep(0.001)
    assert status == 0, status
assert _native.pool_check(4, 5) == 20
stop.set()
thread.join()
"""


@pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")
@pytest.mark.parametrize("imports", ["", "import torch"])
def test_fork(imports: str) -> None:
    done = run(FORK.format(imports=imports))
    assert done.returncode == 0, done.stderr


def test_exit_with_workers_asleep_and_at_work() -> None:
    # A daemon thread is inside the pool when the interpreter ends.
    done = run(
        "import threading, time\n"
        "from ostinato import _native\n"
        "_native.pool_check(4, 5)\n"
        "call = lambda: [_native.pool_check(3, 1000) for _ in range(10**6)]\n"
        "threading.Thread(target=call, daemon=True).start()\n"
        "time.sleep(0.05)\n"
        "print('done')\n"
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
