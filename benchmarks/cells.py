"""Makes a problem's cell; the benchmark's own cells, written as a user would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ostinato.cells import registry


class OwnCell(nn.Module):
    """An LSTM with a leaky memory, squashed without ``tanh``; in no registry, no paper.

    As many products as an LSTM of its size. ``x`` (B, I), ``state`` a pair of (B, H).
    """

    def __init__(self, input_size: int, hidden_size: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.state_size = (hidden_size, hidden_size)
        self.W = nn.Linear(input_size, 4 * hidden_size, dtype=dtype)
        self.R = nn.Linear(hidden_size, 4 * hidden_size, bias=False, dtype=dtype)
        self.p = nn.Parameter(torch.linspace(-0.5, 0.5, hidden_size, dtype=dtype))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = state
        i, f, g, o = (self.W(x) + self.R(h)).chunk(4, -1)
        c = torch.sigmoid(f + self.p * c) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * c / (1 + c * c).sqrt()
        return h, (h, c)


class CatCell(nn.Module):
    """The README's cell: one map of ``x`` and the state side by side, as tutorials write it.

    It gives back its state alone, as ``torch.nn.GRUCell`` does. ``x`` (B, I), ``h`` (B, H).
    """

    def __init__(self, input_size: int, hidden_size: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.hidden_size = self.state_size = hidden_size
        self.gates = nn.Linear(input_size + hidden_size, 2 * hidden_size, dtype=dtype)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z, n = self.gates(torch.cat([x, h], -1)).chunk(2, -1)
        return torch.lerp(h, torch.tanh(n), torch.sigmoid(z))


#: Products with (input, state), in multiples of H, by cell: how many gates have one.
GATES: dict[str, tuple[int, int]] = {
    "elman": (1, 1),
    "gru": (3, 3),
    "lstm": (4, 4),
    "lstm_layer_norm": (4, 4),
    "lstm_peephole": (4, 4),
    "gru_reset_before": (3, 3),
    "indrnn": (1, 0),
    "mingru": (2, 0),
    "own": (4, 4),
    "cat": (2, 2),
}

_WRITTEN_HERE: dict[str, Any] = {"own": OwnCell, "cat": CatCell}


def make_cell(name: str, input_size: int, hidden_size: int, dtype: torch.dtype) -> Any:
    """A cell with its own initialisation; one of this file, or a name of ostinato's registry.

    Two begin elsewhere, where float32 can be compared with float64 at all: with gains of 1 a layer
    norm in the recurrence multiplies rounding errors at each step, and a ReLU at its kink may have
    either derivative.
    """
    cls = _WRITTEN_HERE.get(name) or registry.get(name)
    cell = cls(input_size, hidden_size, dtype=dtype)
    with torch.no_grad():
        if name == "lstm_layer_norm":
            cell.gain_hh.fill_(0.3)
        elif name == "indrnn":
            cell.bias_ih.fill_(4.0)
    return cell


def state_sizes(cell: nn.Module) -> tuple[int, ...]:
    size: Any = getattr(cell, "state_size", None) or cell.hidden_size
    return (size,) if isinstance(size, int) else tuple(size)
