"""What surrounds a first call is no part of what the call leaves behind, and hooks are called."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import assert_close, plain_loop, random_input
from ostinato import InputError, Recurrent, SlowPathError, strict
from ostinato import nn as onn
from ostinato.engine import step as steps
from ostinato.engine.surroundings import GLOBAL_HOOKS, by_itself
from ostinato.engine.template import template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

I, H = 3, 4  # noqa: E741


@pytest.fixture(autouse=True)
def nothing_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """First calls are first calls, whatever ran before."""
    template.cache_clear()
    monkeypatch.setattr(steps, "_shared", OrderedDict())


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state_size = H
        self.W, self.U = nn.Linear(I, H), nn.Linear(H, H)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.W(x) + self.U(h))


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return 2 * result if func is torch.tanh else result


class DoublingBelow(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return 2 * result if func is torch.ops.aten.tanh.default else result


def _doubled(module: nn.Module, arguments: Any, output: Any) -> Any:
    return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


def _called(module: nn.Module, *_: Any) -> None:
    """A hook of any kind."""


@contextmanager
def _hooked(register: Any, hook: Any) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "hook that changes": lambda: _hooked(modules.register_module_forward_hook, _doubled),
    "backward hook": lambda: _hooked(modules.register_module_full_backward_hook, _called),
    "function mode": Doubling,
    "dispatch mode": DoublingBelow,
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_first_call_of_a_drop_in(kind: str, name: str) -> None:
    """The modes apart, which see other operations of torch's layer, it is torch's inside too."""
    ours, torchs = getattr(onn, kind)(I, H), getattr(nn, kind)(I, H)
    torchs.load_state_dict(ours.state_dict())
    x = random_input(5, 2, I).float()
    with SURROUNDINGS[name]():
        inside = ours(x)[0], torchs(x)[0]
    if "hook" in name:
        assert_close(*inside)
    for layer in (ours, ours.__class__(I, H)):
        torchs.load_state_dict(layer.state_dict())
        assert_close(layer(x)[0], torchs(x)[0])


@pytest.mark.parametrize("name", [n for n in SURROUNDINGS if n != "default device"])
def test_first_call_of_a_cell(name: str) -> None:
    x = random_input(5, 2, I).float()
    layer, twin = Recurrent(Cell()), Recurrent(Cell())
    with SURROUNDINGS[name]():
        layer(x)
    for one in (layer, twin):
        assert_close(one(x)[0], plain_loop(one.cell, x, torch.zeros(2, H))[0])
        assert one.explain(I).engine == "native"


def test_a_mode_sees_nothing_of_a_trace() -> None:
    seen: list[Any] = []

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seeing():
        Recurrent(Cell(), engine="native")(random_input(5, 2, I).float())
        assert torch.ops.aten.tanh.default not in seen
        torch.tanh(torch.zeros(1))
    assert torch.ops.aten.tanh.default in seen


KINDS = {
    "forward": modules.register_module_forward_hook,
    "before forward": modules.register_module_forward_pre_hook,
    "backward": modules.register_module_full_backward_hook,
    "before backward": modules.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("is_used", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_that_each_module_calls(kind: str, is_used: bool) -> None:
    """They are called at each step, the layer says so, and afterwards it is native again."""
    layer, x = Recurrent(Cell()), random_input(5, 2, I).float().requires_grad_()
    state = torch.zeros(2, H, requires_grad=True)
    if is_used:
        layer(x)
    seen: list[nn.Module] = []

    def see(module: nn.Module, *_: Any) -> None:
        seen.append(module)

    with _hooked(KINDS[kind], see):
        layer(x, state)[0].sum().backward()
        assert seen.count(layer.cell.U) == len(x)
        report = layer.explain(I)
        assert report.engine == "eager"
        assert "a hook that each module calls" in report.reason
        with pytest.raises(InputError, match='engine="native": a hook that each module calls'):
            Recurrent(layer.cell, engine="native")(x)
        with strict(), pytest.raises(SlowPathError, match="a hook that each module calls"):
            layer(x)
    seen.clear()
    layer(x)[0].sum().backward()
    assert not seen
    assert layer.explain(I).engine == "native"


def test_hooks_of_a_drop_in_are_its_own() -> None:
    """As torch's layers, which have no module inside, and at native speed."""
    layer, seen = onn.GRU(I, H), []
    x = random_input(5, 2, I).float()
    for _ in range(2):
        with (
            _hooked(modules.register_module_forward_hook, lambda m, *_: seen.append(m)),
            strict(),
        ):
            layer(x)
    assert seen == [layer, layer]
    assert layer.explain().parts[0][1].engine == "native"


def test_hooks_while_a_graph_is_built() -> None:
    """A drop-in is in the graph as ever; a cell runs outside of it."""
    x = random_input(5, 2, I).float()
    drop_in, layer, seen = onn.GRU(I, H), Recurrent(Cell()), []
    hooked = _hooked(modules.register_module_forward_hook, lambda m, *_: seen.append(m))
    with hooked, torch.no_grad():
        compiled = torch.compile(lambda x: drop_in(x)[0], fullgraph=True, backend="eager")
        assert_close(compiled(x), drop_in(x)[0])
        seen.clear()
        assert_close(torch.compile(lambda x: layer(x)[0], backend="eager")(x), layer(x)[0])
        assert seen.count(layer.cell.U) == 2 * len(x)


def test_hooks_outlive_whoever_leaves_last() -> None:
    """Two threads' first calls may overlap: what one has put away the other doesn't put back."""
    with _hooked(modules.register_module_forward_hook, _called):
        one, other = by_itself(), by_itself()
        one.__enter__()
        other.__enter__()
        assert not modules._global_forward_hooks
        one.__exit__(None, None, None)
        other.__exit__(None, None, None)
        assert [len(hooks) for hooks in GLOBAL_HOOKS] == [0, 1, 0, 0]
        assert modules._global_forward_hooks is GLOBAL_HOOKS[1]
    assert not any(GLOBAL_HOOKS)
