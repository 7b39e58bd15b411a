"""What is made at a first call and outlives it must not take part in what surrounds that call."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@contextmanager
def by_itself() -> Iterator[None]:
    """Outside of inference mode, ``no_grad``, autocast, saved tensors' hooks and ``torch.func``."""
    with ExitStack() as stack:
        if torch._C._are_functorch_transforms_active():
            from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

            stack.enter_context(temporarily_clear_interpreter_stack())
        else:  # a transform lets nobody have such hooks
            stack.enter_context(saved_tensors_hooks(_detached, _itself))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        yield


def _detached(tensor: Tensor) -> Tensor:
    """What is saved: a tensor that holds itself through what saved it would never be freed."""
    return tensor.detach()


def _itself(tensor: Tensor) -> Tensor:
    return tensor
