"""How a cell is called, and what it may return.

Two conventions are told apart by the structure that comes back: ``cell(x, state) -> (output,
state)``, and torch's, ``cell(x, h) -> h`` or ``cell(x, (h, c)) -> (h, c)``, whose output is the
(first) new state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ostinato.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence


def random_inputs(
    input_size: int, widths: Sequence[int], dtype: torch.dtype, batch: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """An x and a state.

    They are differentiable but not leaves, so that a cell that writes into them meets our error,
    not autograd's.
    """
    generator = torch.Generator().manual_seed(batch)

    def draw(width: int) -> Tensor:
        values = torch.randn(batch, width, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_().clone()

    return draw(input_size), tuple(draw(n) for n in widths)


def call_cell(cell: nn.Module, x: Tensor, state: tuple[Tensor, ...], *, bare: bool) -> Any:
    """One step of the cell; its own errors get a note."""
    try:
        return cell(x, state[0] if bare else state)
    except TraceError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(s.shape)) for s in state)
        error.add_note(
            f"ostinato called {type(cell).__name__} with x of shape {tuple(x.shape)} and "
            f"{'state' if bare else 'a tuple of states'} of shape {shapes}, {x.dtype}"
        )
        raise


def split_result(
    cell: nn.Module, result: Any, state: tuple[Tensor, ...], x: Tensor, bare: bool
) -> tuple[Tensor, tuple[Tensor, ...], bool]:
    """Output, new state, and whether the cell gave its state alone.

    Raises:
        TraceError: the result's structure, shapes or dtypes are not those of the state.
    """
    output, new, only = match(result, len(state), bare)
    if output is None:
        expected = "state" if bare else f"({', '.join(f's{k + 1}' for k in range(len(state)))})"
        raise TraceError(
            f"{type(cell).__name__} returned {structure_text(result)}: expected "
            f"(output, {expected}) or {expected}, in the structure in which it got its state; "
            "return it so, or say another state_size"
        )
    for k, (was, now) in enumerate(zip(state, new, strict=True)):
        if was.shape != now.shape or was.dtype != now.dtype:
            name = "state" if bare else f"state {k}"
            raise TraceError(
                f"{type(cell).__name__} got {name} as {was.dtype} of shape (B, "
                f"{was.shape[1]}) and returned it as {now.dtype} of shape "
                f"{_with_b(now, x.shape[0])}: a state must keep its shape and dtype from step to "
                "step"
            )
    if output.dim() != 2 or output.shape[0] != x.shape[0] or output.dtype != x.dtype:
        raise TraceError(
            f"{type(cell).__name__} returned an output of shape {_with_b(output, x.shape[0])} and "
            f"{output.dtype}: expected (B, O) and {x.dtype}"
        )
    return output, new, only


def match(result: Any, count: int, bare: bool) -> tuple[Tensor | None, tuple[Tensor, ...], bool]:
    """Output (``None``: neither convention), new state, and whether the state came alone.

    Args:
        result: what the cell returned.
        count: number of state tensors.
        bare: whether the cell takes its state as one tensor, not as a tuple of tensors.
    """
    nothing = None, (), False
    if isinstance(result, Tensor):
        return (result, (result,), True) if bare else nothing
    if not isinstance(result, (tuple, list)):
        return nothing
    if bare:
        if len(result) == 2 and all(isinstance(r, Tensor) for r in result):
            return result[0], (result[1],), False
        return nothing
    if len(result) == 2 and isinstance(result[0], Tensor) and isinstance(result[1], (tuple, list)):
        states = tuple(result[1])
        if len(states) == count and all(isinstance(s, Tensor) for s in states):
            return result[0], states, False
        return nothing
    if len(result) == count and all(isinstance(r, Tensor) for r in result):
        return result[0], tuple(result), True
    return nothing


def structure_text(result: Any) -> str:
    """What a cell returned, for an error: ``(a tensor of (2, 3), int)``."""
    if isinstance(result, Tensor):
        return f"a tensor of {tuple(result.shape)}"
    if isinstance(result, (tuple, list)):
        return f"({', '.join(map(structure_text, result))}{',' if len(result) == 1 else ''})"
    return type(result).__name__


def _with_b(tensor: Tensor, batch: int) -> str:
    sizes = ["B" if n == batch else str(n) for n in tensor.shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
