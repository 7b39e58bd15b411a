"""Tests that kill processes or fill disks needn't wait for a disk: no power goes off in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="package")
def no_flush() -> Iterator[None]:
    """``os.fsync`` does nothing: what is written is in the system's cache, and stays there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield
