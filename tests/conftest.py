"""The option that renews kept texts: golden plans, and what the documentation shows."""

from __future__ import annotations

import os
import signal

import pytest
import torch

# The tests' tensors are tiny: two threads would mostly wait for one another, and for minutes where
# something else runs on the machine. What depends on threads sets them itself.
torch.set_num_threads(1)

# A shell that starts the tests in the background has them ignore Ctrl-C, which some are about; what
# they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Keras asks for these when it is first imported, wherever that happens.
os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"


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
