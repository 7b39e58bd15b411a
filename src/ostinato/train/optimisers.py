"""Optimisers by name, fused where PyTorch has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

#: Name -> class and its settings besides the learning rate and the decay.
OPTIMISERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"fused": True}),
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "rmsprop": (torch.optim.RMSprop, {}),  # PyTorch has no fused one
}
#: What PyTorch's fused kernels run on.
_FUSED_ON = ("cpu", "cuda", "mps", "xpu")


def make_optimiser(
    choice: str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    model: nn.Module,
    lr: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimiser of ``model``'s parameters that require gradients.

    A callable gets the parameters and brings its own settings; ``lr`` and ``weight_decay`` are for
    those by name. Weights decay only where they multiply something: parameters of two axes or more,
    not biases and gains.

    Raises:
        InputError: an unknown name, no parameters, or settings outside their range.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the model has no parameter that requires a gradient")
    if callable(choice):
        made = choice(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(f"optimizer(params) must give an Optimizer, got {type(made).__name__}")
        return made
    if choice not in OPTIMISERS:
        raise InputError(
            f"optimizer must be one of {', '.join(OPTIMISERS)}, or a callable of the parameters; "
            f"got {choice!r}"
        )
    if not lr > 0:
        raise InputError(f"lr must be above 0, got {lr!r}")
    if not weight_decay >= 0:
        raise InputError(f"weight_decay must be 0 or above, got {weight_decay!r}")
    cls, settings = OPTIMISERS[choice]
    settings = dict(settings)
    if settings.get("fused") and any(p.device.type not in _FUSED_ON for p in parameters):
        settings["fused"] = False
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if weight_decay:
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
    return cls([g for g in groups if g["params"]], lr=lr, **settings)  # type: ignore[call-arg]
