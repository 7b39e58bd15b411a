"""What a cell computes with besides its own parameters: seen anew at each call, or refused."""

from __future__ import annotations

import array
import gc
import weakref
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from helpers import assert_close, plain_loop, random_input
from ostinato import Bidirectional, Recurrent, TraceError, cells
from ostinato.engine.structure import structure_of

if TYPE_CHECKING:
    from collections.abc import Callable

I, H = 3, 4  # noqa: E741

SCALE = 1.0
SHIFT = torch.zeros(H)
TABLE = {"scale": 1.0}
MAP = nn.Linear(I, H)


def _scaled(h: Tensor) -> Tensor:
    return h * SCALE


class Reader(nn.Module):
    """A step that is modified by what ``read`` makes of the cell."""

    state_size = H
    scale = torch.ones(H)

    def __init__(self, read: Callable[[Any], Any], held: Any = None) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(I, H), nn.Linear(H, H)
        self.read, self.held = read, held

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.read(self) * self.W(x) + self.U(h))


class Global(Reader):
    """Global variables that ``forward`` and what it calls read."""

    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self._inner(torch.tanh(self.W(x) + self.U(h)))

    @torch.enable_grad()  # type: ignore[untyped-decorator]
    def _inner(self, h: Tensor) -> Tensor:
        return TABLE["scale"] * _scaled(h) + SHIFT


@dataclass(slots=True, weakref_slot=True)
class Config:
    scale: float = 1.0


def _first(cell: Any) -> float:
    return float(cell.held[0])


def _last(cell: Any) -> float:
    return float(cell.held[-1])


def _slot(cell: Any) -> float:
    return float(cell.held.scale)


def _of_class(cell: Any) -> Tensor:
    return cell.scale


def _global(cell: Any) -> float:
    return SCALE


def _x() -> Tensor:
    return random_input(5, 2, I, dtype=torch.float32)


def _check(layer: Recurrent) -> None:
    """Twice, the second time by the shortcut if there is one."""
    want = plain_loop(layer.cell, _x(), torch.zeros(2, H))
    for _ in range(2):
        assert_close(layer(_x()), want)


def _set_item(held: Any) -> None:
    held[0] = 3.0


