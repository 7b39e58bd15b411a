"""What the drop-ins for ``torch.nn.RNN``, ``LSTM`` and ``GRU`` have in common.

A drop-in has torch's base class, ``torch.nn.RNNBase``: parameters, ``state_dict``, initialisation
and everything else are inherited, ``forward`` alone is another. There each (layer, direction) is
one :class:`~ostinato.engine.step.Step`: the cell's equations bound to this layer's own tensors.

Whatever is out of the ordinary (a wrong shape, an empty batch, another device or dtype) goes to
torch's own ``forward``, so that it raises what torch raises and accepts what torch accepts.

Torch's final classes are not inherited from, since Dynamo breaks the graph at each instance of
``torch.nn.RNN``, ``LSTM`` or ``GRU``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from textwrap import indent
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ostinato import _native
from ostinato.engine import explain, recurrence
from ostinato.engine.choose import check_engine, other_derivatives
from ostinato.engine.native import DTYPES, ONWARDS
from ostinato.engine.ragged import lengths_tensor
from ostinato.engine.step import Recorded, Step, TemplateStep
from ostinato.engine.template import template
from ostinato.errors import InputError
from ostinato.nn.packed import with_data
from ostinato.strictness import strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ostinato.cells.base import Cell
    from ostinato.compiler.trace import Trace
    from ostinato.engine.parts import Part

#: How many steps each row of a batch has: ``(B,)`` integers, ``None`` for all T.
Lengths = Tensor | Sequence[int] | None


class _LayerStep(TemplateStep):
    """A step bound to a layer's tensors: its trace depends on nothing else and is looked up once.

    So it doesn't matter to the trace what the layer's tensors hold (NaN, say) or have hooked on.
    """

    __slots__ = ("_sources", "_trace")

    def __init__(self, cell: Cell, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(cell, tensors)
        self._trace: Trace | None = None
        self._sources: list[Tensor] | None = None

    def trace(self, input_size: int, dtype: torch.dtype) -> Trace:
        if self._trace is None:
            self._trace = Step(self.cell, None, self.state_size).trace(input_size, dtype)
        return self._trace

    def sources(self, trace: Trace) -> list[Tensor]:
        if trace.sources.instructions:
            return super().sources(trace)
        if self._sources is None:
            self._sources = super().sources(trace)  # the layer's tensors themselves
        return self._sources


class _Bound:
    """The steps of a module, valid as long as its tensors are the same objects.

    It is a cache: a copied or unpickled module starts with none.
    """

    __slots__ = ("dtype", "parts", "shortcut", "sound", "sources", "steps", "tensors")

    def __init__(self, tensors: list[Tensor], steps: tuple[Step, ...], sound: bool) -> None:
        self.tensors = tensors
        self.steps = steps
        self.dtype = tensors[0].dtype
        self.sound = sound  # all tensors have one dtype and one device
        self.shortcut: _native.Shortcut | None = None
        self.parts: list[Part] = []
        self.sources: list[Tensor] = []

    def holds(self, tensors: Iterable[Tensor | None]) -> bool:
        return all(map(is_, tensors, self.tensors)) and self.tensors[0].dtype is self.dtype

    def shorten(self, module: DropIn) -> None:
        """From now on take calls in which nothing is out of the ordinary without a look at more.

        That is for one step on the native engine: no second layer, no second direction.
        """
        (step,) = self.steps
        trace = step.trace(module.input_size, self.dtype)
        if trace.sources.instructions:
            return  # its sources are computed anew for each call
        self.sources = step.sources(trace)
        own = module._parameters
        self.parts = [(module.__dict__, "_parameters", own)]
        self.parts += [(own, name, own.get(name)) for name in module._flat_weights_names]
        widths = module._state_widths()
        self.shortcut = _native.Shortcut(
            trace.program, ONWARDS, self.tensors, module.input_size, widths,
            self.dtype is torch.float64, leading=True, bare=len(widths) == 1,
        )  # fmt: skip

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_nothing, ())


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class DropInReport:
    """What :meth:`DropIn.explain` says: ``parts`` are (which layer, its report)."""

    summary: str
    parts: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        texts = (f"{name}\n{indent(str(report), '  ')}" for name, report in self.parts)
        return "\n".join((self.summary, *texts))


class DropIn(nn.RNNBase):
    """Constructor and ``forward`` of the drop-ins.

    Args:
        mode: torch's name of the kind.
        args: torch's arguments.
        engine: ``"auto"``, ``"native"`` or ``"eager"``.
        kwargs: torch's arguments.
    """

    #: Class attributes, so that a module that :func:`ostinato.accelerate` took over has them.
    engine: str = "auto"
    _bound: _Bound | None = None
    #: torch's class of this kind, whose functions judge and run what is out of the ordinary.
    _torch: type[nn.RNNBase]

    def __init__(self, mode: str, *args: Any, engine: str = "auto", **kwargs: Any) -> None:
        check_engine(engine)
        if mode != "LSTM" and "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        nn.RNNBase.__init__(self, mode, *args, **kwargs)
        self.engine = engine

    def _equations(self) -> tuple[Callable[..., Cell], dict[str, Any]]:
        """The cell of each layer and its options."""
        raise TypeError(f"{type(self).__name__} is not a layer, use ostinato.nn.RNN, LSTM or GRU")

    def _input_sizes(self) -> list[int]:
        """Input width of each layer and direction."""
        directions = 2 if self.bidirectional else 1
        deep = directions * self._state_widths()[0]
        return [self.input_size if k < directions else deep for k in range(len(self._all_weights))]

    def _torch_forward(self, input: Any, hx: Any) -> Any:
        return self._torch.forward(self, input, hx)

    def _state_widths(self) -> tuple[int, ...]:
        """Widths of the states: ``(H,)``, for an LSTM ``(P or H, H)``."""
        return (self.hidden_size,)

    def forward(self, input: Any, hx: Any = None, *, lengths: Lengths = None) -> Any:
        """Run the layers over a sequence; the class has the shapes.

        Raises what torch raises, on the same conditions, and :class:`ostinato.InputError` for
        unfit ``lengths``.
        """
        compiling = torch.compiler.is_compiling()
        bound = None if compiling else self._bound
        if bound is not None and bound.shortcut is not None and self.engine != "eager":
            found = bound.shortcut.take(
                self, bound.parts, bound.tensors, bound.sources, input, hx, self.batch_first,
                lengths,
            )  # fmt: skip
            if found is not None:
                return found
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        if not isinstance(x, Tensor) or torch._C._get_tracing_state() is not None:
            return self._torch_forward(input, hx)
        dim = x.dim()
        if lengths is not None and (packed or dim == 2):
            self._refuse_lengths(packed)
        bound = self._bind()
        dtype = bound.dtype
        given = hx
        if torch._C._is_any_autocast_enabled() and x.is_floating_point():
            # Under autocast the recurrence keeps to the parameters' own dtype.
            x, given = x.to(dtype), _cast(hx, dtype)

        unbatched = dim == 2 and not packed
        if unbatched:
            x = x.unsqueeze(1)
        elif dim == 3 and self.batch_first:
            x = x.transpose(0, 1)
        shape = x.shape
        batch_sizes = input.batch_sizes if packed else None
        rank = 2 if packed else 3
        if batch_sizes is not None:
            batch = int(batch_sizes[0])
        else:
            batch = shape[1] if len(shape) == rank else 0
        if (
            len(shape) != rank
            or 0 in shape[: rank - 1]
            or shape[-1] != self.input_size
            or x.dtype is not dtype
            or x.layout is not torch.strided
            or not bound.sound
            or x.device != bound.tensors[0].device
            or not (given is None or self._fits(given, x, batch, unbatched))
        ):
            return self._torch_forward(input, hx)  # torch judges: an error of its own, or a result
        if lengths is not None:
            lengths = lengths_tensor(lengths, shape[0], batch)
        other = None if compiling else other_derivatives()
        native = self.engine != "eager" and x.is_cpu and dtype in DTYPES and other is None
        if lengths is None and self.engine == "auto" and not native:
            if x.is_cpu:
                where = other or dtype
                strict.check(f"{type(self).__name__} in {where} keeps torch's kernels on the CPU")
            return self._torch_forward(input, hx)
        steps: Sequence[Step | Recorded] = bound.steps
        if compiling:
            recorded = self._recorded(bound)
            if isinstance(recorded, str):
                from ostinato.engine.record import outside

                return outside(recorded, self.forward, input, hx, lengths=lengths)
            steps = recorded
        order = input.sorted_indices if packed else None
        states = self._entering(given, x, batch, unbatched, order)
        output, finals = self._run(steps, x, states, lengths, batch_sizes)

        if packed and input.unsorted_indices is not None:
            finals = [s.index_select(1, input.unsorted_indices) for s in finals]
        elif unbatched:
            output = output.squeeze(1)
            finals = [s.squeeze(1) for s in finals]
        elif self.batch_first and not packed:
            output = output.transpose(0, 1)
        if native and bound is self._bound and bound.shortcut is None and len(bound.steps) == 1:
            bound.shorten(self)
        result = with_data(input, output) if packed else output
        return result, tuple(finals) if len(finals) > 1 else finals[0]

    def _run(
        self,
        steps: Sequence[Step | Recorded],
        x: Tensor,
        states: list[tuple[Tensor, ...]],
        lengths: Tensor | None,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers and directions: ``(T, B, I)`` or packed ``(N, I)`` to output and states.

        States leave as ``(L * D, B, n)`` each, in torch's order: layer by layer, forward first.
        """
        directions = 2 if self.bidirectional else 1
        finals = []
        for layer in range(self.num_layers):
            if layer > 0 and self.training and self.dropout > 0.0:
                # Contiguous as torch's own is there, so that the same seed drops the same elements.
                x = F.dropout(x.contiguous(), self.dropout, True)
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                output, final = recurrence(
                    steps[k],
                    x,
                    states[k],
                    lengths=lengths,
                    batch_sizes=batch_sizes,
                    reverse=direction == 1,
                    engine=self.engine,
                )
                outputs.append(output)
                finals.append(final)
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if len(finals) == 1:
            return x, list(finals[0])
        return x, [torch.stack(column) for column in zip(*finals, strict=True)]

    def _bind(self) -> _Bound:
        """The steps with the tensors as they are now: parametrised ones are computed here, once."""
        own = self._parameters
        names = self._flat_weights_names
        compiling = torch.compiler.is_compiling()
        bound = None if compiling else self._bound
        if bound is not None and bound.holds(map(own.get, names)):
            return bound
        tensors = [t if (t := own.get(name)) is not None else getattr(self, name) for name in names]
        dtype, device = tensors[0].dtype, tensors[0].device
        sound = all(t.dtype is dtype and t.device == device for t in tensors)
        if compiling:
            return _Bound(tensors, (), sound)
        named = dict(zip(names, tensors, strict=True))
        cell_type, options = self._equations()
        steps = []
        for width, own_names in zip(self._input_sizes(), self._all_weights, strict=True):
            cell = template(cell_type, width, self.hidden_size, dtype=dtype, **options)
            shapes = {name: p.shape for name, p in cell.named_parameters()}
            mine = {_plain(name): named[name] for name in own_names}
            for name, own_name in zip(mine, own_names, strict=True):
                if mine[name].shape != shapes[name]:
                    raise RuntimeError(
                        f"{type(self).__name__}: expected {own_name} of {tuple(shapes[name])}, "
                        f"got {tuple(mine[name].shape)}"
                    )
            steps.append(_LayerStep(cell, mine))
        bound = _Bound(tensors, tuple(steps), sound)
        if all(isinstance(t, nn.Parameter) for t in tensors):
            # Only parameters are worth remembering: computed tensors differ from call to call and
            # would keep their graph alive.
            self.__dict__["_bound"] = bound
        return bound

    def _recorded(self, bound: _Bound) -> list[Step | Recorded] | str:
        """While a graph is built: what stands for the steps, or text: why nothing can."""
        from ostinato.engine.record import recorded, template_handle

        cell_type, options = self._equations()
        own = dict(zip(self._flat_weights_names, bound.tensors, strict=True))
        steps: list[Step | Recorded] = []
        for width, names in zip(self._input_sizes(), self._all_weights, strict=True):
            mine = {_plain(name): own[name] for name in names}
            handle = template_handle(
                cell_type, width, self.hidden_size, dtype=bound.dtype, options=options
            )
            step = recorded(handle, None, width, bound.tensors[0], self.engine, mine.__getitem__)
            if isinstance(step, str):
                return step
            steps.append(step)
        return steps

    def _fits(self, hx: Any, x: Tensor, batch: int, unbatched: bool) -> bool:
        """Whether the given initial state is what a well-formed call brings."""
        widths = self._state_widths()
        if len(widths) == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != len(widths):
            return False
        rows = len(self._all_weights)
        for s, width in zip(hx, widths, strict=True):
            shape = (rows, width) if unbatched else (rows, batch, width)
            if not isinstance(s, Tensor) or s.shape != shape:
                return False
            if s.dtype is not x.dtype or s.device != x.device or s.layout is not x.layout:
                return False
        return True

    def _entering(
        self, hx: Any, x: Tensor, batch: int, unbatched: bool, order: Tensor | None
    ) -> list[tuple[Tensor, ...]]:
        """The initial state of each step, rows in the order that the engine sees.

        Of a single step as it is given, ``(1, B, n)``: a view is half of what autograd costs.
        """
        widths = self._state_widths()
        rows = len(self._all_weights)
        if hx is None:
            # Engines don't write into a state, so all may be the same zeros.
            leading = (1, batch) if rows == 1 else (batch,)
            zero = x.new_zeros(*leading, widths[0])
            if len(widths) == 1:
                return [(zero,)] * rows
            second = zero if widths[1] == widths[0] else x.new_zeros(*leading, widths[1])
            return [(zero, second)] * rows
        states = (hx,) if len(widths) == 1 else tuple(hx)
        if unbatched:
            states = tuple(s.unsqueeze(1) for s in states)
        if order is not None:
            states = tuple(s.index_select(1, order) for s in states)
        return [states] if rows == 1 else list(zip(*(s.unbind(0) for s in states), strict=True))

    def _refuse_lengths(self, packed: bool) -> NoReturn:
        what = "a PackedSequence, which has its own" if packed else "unbatched (2-D) input"
        raise InputError(
            f"{type(self).__name__}: lengths came with {what}. Pass lengths with a batch "
            "(3-D) only."
        )

    def explain(self) -> DropInReport:
        """How each layer and direction runs: what is hoisted, which engine, and why.

        Returns:
            A report; ``print`` it to read it.
        """
        bound = self._bind()
        name, device = type(self).__name__, bound.tensors[0].device
        if self.engine == "auto" and not (device.type == "cpu" and bound.dtype in DTYPES):
            kernels = "cuDNN, through torch.nn" if device.type == "cuda" else "torch.nn's kernels"
            why = f"the parameters are {bound.dtype} on {device}"
            return DropInReport(
                f"{name}: {kernels}, all layers in one call ({why}); with lengths, each layer and "
                "direction runs on the engine that fits",
                (),
            )
        directions = 2 if self.bidirectional else 1
        parts = []
        for k, (step, width) in enumerate(zip(bound.steps, self._input_sizes(), strict=True)):
            layer, direction = divmod(k, directions)
            report = explain(
                step,
                width,
                dtype=bound.dtype,
                device=device,
                engine=self.engine,
                reverse=direction == 1,
            )
            parts.append((f"layer {layer}, {('forward', 'backward')[direction]}", report))
        return DropInReport(f"{name}: {len(parts)} passes over time", tuple(parts))

    def __prepare_scriptable__(self) -> NoReturn:  # torch.jit.script asks each module for this
        name = self._torch.__name__
        raise RuntimeError(
            f"torch.jit.script can't compile ostinato.nn.{name}. Script torch.nn.{name} instead: "
            "ostinato.restore(model) gives it back after ostinato.accelerate(model); else build "
            "one and load this module's state_dict into it."
        )

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        state.pop("_bound", None)
        return state


def _cast(hx: Any, dtype: torch.dtype) -> Any:
    if isinstance(hx, Tensor):
        return hx.to(dtype)
    if isinstance(hx, (tuple, list)):
        return tuple(_cast(s, dtype) for s in hx)
    return hx


def _plain(name: str) -> str:
    """``weight_ih_l0_reverse`` -> ``weight_ih``: the name that the cell knows."""
    return name[: name.index("_l")]
