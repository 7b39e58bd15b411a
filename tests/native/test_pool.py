"""The pool: bodies at once, many callers, exceptions, fork, exit."""

import os
import subprocess
import sys
import threading
import time

import pytest

from ostinato import _native

CAN_FORK = hasattr(os, "fork")


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_bodies_meet_at_the_barrier(n: int) -> None:
    assert _native.pool_check(n, 50) == 50 * n


def test_workers_that_went_to_sleep_wake_up() -> None:
    for _ in range(5):
        assert _native.pool_check(3, 3) == 9
        time.sleep(0.02)


def test_many_callers_at_once() -> None:
    results: list[int] = []

    def call() -> None:
        for _ in range(20):
            results.append(_native.pool_check(3, 5))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert results == [15] * 120


@pytest.mark.parametrize("thrower", [0, 1, 3])
def test_an_exception_comes_back_and_the_pool_goes_on(thrower: int) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match=f"body {thrower} was told to throw"):
            _native.pool_check(4, 5, thrower)
        assert _native.pool_check(4, 5) == 20


def run(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120
    )


# The parent has workers, asleep and at work for another thread, when it forks; the child, which has
# none of them, must neither wait for them nor for a lock that one of them held.
FORK = """
import os, sys, threading, time
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
def test_fork() -> None:
    done = run(FORK)
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