#: How a cell reads something, what it holds for that, and a change that the next call must see.
READ: dict[str, tuple[Any, Any, Callable[[Any, pytest.MonkeyPatch], Any]]] = {
    "list": (_first, lambda: [1.0], lambda c, _: _set_item(c.held)),
    "NumPy's array": (_first, lambda: np.ones(1), lambda c, _: _set_item(c.held)),
    "NumPy's every other": (_first, lambda: np.ones(4)[::2], lambda c, _: _set_item(c.held)),
    "array": (_first, lambda: array.array("d", [1.0]), lambda c, _: _set_item(c.held)),
    "bytearray": (_first, lambda: bytearray(b"1"), lambda c, _: c.held.__setitem__(0, 3)),
    "deque": (_last, lambda: deque([1.0]), lambda c, _: c.held.append(3.0)),
    "slots": (_slot, Config, lambda c, _: setattr(c.held, "scale", 3.0)),
    "global": (_global, lambda: None, lambda _, patch: patch.setitem(globals(), "SCALE", 3.0)),
    "class": (
        _of_class,
        lambda: None,
        lambda _, patch: patch.setattr(Reader, "scale", torch.full((H,), 3.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_read_may_change(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, make, change = READ[name]
    layer = Recurrent(Reader(read, make()), engine="native")
    _check(layer)
    change(layer.cell, monkeypatch)
    _check(layer)
    _check(Recurrent(Reader(read, layer.cell.held), engine="native"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("SCALE", 3.0), ("SHIFT", torch.ones(H)), ("TABLE", {"scale": 2.0})],
    ids=["number", "tensor", "table"],
)
def test_global_variables_may_change(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Recurrent(Global(), engine="native")
    _check(layer)
    monkeypatch.setitem(globals(), name, value)
    _check(layer)
    _check(Recurrent(Global(), engine="native"))


def test_a_table_may_change_in_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Recurrent(Global(), engine="native")
    _check(layer)
    monkeypatch.setitem(TABLE, "scale", 0.5)
    _check(layer)


class Borrower(nn.Module):
    """Computes with a module that is another's."""

    state_size = H

    def __init__(self, held: Any, find: Callable[[Any], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.U = nn.Linear(H, H)
        self.held, self.find = held, find

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.find(self.held)(x) + self.U(h))


def _itself(held: Any) -> Any:
    return held


def _item(held: Any) -> Any:
    return held[0]


HOLD: dict[str, tuple[Callable[[nn.Linear], Any], Any]] = {
    "list": (lambda m: [m], _item),
    "tuple": (lambda m: (m,), _item),
    "dict": (lambda m: {0: m}, _item),
    "method": (lambda m: m.forward, _itself),
    "closure": (lambda m: lambda x: m(x), _itself),
}


@pytest.mark.parametrize("way", HOLD)
def test_modules_that_are_not_the_cells_own(way: str) -> None:
    hold, find = HOLD[way]
    for _ in range(2):  # cells that look alike
        lent = nn.Linear(I, H)
        layer = Recurrent(Borrower(hold(lent), find), engine="native")
        _check(layer)
        layer(_x())[0].sum().backward()
        assert lent.weight.grad is not None
    with torch.no_grad():
        lent.weight.mul_(2)
    _check(layer)
    lent.weight = nn.Parameter(torch.ones(H, I))
    _check(layer)
    lent.weight.requires_grad_(False)
    lent.bias.requires_grad_(False)
    _check(layer)
    lent.weight.requires_grad_(True)
    lent.weight.grad = None
    layer(_x())[0].sum().backward()
    assert lent.weight.grad is not None
    layer.cell.held = hold(nn.Linear(I, H))
    _check(layer)


def test_a_module_of_the_class_or_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharing(Borrower):
        squash = nn.Tanh()

        def __init__(self) -> None:
            super().__init__(None, _itself)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return self.squash(MAP(x) + self.U(h))

    for _ in range(2):
        layer = Recurrent(Sharing(), engine="native")
        _check(layer)
        assert layer._shortcut is not None
    for change in (
        lambda: monkeypatch.setitem(globals(), "MAP", nn.Linear(I, H)),
        lambda: setattr(MAP, "weight", nn.Parameter(torch.ones(H, I))),
        lambda: monkeypatch.setattr(Sharing, "squash", nn.Sigmoid()),
    ):
        change()
        _check(layer)
        _check(Recurrent(Sharing(), engine="native"))


def test_a_copy_borrows_from_a_copy() -> None:
    both = Bidirectional(Recurrent(Borrower([nn.Linear(I, H)], _item)))
    lent = both.backward_layer.cell.held[0]
    nn.init.normal_(lent.weight)
    want, _ = plain_loop(both.backward_layer.cell, _x(), torch.zeros(2, H), reverse=True)
    assert_close(both(_x())[0][..., H:], want)


def test_a_list_of_own_modules_is_shared() -> None:
    class Own(Borrower):
        def __init__(self) -> None:
            super().__init__([nn.Linear(I, H)], _item)
            self.W = self.held[0]

    first, second = Recurrent(Own(), engine="native"), Recurrent(Own(), engine="native")
    _check(first)
    _check(second)
    assert not structure_of(first.cell).private


# ---- what can't be followed


def _from_list(self: Any, x: Tensor, h: Tensor) -> Tensor:
    return -h if max(map(max, x.tolist())) > 6 else h + x.sum(-1, keepdim=True)


def _from_numpy(self: Any, x: Tensor, h: Tensor) -> Tensor:
    return -h if x.detach().numpy().max() > 6 else h + x.sum(-1, keepdim=True)


def _from_asarray(self: Any, x: Tensor, h: Tensor) -> Tensor:
    return -h if np.asarray(h.detach()).max() > 6 else h + x.sum(-1, keepdim=True)


def _parameter_list(self: Any, x: Tensor, h: Tensor) -> Tensor:
    return h * self.gain.tolist()[0]


def _parameter_numpy(self: Any, x: Tensor, h: Tensor) -> Tensor:
    return h * float(self.gain.detach().numpy()[0])


def _sets_state(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.last = h.detach()
    return h + 1


def _sets_buffer(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.mean = 0.9 * self.mean + h.detach().mean()
    return h + 1


def _counts(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.calls += 1
    return h + 1


def _collects(self: Any, x: Tensor, h: Tensor) -> Tensor:
    self.last = {"h": (h,)}
    return h + 1


REFUSED = {
    _from_list: "tolist.* makes a Python value of what depends on the data",
    _from_numpy: "numpy.* makes a Python value of what depends on the data",
    _from_asarray: "__array__.* makes a Python value of what depends on the data",
    _parameter_list: "tolist.* turns a parameter or buffer into a Python value",
    _parameter_numpy: "numpy.* turns a parameter or buffer into a Python value",
    _sets_state: "sets its last in a step",
    _sets_buffer: "sets its mean in a step",
    _counts: "sets its calls in a step",
    _collects: "sets its last in a step",
}


def _refused(forward: Callable[..., Tensor]) -> nn.Module:
    class Cell(nn.Module):
        state_size = H

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([1.0, 2.0]))
            self.register_buffer("mean", torch.zeros(()))
            self.last, self.calls = None, 0

    Cell.forward = forward  # type: ignore[method-assign]
    return Cell()


@pytest.mark.parametrize("forward", REFUSED, ids=lambda f: f.__name__)
def test_what_is_refused(forward: Callable[..., Tensor]) -> None:
    cell = _refused(forward)
    with pytest.raises(TraceError, match=REFUSED[forward]):
        Recurrent(cell, engine="native")(_x())
    assert cell.last is None
    assert cell.calls == 0
    layer = Recurrent(cell)
    assert layer(_x())[0].shape == (5, 2, H)
    assert layer.explain(I).engine == "eager"


def test_constants_may_be_python_values() -> None:
    def forward(self: Any, x: Tensor, h: Tensor) -> Tensor:
        self.calls = 0  # what it was
        return h + torch.full((3,), 2.0).tolist()[0] + x.sum(-1, keepdim=True)

    cell = _refused(forward)
    assert_close(Recurrent(cell, engine="native")(_x()), plain_loop(cell, _x(), torch.zeros(2, H)))


def test_what_is_set_from_parameters_alone_is_set_anew() -> None:
    layer = Recurrent(Reader(_global), engine="native")
    prune.l1_unstructured(layer.cell.W, "weight", 0.5)
    _check(layer)
    with torch.no_grad():
        layer.cell.W.weight_orig.mul_(2)
    _check(layer)


@pytest.mark.parametrize(
    "register",
    [nn.Module.register_full_backward_hook, nn.Module.register_full_backward_pre_hook],
    ids=lambda f: f.__name__,
)
def test_backward_hooks_are_called(register: Callable[..., Any]) -> None:
    """Before the first call and after it, and no other cell is the worse for it."""

    def slope(layer: Recurrent) -> Tensor:
        x = _x().requires_grad_()
        (found,) = torch.autograd.grad(layer(x)[0].sum(), x)
        return found

    for is_used in (True, False):
        layer = Recurrent(Reader(_global))
        if is_used:
            layer(_x())
        plain = slope(layer)
        handle = register(layer.cell.U, lambda _module, grads, *_: tuple(g * 0.1 for g in grads))
        hooked = slope(layer)
        assert not torch.allclose(hooked, plain)
        assert_close(hooked, slope(Recurrent(layer.cell, engine="eager")))
        with pytest.raises(TraceError, match="its U has a backward hook"):
            Recurrent(layer.cell, engine="native")(_x())
        handle.remove()
        assert_close(slope(layer), plain)
        assert layer.explain(I).engine == "native"


# ---- first calls


class Lazy(nn.Module):
    state_size = H

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.LazyLinear(H), nn.LazyLinear(H)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.W(x) + self.U(h))


def test_lazy_modules_learn_their_sizes() -> None:
    layer = Recurrent(Lazy(), engine="native")
    y, _ = layer(_x())
    assert layer.cell.W.weight.shape == (H, I)
    assert_close(y, plain_loop(layer.cell, _x(), torch.zeros(2, H))[0])


def test_one_cells_refusal_is_not_anothers() -> None:
    class Own(Global):
        """Traced nowhere else."""

    with torch.inference_mode():
        odd = Own()
        Recurrent(odd)(_x())
        with pytest.raises(TraceError, match="inference mode"):
            Recurrent(odd, engine="native")(_x())
    _check(Recurrent(Own(), engine="native"))


def test_a_trace_keeps_no_weights() -> None:
    layer = Recurrent(cells.GRU(I, H))
    layer(_x())
    weight = weakref.ref(layer.cell.weight_hh)
    del layer
    gc.collect()
    assert weight() is None


# ---- other derivatives


# PyTorch's, at the first jvp() of a process
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_tangent_goes_through() -> None:
    x, t = _x(), torch.ones_like(_x())
    for layer in (Recurrent(Reader(_global)), Recurrent(Reader(_global))):
        layer.requires_grad_(False)
        loop = partial(plain_loop, layer.cell, state=torch.zeros(2, H))
        want = torch.func.jvp(lambda x, f=loop: f(x)[0], (x,), (t,))
        for _ in range(2):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, t)
                got = torch.autograd.forward_ad.unpack_dual(layer(dual)[0])
                assert_close((got.primal, got.tangent), want)
            assert_close(torch.func.jvp(lambda x, f=layer: f(x)[0], (x,), (t,)), want)
            _check(layer)  # which makes a shortcut for the second time


def test_transforms_at_the_first_call_and_later() -> None:
    layer = Recurrent(Reader(_global))
    want = torch.autograd.grad(layer(given := _x().requires_grad_())[0].sum(), given)[0]
    for used in (Recurrent(Reader(_global)), layer):
        used.load_state_dict(layer.state_dict())
        assert_close(torch.func.grad(lambda x, f=used: f(x)[0].sum())(_x()), want)
        rows = torch.func.vmap(lambda x, f=used: f(x)[0])(_x().unsqueeze(0))
        assert_close(rows[0], layer(_x())[0])
    with pytest.raises(ValueError, match=r"a transform of torch\.func"):
        torch.func.grad(lambda x: Recurrent(layer.cell, engine="native")(x)[0].sum())(_x())
