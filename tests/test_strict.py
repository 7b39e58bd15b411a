"""Strict mode: scopes, threads, and what it does to slow paths."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ostinato import cells
from ostinato.errors import SlowPathError
from ostinato.nn import Recurrent
from ostinato.strictness import strict


@pytest.fixture(autouse=True)
def off_again():
    yield
    strict(False)


def test_off_unless_asked_for() -> None:
    assert not strict.enabled
    strict.check("anything")


def test_a_block() -> None:
    scope = strict()
    assert not strict.enabled
    with scope:
        with pytest.raises(SlowPathError, match="slow path: the reason; leave strict mode"):
            strict.check("the reason")
        with strict(False):
            strict.check("the reason")
        assert strict.enabled
        with strict():
            assert strict.enabled
        assert strict.enabled
    assert not strict.enabled


def test_a_block_ends_with_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), strict():
        raise ZeroDivisionError
    assert not strict.enabled


def test_the_whole_process() -> None:
    strict(True)
    assert strict.enabled
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: strict.enabled).result()
    with strict(False):
        assert not strict.enabled
    assert strict.enabled
    strict(False)
    assert not strict.enabled
    with strict(True):
        assert strict.enabled
    assert not strict.enabled


def test_a_block_is_its_threads_own() -> None:
    inside, done, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with strict():
            inside.set()
            done.wait(5)
            seen.append(strict.enabled)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(5)
    assert not strict.enabled
    done.set()
    thread.join()
    assert seen == [True]


def test_the_eager_loop_is_a_slow_path() -> None:
    x = torch.zeros(2, 1, 3)
    layer = Recurrent(cells.GRU(3, 4), engine="eager")
    layer(x)
    with strict(), pytest.raises(SlowPathError, match="eager"):
        layer(x)
