"""A pass over time as one operation, ``ostinato::recurrence``, that a graph can hold.

``torch.compile`` sees an operation with shapes, and another one for its gradients, and looks into
neither. The operation knows its cell by a number and looks the cell's trace up at each call, as an
uncompiled layer does, so it follows the cell's Python attributes. :mod:`ostinato.engine.record`
puts the operation into graphs.

Besides the output and the final state it gives what is kept for the gradients, with room for all T
steps of all rows (the size of a graph's tensors can't depend on ``lengths``), and the number of
the trace that ran, so that the gradients can't come from another.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Sequence  # noqa: TC003  # the operations' signatures are evaluated
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ostinato._native import backward, forward
from ostinato.compiler.plan import Needs
from ostinato.engine.code import compiled
from ostinato.engine.native import Course, make_course
from ostinato.engine.step import Step
from ostinato.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ostinato.compiler.ir import Program
    from ostinato.compiler.trace import Trace

_count = itertools.count(1)
_layers: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
_templates: dict[int, nn.Module] = {}
_traces: weakref.WeakValueDictionary[int, Trace] = weakref.WeakValueDictionary()


def register(layer: nn.Module) -> int:
    """A number for the cell that ``layer.cell`` is at each call; it doesn't keep the layer."""
    number = next(_count)
    _layers[number] = layer
    return number


def register_template(cell: nn.Module) -> int:
    """A number for a cell that lends its equations to many layers; it is kept for good."""
    number = next(_count)
    _templates[number] = cell
    return number


def cell_of(handle: int) -> nn.Module:
    """The cell behind a number.

    Raises:
        InputError: its layer is gone.
    """
    layer = _layers.get(handle)
    cell: Any = _templates.get(handle) if layer is None else layer.cell
    if cell is None:
        raise InputError("a compiled graph has outlived its layer; keep the layer alive")
    return cell  # type: ignore[no-any-return]


