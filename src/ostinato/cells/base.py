"""What all cells share: sizes, parameters in torch's layout, torch's initialisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Made(TypedDict, total=False):
    """Where a cell's parameters are made, and in which dtype."""

    device: torch.device | str | None
    dtype: torch.dtype | None


class Cell(nn.Module):
    """Base of the built-in cells; a cell of your own needs no such base, any module will do.

    Parameters are named and laid out as in ``torch.nn.LSTMCell``: ``weight_ih`` ``(gates * H, I)``,
    ``weight_hh`` ``(gates * H, H)``, ``bias_ih`` and ``bias_hh`` ``(gates * H,)``, the gates one
    after another in the order of ``GATES``.

    Args:
        input_size: I, features of the input, at least 1.
        hidden_size: H, features of the state, at least 1.
        bias: ``False``: no parameter whose name starts with ``bias``.

    Raises:
        InputError: a size is no int of at least 1.
    """

    #: Names of the gates in the order in which their rows stand in the weights.
    GATES: ClassVar[tuple[str, ...]] = ()

    state_size: int | tuple[int, ...]
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.bias = bool(bias)
        self.state_size = hidden_size

    def _make(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Register parameters of these shapes and draw them; a bias only if there are any."""
        for name, shape in shapes.items():
            present = self.bias or not name.startswith("bias")
            value = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, value if present else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: torch's U(-1/sqrt(H), 1/sqrt(H)) unless the cell says more."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Sizes, and ``bias`` where it isn't the default."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")

    def forward(self, x: Tensor, state: Any) -> Any:
        """One step, see the class."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


def check_size(name: str, value: int) -> int:
    """``value`` if it is an int of at least 1.

    Raises:
        InputError: it isn't.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be an int >= 1, got {value!r}")
    return value
