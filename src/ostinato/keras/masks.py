"""What a Keras mask means for a loop that knows lengths.

A masked step leaves the state as it is, and its output is the previous one (zero before the first)
or zero. So the loop may skip it altogether: each row's valid steps are moved together, run with
their number as the row's length, and the outputs are put where they belong. This holds for every
pattern, and masked steps cost nothing; with right padding nothing has to be moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ostinato.errors import InputError


@dataclass(frozen=True)
class Valid:
    """The valid steps of a batch.

    Attributes:
        mask: ``(B, T)`` bool.
        lengths: ``(B,)`` int64, valid steps of each row.
        order: ``(B, T)`` int64: where the row's valid steps are, then the others; ``None``: they
            come first as it is (right padding).
    """

    mask: Tensor
    lengths: Tensor
    order: Tensor | None

    def together(self, x: Tensor) -> Tensor:
        """``(B, T, n)`` with each row's valid steps first, in their order."""
        if self.order is None:
            return x
        return x[torch.arange(len(x)).unsqueeze(1), self.order]

    def spread(self, y: Tensor, backwards: bool, zero: bool) -> Tensor:
        """Outputs of steps that were together, at each step's own place.

        Args:
            y: ``(B, T, O)``, zero past a row's length.
            backwards: the loop went from the last step to the first.
            zero: a masked step's output is zero, not that of the valid step before it.

        Returns:
            ``(B, T, O)``, in order of time.
        """
        if self.order is None:
            if zero or backwards:  # backwards, padding comes before the first valid step
                return y
            return torch.where(self.mask.unsqueeze(-1), y, self.last(y, False).unsqueeze(1))
        before = self.mask.cumsum(1)
        # The place, among the valid ones, of the latest valid step that was processed.
        place = before - self.mask.long() if backwards else before - 1
        if zero:
            known = self.mask
        else:
            known = place < self.lengths.unsqueeze(1) if backwards else place >= 0
        rows = torch.arange(len(y)).unsqueeze(1)
        found = y[rows, place.clamp(0, y.shape[1] - 1)]
        return torch.where(known.unsqueeze(-1), found, 0.0)

    def last(self, y: Tensor, backwards: bool) -> Tensor:
        """``(B, O)``: the output of each row's valid step that was processed last; zero if none."""
        if backwards:
            return y[:, 0]  # zero for a row without any
        return y[torch.arange(len(y)), (self.lengths - 1).clamp(min=0)]

    def at_end(self, last: Tensor, backwards: bool, zero: bool) -> Tensor:
        """``last`` as the loop's last output: zero for a row without a valid step.

        ``zero``: also if the last step that was processed is a masked one.
        """
        known = self.mask[:, 0 if backwards else -1] if zero else self.lengths > 0
        return torch.where(known.unsqueeze(-1), last, 0.0)


def valid_steps(mask: Tensor | None, batch: int, steps: int) -> Valid | None:
    """What ``mask`` says; ``None``: all steps are valid.

    Args:
        mask: ``(B, T)`` or ``(B, T, 1)``, true (not zero) where a step is valid.
        batch: B.
        steps: T.

    Raises:
        InputError: a mask of another shape.
    """
    if mask is None:
        return None
    if mask.dim() == 3 and mask.shape[-1] == 1:
        mask = mask.squeeze(-1)
    if mask.shape != (batch, steps):
        raise InputError(
            f"mask must be (B, T) = ({batch}, {steps}) like the sequences, got {tuple(mask.shape)}"
        )
    mask = mask.detach().bool()
    if bool(mask.all()):
        return None
    lengths = mask.sum(1)
    if torch.equal(mask, torch.arange(steps) < lengths.unsqueeze(1)):
        return Valid(mask, lengths, None)
    return Valid(mask, lengths, torch.argsort(~mask, dim=1, stable=True))
