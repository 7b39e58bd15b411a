"""The option that renews kept texts: golden plans, and what the documentation shows."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew",
        action="store_true",
        help="write golden plans and the documentation's outputs anew instead of comparing them",
    )


@pytest.fixture
def renew(request: pytest.FixtureRequest) -> bool:
    """Whether kept texts are to be written anew."""
    return bool(request.config.getoption("--renew"))
