"""Put ostinato's drop-ins into a model that is already built, in place, and take them out again.

A drop-in differs from torch's module in its class alone, so replacing one means changing the
``__class__`` of the very same object: parameters (shared, frozen, parametrised), buffers, hooks,
the training flag, references from elsewhere and the optimiser's state all stay what they are. The
new class is ours and torch's at once, so that ``isinstance(module, torch.nn.LSTM)`` stays true
too; the price is that ``torch.compile`` breaks the graph there, as at torch's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ostinato.engine.choose import check_engine
from ostinato.errors import InputError
from ostinato.nn.drop_in import DropIn
from ostinato.nn.rnn import GRU, LSTM, RNN

if TYPE_CHECKING:
    from collections.abc import Iterator


class AcceleratedRNN(RNN, nn.RNN):
    """What :func:`accelerate` makes of a ``torch.nn.RNN``."""


class AcceleratedLSTM(LSTM, nn.LSTM):
    """What :func:`accelerate` makes of a ``torch.nn.LSTM``."""


class AcceleratedGRU(GRU, nn.GRU):
    """What :func:`accelerate` makes of a ``torch.nn.GRU``."""


#: torch's class -> what takes its place.
DROP_INS: dict[type[nn.Module], type[DropIn]] = {
    nn.RNN: AcceleratedRNN,
    nn.LSTM: AcceleratedLSTM,
    nn.GRU: AcceleratedGRU,
}
_ORIGINALS: dict[type[nn.Module], type[nn.Module]] = {ours: its for its, ours in DROP_INS.items()}


@dataclass(frozen=True)
class Entry:
    """What happened to one module: ``paths`` are all the names it is reachable by."""

    paths: tuple[str, ...]
    kind: str
    replaced: bool
    reason: str

    def __str__(self) -> str:
        names = ", ".join(path or "(the model itself)" for path in self.paths)
        return (
            f"{names}: {self.kind} {'replaced' if self.replaced else 'left alone'}, {self.reason}"
        )


@dataclass(frozen=True)
class Report:
    """One :class:`Entry` for each recurrent module of the model; iterable, readable as text."""

    entries: tuple[Entry, ...]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def replaced(self) -> tuple[Entry, ...]:
        """Entries of the modules that changed their class."""
        return tuple(entry for entry in self.entries if entry.replaced)

    @property
    def left_alone(self) -> tuple[Entry, ...]:
        """Entries of the others."""
        return tuple(entry for entry in self.entries if not entry.replaced)

    def __str__(self) -> str:
        if not self.entries:
            return "no recurrent module found"
        head = f"{len(self.replaced)} of {len(self)} recurrent modules replaced"
        return "\n".join([head, *(f"  {entry}" for entry in self.entries)])


def accelerate(model: nn.Module, *, engine: str = "auto") -> Report:
    """Replace each ``torch.nn.RNN``, ``LSTM`` and ``GRU`` in ``model`` by its drop-in, in place.

    The model may be one of them itself. Only these exact classes are replaced (also with
    parametrisations on them); a subclass may compute something else, so it is left alone and the
    report says so. Calling it twice changes nothing more.

    Args:
        model: any module, on any device.
        engine: as in :class:`ostinato.nn.LSTM`.

    Returns:
        What was replaced, what not, and why.

    Raises:
        InputError: ``model`` is not a module, or ``engine`` is none of ours.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 8))
    >>> print(accelerate(model))
    1 of 1 recurrent modules replaced
      1: LSTM replaced, runs on engine="auto"
    """
    check_engine(engine)
    entries = []
    for module, paths in _recurrent_modules(model):
        base = _declared_class(module)
        reason = _why_not(module, base)
        if reason is None:
            _change_base(module, DROP_INS[base])
            module.__dict__["engine"] = engine
        replaced = reason is None
        entries.append(
            Entry(paths, base.__name__, replaced, reason or f'runs on engine="{engine}"')
        )
    return Report(tuple(entries))


def restore(model: nn.Module) -> Report:
    """Undo :func:`accelerate`: the modules that it replaced are torch's again, in place.

    Drop-ins that were built as such (``ostinato.nn.LSTM(...)``) are left alone.

    >>> model = nn.GRU(4, 8)
    >>> _ = accelerate(model)
    >>> print(restore(model))
    1 of 1 recurrent modules replaced
      (the model itself): GRU replaced, torch's again
    """
    entries = []
    for module, paths in _recurrent_modules(model):
        base = _declared_class(module)
        original = _ORIGINALS.get(base)
        if original is None:
            reason = "accelerate() did not put it there"
        else:
            for name in ("engine", "_bound"):
                module.__dict__.pop(name, None)
            _change_base(module, original)
            base, reason = original, "torch's again"
        entries.append(Entry(paths, base.__name__, original is not None, reason))
    return Report(tuple(entries))


def _recurrent_modules(model: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Each recurrent module once, with every path to it, in the model's order."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            found.setdefault(id(module), (module, []))[1].append(path)
    return [(module, tuple(paths)) for module, paths in found.values()]


def _declared_class(module: nn.Module) -> type[nn.Module]:
    """The module's class; for a parametrised one the class beneath that PyTorch put on top."""
    cls = type(module)
    return cls.__bases__[0] if is_parametrized(module) else cls


def _why_not(module: nn.Module, base: type[nn.Module]) -> str | None:
    if issubclass(base, DropIn):
        return "it is ostinato's already"
    if base not in DROP_INS:
        if isinstance(module, nn.RNNCellBase):
            return "it is one step: ostinato.Recurrent(cell) runs it through time"
        parent = next((c.__name__ for c in base.__mro__ if c in DROP_INS), "RNNBase")
        return f"it is a subclass of torch.nn.{parent} and may compute something else"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    return None


def _change_base(module: nn.Module, new: type[nn.Module]) -> None:
    """Make ``module`` an instance of ``new``, under its parametrisations if it has any.

    PyTorch gives a parametrised module a class of its own that holds one property per
    parametrised tensor; copies of the module share that class, so a twin is made, not a change.
    """
    cls = type(module)
    if is_parametrized(module):
        body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        new = type(f"Parametrized{new.__name__}", (new,), body)
    module.__class__ = new