def prepare(
    trace: Trace, names: Sequence[str], leaves: Sequence[Tensor], wanted: Sequence[bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """The leaves of a call, and the sources that are made from them, as autograd's own.

    Args:
        trace: the cell's.
        names: of ``leaves``.
        leaves: the tensors that the graph hands over.
        wanted: which of them want a gradient.

    Raises:
        InputError: the cell needs a tensor that the graph doesn't hand over, or one has another
            shape or dtype than when the cell was traced.
    """
    given = dict(zip(names, zip(leaves, wanted, strict=True), strict=True))
    inputs = []
    with _autograd() if any(wanted) else contextlib.nullcontext():
        for name in trace.preparation.leaves:
            if name not in given:
                raise InputError(
                    f"the cell uses {name}, which it did not when it was compiled; call "
                    "torch.compiler.reset() after such a change"
                )
            leaf, wants = given[name]
            inputs.append(leaf.detach().requires_grad_(wants))
        return inputs, trace.sources.run(inputs)


@contextlib.contextmanager
def _autograd() -> Iterator[None]:
    """Autograd as it is outside: inside an operation the dispatcher passes over it."""
    keys = torch._C.DispatchKey
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradFunctionality, keys.AutogradOther, keys.AutogradCPU):
        excluded = excluded.remove(key)
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


def needs_of(program: Program, sources: Sequence[Tensor], wanted: Sequence[int]) -> Needs | None:
    """What the engine is asked for; ``wanted`` are positions in ``(x, *state, *leaves)``."""
    if not wanted:
        return None
    return Needs(0 in wanted, program.asked([s.requires_grad for s in sources]))


def _flags(wanted: Sequence[int], first: int, count: int) -> list[bool]:
    return [k in wanted for k in range(first, first + count)]


def _names(text: str) -> list[str]:
    return text.split(",") if text else []


def _rows(x: Tensor, batch: int, batch_sizes: Tensor | None) -> int:
    """Room for what is kept: rows of all steps."""
    return len(x) if batch_sizes is not None else x.shape[0] * batch


@torch.library.custom_op("ostinato::recurrence", mutates_args=(), device_types="cpu")
def recurrence_op(
    x: Tensor,
    state: Sequence[Tensor],
    leaves: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    batch_sizes: Tensor | None,
    handle: int,
    names: str,
    bare: bool,
    reverse: bool,
    bptt: int,
    batch_first: bool,
    wanted: Sequence[int],
    output_size: int,
    kept_width: int,
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Run a cell through time.

    Args:
        x: ``(T, B, I)``, or packed ``(N, I)`` with ``batch_sizes``.
        state: the initial state, ``(B, n_k)`` each.
        leaves: tensors of the cell.
        lengths: ``(B,)`` int64, or none.
        reset: ``(T, B)`` bool, or none.
        batch_sizes: ``(T,)`` int64, or none.
        handle: the cell's number.
        names: the leaves' dotted names, with commas between.
        bare: whether the cell takes its state as one tensor.
        reverse: from each row's last step to its first.
        bptt: steps between cuts of the gradient; 0: no cuts.
        batch_first: whether the output and the input's gradient lie in memory batch first.
        wanted: whose gradients will be asked for: positions in ``(x, *state, *leaves)``.
        output_size: O.
        kept_width: elements kept for each step of a row.

    Returns:
        The output, the final state, what is kept, the trace's number ``(1,)``.

    Raises:
        InputError: the cell's output or what it keeps has changed its width since the graph was
            made; what :func:`prepare` raises.
        TraceError: the cell can't be traced any more.
    """
    widths = tuple(s.shape[1] for s in state)
    step = Step(cell_of(handle), None, widths[0] if bare else widths)
    trace = step.trace(x.shape[-1], x.dtype)
    flags = _flags(wanted, 1 + len(state), len(leaves))
    _, sources = prepare(trace, _names(names), leaves, flags)
    code = compiled(trace.program, needs_of(trace.program, sources, wanted))
    if trace.program.output_size != output_size or code.kept_width != kept_width:
        raise InputError(
            "the cell computes something of another size than when it was compiled; call "
            "torch.compiler.reset() after such a change"
        )
    course = make_course(
        x, lengths=lengths, reset=reset, batch_sizes=batch_sizes, reverse=reverse,
        bptt=bptt or None, batch_first=batch_first,
    )  # fmt: skip
    room = _rows(x, state[0].shape[0], batch_sizes)
    y, kept, *final = forward(code, course, x, tuple(state), [s.detach() for s in sources], room)
    number = trace.program.made.setdefault("number", next(_count))
    _traces[number] = trace
    return y, final, x.new_empty(0) if kept is None else kept, torch.tensor([number])


@recurrence_op.register_fake
def _recurrence_shapes(
    x: Tensor, state: Sequence[Tensor], leaves: Sequence[Tensor], lengths: Tensor | None,
    reset: Tensor | None, batch_sizes: Tensor | None, handle: int, names: str, bare: bool,
    reverse: bool, bptt: int, batch_first: bool, wanted: Sequence[int], output_size: int,
    kept_width: int,
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:  # fmt: skip
    rows = _rows(x, state[0].shape[0], batch_sizes)
    kept = x.new_empty(rows * kept_width + 1 if kept_width else 0)
    final = [s.new_empty(s.shape) for s in state]
    number = torch.empty(1, dtype=torch.int64, device=x.device)
    return _like_input(x, output_size, batch_first), final, kept, number


def _like_input(x: Tensor, width: int, batch_first: bool) -> Tensor:
    if x.dim() == 3 and batch_first:
        return x.new_empty(x.shape[1], x.shape[0], width).transpose(0, 1)
    return x.new_empty(*x.shape[:-1], width)


@torch.library.custom_op("ostinato::recurrence_backward", mutates_args=(), device_types="cpu")
def recurrence_backward_op(
    dy: Tensor,
    dfinal: Sequence[Tensor],
    number: Tensor,
    kept: Tensor,
    y: Tensor,
    x: Tensor,
    state: Sequence[Tensor],
    leaves: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    batch_sizes: Tensor | None,
    names: str,
    reverse: bool,
    bptt: int,
    batch_first: bool,
    wanted: Sequence[int],
) -> list[Tensor]:
    """The gradients of :func:`recurrence_op` for ``wanted``, in that order.

    Raises:
        InputError: the cell has changed since the forward pass, and its trace is gone.
    """
    trace = _traces.get(int(number))
    if trace is None:
        raise InputError("the cell was changed between the forward and the backward pass")
    first = 1 + len(state)
    inputs, sources = prepare(trace, _names(names), leaves, _flags(wanted, first, len(leaves)))
    code = compiled(trace.program, needs_of(trace.program, sources, wanted))
    course = Course(lengths, reset, batch_sizes, reverse, bptt, batch_first)
    dx, *grads = backward(
        code, course, x, y, kept, tuple(state), [s.detach() for s in sources], dy, dfinal
    )
    if dx is None:
        dx = _like_input(x, x.shape[-1], batch_first).zero_()
    dstate, dsources = grads[: len(state)], grads[len(state) :]
    dleaves = dict(zip(trace.preparation.leaves, _through(sources, inputs, dsources), strict=True))
    grads = [*dstate, *(dleaves.get(name) for name in _names(names))]
    rest = [k - 1 for k in wanted if k > 0]
    like = (*state, *leaves)
    return [
        *([dx] if 0 in wanted else []),
        *_apart([grads[k] for k in rest], [like[k] for k in rest]),
    ]


def _through(
    sources: Sequence[Tensor], leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> Iterator[Tensor | None]:
    """The gradients of ``leaves`` from those of the sources that were made from them."""
    pairs = [
        (s, g) for s, g in zip(sources, gradients, strict=True) if s.requires_grad and g is not None
    ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(wanted)
    if pairs and wanted:
        with _autograd():
            found = torch.autograd.grad(
                [s for s, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True
            )
    remaining = iter(found)
    return (next(remaining) if leaf.requires_grad else None for leaf in leaves)


def _apart(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Contiguous, each in memory of its own, as a graph supposes; zeros for none."""
    result: list[Tensor] = []
    memory: set[int] = set()
    for grad, tensor in zip(grads, like, strict=True):
        if grad is None:
            apart = torch.zeros(tensor.shape, dtype=tensor.dtype)
        else:
            apart = grad.contiguous()
            if apart.untyped_storage().data_ptr() in memory:
                apart = apart.clone()
        memory.add(apart.untyped_storage().data_ptr())
        result.append(apart)
    return result


@recurrence_backward_op.register_fake
def _backward_shapes(
    dy: Tensor, dfinal: Sequence[Tensor], number: Tensor, kept: Tensor, y: Tensor, x: Tensor,
    state: Sequence[Tensor], leaves: Sequence[Tensor], lengths: Tensor | None,
    reset: Tensor | None, batch_sizes: Tensor | None, names: str, reverse: bool, bptt: int,
    batch_first: bool, wanted: Sequence[int],
) -> list[Tensor]:  # fmt: skip
    inputs = (x, *state, *leaves)
    return [
        inputs[k].new_empty(inputs[k].shape) if k else _like_input(x, x.shape[-1], batch_first)
        for k in wanted
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, state, leaves, lengths, reset, batch_sizes, _, names, _, reverse, bptt, *rest = inputs
    batch_first, wanted, *_ = rest
    y, final, kept, number = output
    ctx.save_for_backward(number, kept, y, x, lengths, reset, batch_sizes, *final, *state, *leaves)
    ctx.count = len(state)
    ctx.settings = names, reverse, bptt, batch_first, wanted
    ctx.mark_non_differentiable(kept, number)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, dy: Tensor | None, dfinal: Sequence[Tensor | None], *_: None
) -> tuple[Any, ...]:
    number, kept, y, x, lengths, reset, batch_sizes, *tensors = ctx.saved_tensors
    count = ctx.count
    final, state, leaves = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
    dy = torch.zeros_like(y) if dy is None else dy
    dfinal = [torch.zeros_like(s) if d is None else d for d, s in zip(dfinal, final, strict=True)]
    wanted = ctx.settings[-1]
    found = torch.ops.ostinato.recurrence_backward(
        dy, dfinal, number, kept, y, x, state, leaves, lengths, reset, batch_sizes, *ctx.settings
    )
    by_position = dict(zip(wanted, found, strict=True))
    grads = [by_position.get(k) for k in range(1 + count + len(leaves))]
    return grads[0], grads[1 : 1 + count], grads[1 + count :], *[None] * 12


recurrence_op.register_autograd(_backward, setup_context=_save)
