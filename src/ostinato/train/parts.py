"""What is trained on: batches, the loss of one, and several tasks dealt round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ostinato.errors import InputError
from ostinato.truncated import detach_state


@runtime_checkable
class Batches(Protocol):
    """Batches by epochs, each epoch a pure function of its number."""

    def __len__(self) -> int:
        """Batches in an epoch, the same number in each."""
        ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of epoch ``number`` (from 0), beginning with batch ``start``."""
        ...


@dataclass
class Outcome:
    """The loss of one batch.

    Attributes:
        loss: scalar tensor, the mean over this process's terms.
        terms: how many terms that is.
        all_terms: terms in the global batch; the same as ``terms`` in one process.
        steps: valid time steps of this process's rows.
        carry: recurrent state for the next batch: nested tuples of tensors, or ``None``. It is
            detached and stored in checkpoints by ``fit``, and ``None`` at an epoch's first batch.
    """

    loss: Tensor
    terms: int
    all_terms: int
    steps: int
    carry: Any = None


#: ``objective(model, batch, carry) -> Outcome``. It calls the model as ``model(...)``: with several
#: processes the model is wrapped, and its methods and attributes are not there.
Objective = Callable[[nn.Module, Any, Any], Outcome]


@dataclass
class Part:
    """One of several tasks that a model is trained on.

    Attributes:
        batches: its batches.
        objective: its loss.
        weight: how often its turn comes, relative to the others' weights; above 0.
    """

    batches: Batches
    objective: Objective
    weight: float = 1.0


def parts_of(
    data: Batches | Part | Mapping[str, Part], objective: Objective | None
) -> dict[str, Part]:
    """``data`` as parts by name; a single one has the name ``""``.

    Raises:
        InputError: no batches, a missing or needless objective, a weight that isn't above 0.
    """
    if isinstance(data, Mapping):
        parts = dict(data)
        if not all(isinstance(part, Part) for part in parts.values()):
            raise InputError("data as a mapping holds Part(batches, objective, weight) by name")
    elif isinstance(data, Part):
        parts = {"": data}
    elif objective is None:
        raise InputError("batches need an objective: fit(model, batches, objective, ...)")
    else:
        return _checked({"": Part(data, objective)})
    if objective is not None:
        raise InputError("a Part has its own objective; leave out fit's")
    return _checked(parts)


def _checked(parts: dict[str, Part]) -> dict[str, Part]:
    if not parts:
        raise InputError("data has no parts")
    for name, part in parts.items():
        where = f"part {name!r}: " if name else ""
        if not isinstance(part.batches, Batches):
            raise InputError(
                f"{where}batches need __len__ and epoch(number, start), "
                f"got a {type(part.batches).__name__}"
            )
        if len(part.batches) < 1:
            raise InputError(f"{where}there are no batches: the training data is empty")
        if not part.weight > 0:
            raise InputError(f"{where}weight must be above 0, got {part.weight!r}")
    return parts


@dataclass
class Place:
    """Where a part stands in its data.

    Attributes:
        turns: batches dealt so far.
        carry: state for the next batch.
    """

    turns: int = 0
    carry: Any = None


@dataclass
class Dealer:
    """Deals batches round, by weight, from each part's own sequence of epochs.

    The next batch comes from the part for which ``(turns + 1/2) / weight`` is least, the first of
    equals (the method of Webster, which keeps every prefix near the weights' proportions). A round,
    which is fit's epoch, has as many batches as all parts' epochs together.
    """

    parts: Mapping[str, Part]
    places: dict[str, Place] = field(init=False)
    _open: dict[str, Iterator[Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.places = {name: Place() for name in self.parts}

    def __len__(self) -> int:
        return sum(len(part.batches) for part in self.parts.values())

    def deal(self) -> tuple[str, Any, Any]:
        """The next batch: its part's name, the batch, the state that enters it."""
        name = min(self.parts, key=lambda n: (self.places[n].turns + 0.5) / self.parts[n].weight)
        place, batches = self.places[name], self.parts[name].batches
        number, start = divmod(place.turns, len(batches))
        if name not in self._open or start == 0:
            self._open[name] = batches.epoch(number, start)
        if start == 0:
            place.carry = None
        try:
            batch = next(self._open[name])
        except StopIteration:
            raise InputError(
                f"epoch({number}, ...) of {type(batches).__name__} ended after {start} batches, "
                f"len() says {len(batches)}"
            ) from None
        return name, batch, place.carry

    def done(self, name: str, carry: Any) -> None:
        """The batch that :meth:`deal` gave has been trained on."""
        place = self.places[name]
        place.turns += 1
        place.carry = detach_state(carry)

    def state(self) -> dict[str, tuple[int, Any]]:
        """For a checkpoint."""
        return {name: (place.turns, place.carry) for name, place in self.places.items()}

    def load(self, state: Mapping[str, tuple[int, Any]], like: Tensor | None) -> None:
        """From a checkpoint; the states go where ``like``, a parameter of the model, is."""
        self._open.clear()
        for name, (turns, carry) in state.items():
            self.places[name] = Place(turns, _moved(carry, like))


def _moved(carry: Any, like: Tensor | None) -> Any:
    if isinstance(carry, tuple):
        return tuple(_moved(part, like) for part in carry)
    return carry if carry is None or like is None else carry.to(like.device)
