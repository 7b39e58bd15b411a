"""What surrounds a call: what is made at a first one and outlives it must not take part in it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules import module as modules
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import _disable_current_modes

from ostinato.engine.structure import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_GLOBAL_NAMES = tuple([f"_global{name}" for name in HOOKS])
#: Where PyTorch keeps the hooks that each module calls (``register_module_forward_hook`` and its
#: kind). These dicts stay the same ones.
GLOBAL_HOOKS: tuple[dict[int, object], ...] = tuple([vars(modules)[n] for n in _GLOBAL_NAMES])


@contextmanager
def by_itself() -> Iterator[None]:
    """Outside of all that may surround a first call.

    That is inference mode, ``no_grad``, autocast, modes that see each operation (a default device
    is one), saved tensors' hooks, hooks that each module calls, and ``torch.func``.
    """
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        while torch._C._len_torch_function_stack() > 0:
            stack.enter_context(_pop_mode_temporarily())
        if any(GLOBAL_HOOKS):
            stack.enter_context(_without_global_hooks())
        if torch._C._are_functorch_transforms_active():
            from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

            stack.enter_context(temporarily_clear_interpreter_stack())
        else:  # a transform lets nobody have such hooks
            stack.enter_context(saved_tensors_hooks(_detached, _itself))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        yield


@contextmanager
def _without_global_hooks() -> Iterator[None]:
    """Other dicts in their place, since another thread may be going through these."""
    vars(modules).update({name: {} for name in _GLOBAL_NAMES})
    try:
        yield
    finally:
        # These, not what was found: another thread may have been here.
        vars(modules).update(zip(_GLOBAL_NAMES, GLOBAL_HOOKS, strict=True))


def _detached(tensor: Tensor) -> Tensor:
    """What is saved: a tensor that holds itself through what saved it would never be freed."""
    return tensor.detach()


def _itself(tensor: Tensor) -> Tensor:
    return tensor
