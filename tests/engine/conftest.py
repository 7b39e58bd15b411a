"""Engine tests run with poisoned scratch memory and put global settings back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ostinato import _native

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    isa, threads = _native.isa(), torch.get_num_threads()
    _native.set_testing(poison=True)
    yield
    _native.set_testing()
    _native.set_isa(isa)
    torch.set_num_threads(threads)
