"""What all tests share: the comparator, the tolerance table, the cells and how to run them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ostinato.cells import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Largest error allowed, relative to the larger of 1 and the largest element that is expected:
#: by dtype, for values (outputs, states) and for gradients (sums over steps and rows).
TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"value": 1e-12, "gradient": 1e-11},
    torch.float32: {"value": 2e-6, "gradient": 1e-5},
    torch.float16: {"value": 4e-3, "gradient": 2e-2},
    torch.bfloat16: {"value": 3e-2, "gradient": 1e-1},
}


def assert_close(
    got: Any, want: Any, *, kind: str = "value", what: str = "", times: float = 1.0
) -> None:
    """The one comparator: same structure, shape and dtype, no NaN, error within the table.

    ``kind``: a column of the table. ``times``: factor on the tolerance, for sums that are longer
    than the table is made for; give the reason where it is used. Infinities must be equal.
    """
    if isinstance(want, (tuple, list)):
        assert isinstance(got, (tuple, list)), f"{what}: expected a tuple, got {type(got).__name__}"
        assert len(got) == len(want), f"{what}: expected {len(want)} items, got {len(got)}"
        for k, (g, w) in enumerate(zip(got, want, strict=True)):
            assert_close(g, w, kind=kind, what=f"{what}[{k}]", times=times)
        return
    if want is None:
        assert got is None, f"{what}: expected None, got {type(got).__name__}"
        return
    assert isinstance(got, Tensor), f"{what}: expected a tensor, got {type(got).__name__}"
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, not {want.dtype}"
    got, want = got.detach().to("cpu"), want.detach().to("cpu")
    if not want.is_floating_point():
        assert torch.equal(got, want), f"{what}: {got} is not {want}"
        return
    tolerance = TOLERANCE[want.dtype][kind] * times
    got, want = got.double(), want.double()
    if not (got.isfinite().all() and want.isfinite().all()):
        assert not want.isnan().any(), f"{what}: NaN in what is expected"
        assert not got.isnan().any(), f"{what}: NaN in {int(got.isnan().sum())} of {got.numel()}"
        infinite = want.isinf()
        assert torch.equal(got.isinf(), infinite), f"{what}: infinities in other places"
        assert torch.equal(got[infinite], want[infinite]), f"{what}: infinities of other signs"
        got, want = got[~infinite], want[~infinite]
    if want.numel():
        scale = max(1.0, float(want.abs().max()))
        error = float((got - want).abs().max()) / scale
        assert error <= tolerance, f"{what}: error {error:.3g} > {tolerance:.3g}, scale {scale:.3g}"


@dataclass(frozen=True)
class CellCase:
    """One variant of a registered cell."""

    name: str
    make: Callable[..., nn.Module]  # (input_size, hidden_size, **keywords)

    def __str__(self) -> str:
        return self.name


def cell_cases() -> list[CellCase]:
    """Every variant of every registered cell."""
    return [
        CellCase(_label(entry.name, variant), _maker(entry.cls, variant))
        for entry in registry.CELLS.values()
        for variant in entry.variants
    ]


def _label(name: str, variant: Mapping[str, Any]) -> str:
    return "-".join([name, *(str(v) for v in variant.values())])


def _maker(cls: type[nn.Module], variant: Mapping[str, Any]) -> Callable[..., nn.Module]:
    def make(input_size: int, hidden_size: int, **keywords: Any) -> nn.Module:
        return cls(input_size, hidden_size, **variant, **keywords)

    return make


#: For ``pytest.mark.parametrize("case", CELL_CASES, ids=str)``.
CELL_CASES = cell_cases()


def generator(seed: int) -> torch.Generator:
    """A generator of its own, so that no test depends on another's draws."""
    return torch.Generator().manual_seed(seed)


