"""Drawing the next symbol of a sequence: temperature, top-k, top-p, and the loop around a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

#: Steps of a prompt that go through the model at once: its memory doesn't grow with the prompt.
_PROMPT_STEPS = 1024


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next symbol is drawn from a model's logits.

    First the logits are divided by the temperature, then all but the ``top_k`` most probable
    symbols go, then of what is left all but the nucleus: the fewest symbols, from the most probable
    down, whose probabilities add up to ``top_p`` or more.

    Args:
        temperature: 1 as the model says; below 1 bolder, above 1 more varied; 0: always the most
            probable symbol.
        top_k: symbols that stay, 1 or more; ``None``: all.
        top_p: probability that stays, above 0 to 1; ``None``: all.

    Raises:
        InputError: a value out of its range.

    Source: A. Holtzman, J. Buys, L. Du, M. Forbes and Y. Choi (2020), The curious case of neural
    text degeneration, ICLR (top-p); A. Fan, M. Lewis and Y. Dauphin (2018), Hierarchical neural
    story generation, ACL (top-k).

    >>> logits = torch.tensor([4.0, 3.0, 2.0]).log()
    >>> Sampling(top_p=0.7).probabilities(logits)
    tensor([0.5714, 0.4286, 0.0000], dtype=torch.float64)
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature: expected a number of 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k: expected 1 or more symbols to stay, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p: expected a number above 0 and up to 1, got {self.top_p}")

    def probabilities(self, logits: Tensor, forbidden: Sequence[int] = ()) -> Tensor:
        """Probabilities ``(V,)`` in float64 to draw from, for one step's ``logits`` ``(V,)``.

        Args:
            logits: of one step.
            forbidden: symbols that are never drawn.

        Raises:
            InputError: ``logits`` isn't ``(V,)``, has a NaN, or nothing is left to draw.
        """
        if logits.dim() != 1:
            raise InputError(f"logits: expected one step's, (V,), got {tuple(logits.shape)}")
        scores = logits.detach().double().clone()
        scores[list(forbidden)] = -math.inf
        if scores.isnan().any() or scores.max() == -math.inf:
            raise InputError(
                "the model's logits leave no symbol to draw: they are NaN, or all symbols are "
                "forbidden"
            )
        if self.temperature == 0:
            only = torch.zeros_like(scores)
            only[scores.argmax()] = 1.0
            return only
        # The largest is taken off first: a tiny temperature must not overflow.
        probabilities = torch.softmax((scores - scores.max()) / self.temperature, -1)
        # Stable, so that symbols of the same probability stay in the vocabulary's order.
        ranked, order = torch.sort(probabilities, descending=True, stable=True)
        if self.top_k is not None:
            ranked[self.top_k :] = 0.0
            ranked /= ranked.sum()
        if self.top_p is not None:
            # A symbol stays while those before it don't yet reach top_p; the first always does.
            before = torch.cumsum(ranked, -1) - ranked
            ranked[before >= self.top_p] = 0.0
            ranked /= ranked.sum()
        return torch.empty_like(ranked).scatter_(0, order, ranked)


def continue_sequence(
    model: nn.Module,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    seed: int = 0,
    forbidden: Sequence[int] = (),
) -> Iterator[int]:
    """Symbols that go on from ``prompt``, one after another and without end.

    Each symbol is one step of the model from the state of the last: time and memory a symbol don't
    grow with what has been said.

    Args:
        model: ``model(x, state)`` with ``x`` ``(T, 1)`` int64 gives ``(T, 1, V)`` logits and the
            next state. It is in evaluation mode while it runs, and afterwards as before.
        prompt: one symbol or more.
        sampling: how a symbol is drawn.
        seed: the same seed, model and prompt give the same symbols.
        forbidden: symbols that are never drawn.

    Raises:
        InputError: an empty prompt, or as :meth:`Sampling.probabilities`.
    """
    if not len(prompt):
        raise InputError("prompt: expected one symbol or more to go on from, got none")
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    try:
        state: Any = None
        steps = torch.tensor(prompt, dtype=torch.int64).unsqueeze(1)
        device = next(model.parameters()).device
        while True:
            with torch.inference_mode():
                for part in torch.split(steps.to(device), _PROMPT_STEPS):
                    logits, state = model(part, state)
                chances = sampling.probabilities(logits[-1, 0].cpu(), forbidden)
                drawn = torch.multinomial(chances, 1, generator=generator)
            yield int(drawn)
            steps = drawn.unsqueeze(1)
    finally:
        model.train(training)
