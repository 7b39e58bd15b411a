"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import ostinato

MODULES = sorted(m.name for m in pkgutil.walk_packages(ostinato.__path__, "ostinato."))


@pytest.mark.parametrize("name", [n for n in MODULES if not n.endswith("_native")])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