def randomise(module: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Distinct random parameters, large enough that the dynamics don't contract to nothing.

    Weights that act on the state get a spectral norm of about 1 per gate (a fixed point would hide
    errors in what is carried), vectors are spread around 0, gains around 1.
    """
    draw = generator(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            if parameter.dim() > 1:
                noise = noise * (0.7 * scale / parameter.shape[-1] ** 0.5)
            elif "gain" in name:
                noise = 1 + 0.3 * noise
            elif name.endswith("weight_hh"):  # an elementwise recurrence
                noise = 0.8 + 0.2 * noise
            else:
                noise = 0.4 * scale * noise
            parameter.copy_(noise)
    return module


def random_input(
    steps: int, batch: int, width: int, *, seed: int = 1, dtype: torch.dtype = torch.float64
) -> Tensor:
    """``(T, B, I)``, standard normal."""
    return torch.randn(steps, batch, width, generator=generator(seed), dtype=torch.float64).to(
        dtype
    )


def random_state(cell: nn.Module, batch: int, *, seed: int = 2, dtype: torch.dtype) -> Any:
    """An initial state of ``cell``, bare or a tuple as the cell wants it."""
    size = cell.state_size
    draw = generator(seed)
    parts = tuple(
        (0.5 * torch.randn(batch, n, generator=draw, dtype=torch.float64)).to(dtype)
        for n in ((size,) if isinstance(size, int) else size)
    )
    return parts[0] if isinstance(size, int) else parts


@dataclass
class Run:
    """Everything that a call gives: compare all of it with :func:`assert_same_run`."""

    output: Tensor
    state: tuple[Tensor, ...]
    dx: Tensor | None
    dstate: tuple[Tensor | None, ...]
    dparameters: dict[str, Tensor | None]


def run_and_differentiate(
    call: Callable[[Tensor, Any], tuple[Tensor, Any]],
    x: Tensor,
    state: Any,
    parameters: Mapping[str, Tensor],
    *,
    seed: int = 3,
) -> Run:
    """Call ``call(x, state)`` and go back with random cotangents on output and final state."""
    x = x.detach().clone().requires_grad_()
    bare = isinstance(state, Tensor)
    entering = tuple(
        s.detach().clone().requires_grad_() for s in ((state,) if bare else tuple(state))
    )
    output, final = call(x, entering[0] if bare else entering)
    finals = (final,) if isinstance(final, Tensor) else tuple(final)
    draw = generator(seed)
    loss = sum(
        (torch.randn(t.shape, generator=draw, dtype=torch.float64).to(t) * t).sum()
        for t in (output, *finals)
    )
    wanted = [x, *entering, *parameters.values()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    count = 1 + len(entering)
    return Run(
        output.detach(),
        tuple(f.detach() for f in finals),
        grads[0],
        grads[1:count],
        dict(zip(parameters, grads[count:], strict=True)),
    )


def assert_same_run(got: Run, want: Run, *, times: float = 1.0) -> None:
    """Output, final state, dx, d(initial state) and every parameter's gradient.

    A gradient that is ``None`` on one side must be ``None`` or zero on the other.
    """
    assert_close(got.output, want.output, what="output", times=times)
    assert_close(got.state, want.state, what="final state", times=times)
    assert got.dparameters.keys() == want.dparameters.keys()
    pairs = itertools.chain(
        [("dx", got.dx, want.dx)],
        (
            (f"dstate[{k}]", g, w)
            for k, (g, w) in enumerate(zip(got.dstate, want.dstate, strict=True))
        ),
        ((f"d{name}", got.dparameters[name], want.dparameters[name]) for name in want.dparameters),
    )
    for name, g, w in pairs:
        if g is None or w is None:
            rest = w if g is None else g
            assert rest is None or not rest.any(), f"{name}: one side has no gradient"
        else:
            assert_close(g, w, kind="gradient", what=name, times=times)


def plain_loop(
    cell: nn.Module,
    x: Tensor,
    state: Any,
    *,
    lengths: list[int] | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
    bptt: int | None = None,
) -> tuple[Tensor, Any]:
    """The oracle of time: one row after another, one step after another, in the plainest way.

    ``cell`` follows either convention; the output past a row's length is zero.
    """
    steps, batch = x.shape[:2]
    bare = isinstance(state, Tensor)
    rows, finals = [], []
    for b in range(batch):
        length = steps if lengths is None else lengths[b]
        s = state[b : b + 1] if bare else tuple(part[b : b + 1] for part in state)
        order = range(length - 1, -1, -1) if reverse else range(length)
        outputs: dict[int, Tensor] = {}
        for u, t in enumerate(order):
            if bptt is not None and u > 0 and (length - u) % bptt == 0:
                s = s.detach() if bare else tuple(part.detach() for part in s)
            if reset is not None and bool(reset[t, b]):
                s = torch.zeros_like(s) if bare else tuple(torch.zeros_like(part) for part in s)
            result = cell(x[t, b : b + 1], s)
            if bare:
                outputs[t], s = (result, result) if isinstance(result, Tensor) else result
            elif isinstance(result[1], Tensor):
                outputs[t], s = result[0], tuple(result)
            else:
                outputs[t], s = result[0], tuple(result[1])
        width = outputs[0].shape[1] if outputs else (s if bare else s[0]).shape[1]
        zero = x.new_zeros(1, width)
        rows.append(torch.cat([outputs.get(t, zero) for t in range(steps)]))
        finals.append((s,) if bare else s)
    output = torch.stack(rows, 1)
    final = tuple(torch.cat(parts) for parts in zip(*finals, strict=True))
    return output, final[0] if bare else final


class Marked(Tensor):
    """A class of its own, which may have its own functions."""


def call_in_autocast(layer: Callable[[Tensor], Any], x: Tensor) -> None:
    """Call a layer under bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
