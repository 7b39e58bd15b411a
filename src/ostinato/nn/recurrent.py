"""The layer that runs any cell through time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ostinato import _native
from ostinato.engine import Report, check_engine, recurrence, register
from ostinato.engine import explain as explain_step
from ostinato.engine.native import DTYPES, make_course
from ostinato.engine.parts import Part, lasting_parts
from ostinato.engine.ragged import check_bptt, lengths_tensor, reset_mask
from ostinato.engine.state import StateSize, describe, find_state_size
from ostinato.engine.step import Recorded, Step, traced_input_size
from ostinato.engine.surroundings import GLOBAL_HOOKS
from ostinato.errors import InputError, TraceError
from ostinato.nn.packed import with_data

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: A state as users see it: a tensor for a cell with one bare tensor, else a tuple of tensors.
UserState = Tensor | tuple[Tensor, ...]

#: What of a layer says how it runs; batch_first is looked at in each call.
_OPTIONS = ("reverse", "bptt", "engine", "state_size")


class _Shortcut(NamedTuple):
    """What takes calls in which nothing is out of the ordinary; a call hands over the rest."""

    native: _native.Shortcut
    parts: list[Part]
    tensors: list[Tensor]
    sources: list[Tensor] | Callable[[], list[Tensor]]


class Recurrent(nn.Module):
    r"""Runs a cell, written as one step, through time.

    .. math:: y_t, s_t = \mathrm{cell}(x_t, s_{t-1}), \qquad t = 1 \ldots T

    Args:
        cell: any module with ``cell(x, state) -> (output, state)``, or following
            ``torch.nn.RNNCell``'s or ``torch.nn.LSTMCell``'s convention; ``x`` is ``(B, I)``, each
            state tensor ``(B, n_k)``. Its parameters are this layer's, as ``cell.*``.
        batch_first: ``x``, ``reset`` and the output have the batch as their first axis.
        reverse: process each row from its last valid step to its first; the output of a step
            stands at that step's place.
        bptt: truncated BPTT: the gradient is cut every so many steps, counted back from each row's
            own last step in processing order. The state that enters the row's step number ``u`` of
            ``L`` is detached if ``u > 0`` and ``(L - u) % bptt == 0``; a loss on the last output
            reaches exactly its last ``bptt`` steps. ``None``: through all steps. For windows over
            a long stream see :func:`ostinato.windows`.
        engine: ``"auto"``: the fastest that can run the cell; ``"native"``: an error if the native
            engine can't; ``"eager"``: the loop in Python.
        state_size: for a cell that has no ``state_size``: an int if its state is one bare tensor, a
            tuple of ints if it is a tuple of tensors. ``None``: ``cell.hidden_size`` is the width,
            and one call of the cell on zeros shows whether its state is one tensor or a pair.

    Call: ``layer(x, state=None, *, lengths=None, reset=None) -> (output, state)``, see
    :meth:`forward`.

    Autocast: under ``torch.autocast`` the layer takes ``x`` and ``state`` of any floating dtype,
    casts them to the parameters' dtype, computes in it and returns it. A recurrence adds up the
    rounding of all its steps, so it isn't left to lower precision behind your back; convert the
    layer itself for that (``layer.bfloat16()``).

    Raises:
        InputError: ``cell`` is no module, or a bad ``engine``, ``bptt`` or ``state_size``.

    Example:
        >>> import torch
        >>> from ostinato import Recurrent, cells
        >>> layer = Recurrent(cells.PeepholeLSTM(3, 5))
        >>> y, (h, c) = layer(torch.randn(7, 2, 3), lengths=torch.tensor([7, 4]))
        >>> tuple(y.shape), tuple(c.shape)
        ((7, 2, 5), (2, 5))
        >>> bool((y[4:, 1] == 0).all()), bool((y[3, 1] == h[1]).all())
        (True, True)
    """

    def __init__(
        self,
        cell: nn.Module,
        *,
        batch_first: bool = False,
        reverse: bool = False,
        bptt: int | None = None,
        engine: str = "auto",
        state_size: StateSize | None = None,
    ) -> None:
        super().__init__()
        given: Any = cell
        if not isinstance(given, nn.Module):
            hint = "; pass an instance, not the class" if isinstance(given, type) else ""
            raise InputError(f"cell must be a torch.nn.Module, got {given!r}{hint}")
        check_engine(engine)
        check_bptt(bptt)
        self.cell = cell
        self.batch_first = bool(batch_first)
        self.reverse = bool(reverse)
        self.bptt = bptt
        self.engine = engine
        self.state_size = state_size
        if state_size is not None or hasattr(cell, "state_size"):
            find_state_size(cell, state_size)  # a contradiction is told here, not at the first call
        self._handle = register(self)
        self._shortcut: _Shortcut | None = None
        self._missed = 0  # ordinary calls since one was taken

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shortcut": None, "_missed": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._handle = register(self)  # a copy is another layer

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: UserState | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, UserState]:
        """Run the cell over ``x``.

        Args:
            x: ``(T, B, I)``, ``(B, T, I)`` if ``batch_first``, ``(T, I)`` for one row without a
                batch axis, or a ``PackedSequence``. Of the cell's parameters' dtype and device.
            state: what enters the first step; each tensor ``(B, n_k)``, or ``(n_k,)`` without a
                batch axis. One tensor for a cell whose state is a bare tensor, else a tuple.
                For a ``PackedSequence`` in the batch's original order, as in ``torch.nn``.
                ``None``: zeros.
            lengths: ``(B,)`` integers in 0..T: the valid steps of each row. ``None``: all T.
                What ``x`` holds past them is never looked at.
            reset: bool ``(T, B)``, ``(B, T)`` if ``batch_first``, ``(T,)`` without a batch axis:
                where true, the row's state is set to zero before that step is processed.

        Returns:
            The output, laid out as ``x`` is with O features, zero past a row's length; and the
            state after each row's own last step (in reverse: its first), which for a row of length
            0 is the one that entered.

        Raises:
            InputError: an argument has the wrong shape, dtype, device, structure or values; the
                cell doesn't say what its state is, or changes it from step to step.
            TraceError: with ``engine="native"``, the cell can't be traced.
            SlowPathError: in strict mode, the call would take a slow path.
        """
        short = None if torch.compiler.is_compiling() else self._shortcut
        if short is not None:
            found: tuple[Tensor, UserState] | None = short.native.take(
                self, short.parts, short.tensors, short.sources, x, state, self.batch_first,
                lengths, reset,
            )  # fmt: skip
            if found is not None:
                return found
        data = x.data if isinstance(x, PackedSequence) else x
        if not isinstance(data, Tensor):
            raise InputError(f"x must be a tensor or a PackedSequence, got {type(x).__name__}")
        if data.dim() not in ((2,) if isinstance(x, PackedSequence) else (2, 3)):
            raise InputError(f"x must be {self._layout()}, got {tuple(data.shape)}")
        _check_dense(data, "x")
        data = self._in_own_dtype(data, "x")
        self._check_width(data)
        step = self._step(data)
        if isinstance(step, str):
            from ostinato.engine.record import outside

            result: tuple[Tensor | PackedSequence, UserState] = outside(
                step, self.forward, x, state, lengths=lengths, reset=reset
            )
            return result
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise InputError("lengths came with a PackedSequence, which has its own; drop them")
            return self._run_packed(step, x, data, state, reset)
        if data.dim() == 2:
            if lengths is not None:
                raise InputError(
                    "lengths came with x without a batch axis; cut x to its length instead"
                )
            if reset is not None and (
                not isinstance(reset, Tensor) or reset.shape != data.shape[:1]
            ):
                got = tuple(reset.shape) if isinstance(reset, Tensor) else type(reset).__name__
                raise InputError(f"reset must be (T,) = ({len(data)},) like x, got {got}")
            entering = self._entering(step, state, data, None)
            mask = None if reset is None else reset_mask(reset.unsqueeze(1), len(data), 1)
            output, final = self._run(step, data.unsqueeze(1), entering, reset=mask)
            return output.squeeze(1), self._leaving(step, tuple(s.squeeze(0) for s in final))
        if self.batch_first:
            data = data.transpose(0, 1)
        steps, batch = data.shape[:2]
        output, final = self._run(
            step,
            data,
            self._entering(step, state, data, batch),
            lengths=None if lengths is None else lengths_tensor(lengths, steps, batch),
            reset=None
            if reset is None
            else reset_mask(reset, steps, batch, batch_first=self.batch_first),
        )
        if isinstance(step, Step):
            self._shorten(step, data)
        if self.batch_first:
            output = output.transpose(0, 1)
        return output, self._leaving(step, final)

    def _shorten(self, step: Step, x: Tensor) -> None:
        """From now on take calls like this one, on ``x``, without a look at more than changes."""
        if self.engine == "eager" or not x.is_cpu or x.dtype not in DTYPES or any(GLOBAL_HOOKS):
            return
        inside, short = self.__dict__, self._shortcut
        if short is not None and not short.native.stale:
            return  # it was this call's arguments
        missed = 1 if short is not None and short.native.taken else self._missed + 1
        inside["_missed"] = missed
        if missed & (missed - 1):
            return  # at the 1st, 2nd, 4th, 8th...: a cell may change each time
        self._shortcut = None
        found = lasting_parts(step.cell)
        try:
            trace = step.trace(x.shape[-1], x.dtype)
        except TraceError:
            return
        if found is None or trace.baked:
            return
        modules = self._modules
        own: list[Part] = [(inside, name, inside.get(name)) for name in _OPTIONS]
        own += [(inside, "_modules", modules), (modules, "cell", step.cell)]
        own += [(hooks, ()) for hooks in GLOBAL_HOOKS]
        parts, tensors = found
        course = make_course(
            x, lengths=None, reset=None, batch_sizes=None, reverse=self.reverse, bptt=self.bptt
        )
        native = _native.Shortcut(
            trace.program, course, tensors, x.shape[-1], step.state_sizes,
            x.dtype is torch.float64, leading=False, bare=step.bare,
        )  # fmt: skip
        prepare = partial(trace.sources.run, step.leaf_tensors(trace))
        sources = prepare if trace.sources.instructions else prepare()
        self._shortcut = _Shortcut(native, own + parts, tensors, sources)

    def _step(self, x: Tensor) -> Step | Recorded | str:
        """What runs; while a graph is built, what stands for it, or text: why nothing can."""
        if torch.compiler.is_compiling():
            from ostinato.engine.record import recorded

            return recorded(
                self._handle, self.state_size, x.shape[-1], x, self.engine, self._tensor
            )
        cell = self._cell
        return Step(cell, None, find_state_size(cell, self.state_size, x=x))

    def _tensor(self, path: str) -> Tensor:
        found: Any = self.cell
        for name in path.split("."):
            found = getattr(found, name)
        return found  # type: ignore[no-any-return]

    def _run_packed(
        self,
        step: Step | Recorded,
        x: PackedSequence,
        data: Tensor,
        state: UserState | None,
        reset: Tensor | None,
    ) -> tuple[PackedSequence, UserState]:
        batch = int(x.batch_sizes[0])
        entering = self._entering(step, state, data, batch)
        if reset is not None:
            reset = reset_mask(reset, len(x.batch_sizes), batch, batch_first=self.batch_first)
        if x.sorted_indices is not None:
            entering = tuple(s.index_select(0, x.sorted_indices) for s in entering)
            if reset is not None:
                reset = reset.index_select(1, x.sorted_indices.to(reset.device))
        output, final = self._run(step, data, entering, reset=reset, batch_sizes=x.batch_sizes)
        if x.unsorted_indices is not None:
            final = tuple(s.index_select(0, x.unsorted_indices) for s in final)
        packed = with_data(x, output)
        return packed, self._leaving(step, final)

    def _run(
        self, step: Step | Recorded, x: Tensor, state: tuple[Tensor, ...], **ragged: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return recurrence(
            step, x, state, reverse=self.reverse, bptt=self.bptt, engine=self.engine, **ragged
        )

    @property
    def _cell(self) -> nn.Module:
        """``self.cell``, in a sixth of the time, which counts where a call takes 25 us."""
        return self._modules["cell"]  # type: ignore[return-value]

    def _own(self) -> Tensor | None:
        """A tensor whose dtype and device are the cell's: its first floating parameter."""
        cell = self._cell
        for p in cell._parameters.values():  # most often; parameters() takes a while to get going
            if p is not None and p.is_floating_point():
                return p
        return next((p for p in cell.parameters() if p.is_floating_point()), None)

    def _in_own_dtype(self, tensor: Tensor, name: str) -> Tensor:
        own = self._own()
        if own is None:
            return tensor
        if tensor.dtype != own.dtype:
            if tensor.is_floating_point() and torch.is_autocast_enabled(tensor.device.type):
                tensor = tensor.to(own.dtype)
            else:
                raise InputError(
                    f"{name} must have the dtype of the cell's parameters, {own.dtype}, "
                    f"got {tensor.dtype}; convert one of them ({name}.to(...) or layer.to(...))"
                )
        if tensor.device != own.device:
            raise InputError(
                f"{name} must be where the cell's parameters are, {own.device}, "
                f"got {tensor.device}; move one of them with .to(...)"
            )
        return tensor

    def _check_width(self, x: Tensor) -> None:
        width = getattr(self._cell, "input_size", None)
        if isinstance(width, int) and x.shape[-1] != width:
            raise InputError(
                f"x must be {self._layout()} with I = {width} = {type(self.cell).__name__}."
                f"input_size, got {tuple(x.shape)}"
            )

    def _layout(self) -> str:
        batched = "(B, T, I)" if self.batch_first else "(T, B, I)"
        return f"{batched}, (T, I) or a PackedSequence of (N, I)"

    def _entering(
        self, step: Step | Recorded, state: UserState | None, x: Tensor, batch: int | None
    ) -> tuple[Tensor, ...]:
        """The initial state as a tuple of ``(B, n_k)``; ``batch`` is ``None`` without a batch."""
        sizes = step.state_sizes
        if state is None:
            # Engines don't write into a state, so states of one width may be the same zeros.
            rows = 1 if batch is None else batch
            zeros = {n: x.new_zeros((rows, n)) for n in dict.fromkeys(sizes)}
            return tuple([zeros[n] for n in sizes])
        if step.bare:
            if not isinstance(state, Tensor):
                raise InputError(
                    f"state must be one tensor of width {sizes[0]}, as {type(self.cell).__name__} "
                    f"takes it, got a {type(state).__name__}"
                )
            parts: tuple[Any, ...] = (state,)
        else:
            if not isinstance(state, (tuple, list)) or len(state) != len(sizes):
                got = type(state).__name__
                count = f" of {len(state)}" if isinstance(state, (tuple, list)) else ""
                raise InputError(
                    f"state must be a tuple of {len(sizes)} tensors of widths {sizes}, as "
                    f"{type(self.cell).__name__} takes it, got a {got}{count}"
                )
            parts = tuple(state)
        checked = []
        for k, (part, n) in enumerate(zip(parts, sizes, strict=True)):
            name = "state" if step.bare else f"state[{k}]"
            shape = (n,) if batch is None else (batch, n)
            if not isinstance(part, Tensor) or part.shape != shape:
                came = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise InputError(
                    f"{name} must be {'(n,)' if batch is None else '(B, n)'} = {shape}, got {came}"
                )
            _check_dense(part, name)
            if part.dtype != x.dtype or part.device != x.device:
                part = self._like_x(part, x, name)
            checked.append(part.unsqueeze(0) if batch is None else part)
        return tuple(checked)

    def _like_x(self, part: Tensor, x: Tensor, name: str) -> Tensor:
        cast = part.is_floating_point() and torch.is_autocast_enabled(x.device.type)
        if part.device != x.device or not cast:
            raise InputError(
                f"{name} must have x's dtype and device, {x.dtype} on {x.device}, "
                f"got {part.dtype} on {part.device}"
            )
        return part.to(x.dtype)

    def _leaving(self, step: Step | Recorded, state: tuple[Tensor, ...]) -> UserState:
        return state[0] if step.bare else state

    def explain(self, input_size: int | None = None) -> Report:
        """How this layer runs: what is hoisted out of the loop, which engine, and why.

        Args:
            input_size: I; ``None``: ``cell.input_size``, else that of the last call.

        Returns:
            A report; ``print`` it to read it.

        Raises:
            InputError: the cell has no ``input_size``, none is given and there was no call yet.
        """
        width = input_size if input_size is not None else getattr(self.cell, "input_size", None)
        if width is None:
            width = traced_input_size(self.cell)
        if not isinstance(width, int) or isinstance(width, bool) or width < 0:
            raise InputError(
                f"{describe(self.cell)} has no input_size; pass it, explain(input_size=...), or "
                "call the layer first"
            )
        own = self._own()
        x = torch.zeros(1, width) if own is None else own.new_zeros(1, width)
        step = Step(self.cell, state_size=find_state_size(self.cell, self.state_size, x=x))
        return explain_step(
            step, width, dtype=x.dtype, device=x.device, engine=self.engine, reverse=self.reverse
        )

    def extra_repr(self) -> str:
        """What differs from the defaults."""
        shown = {
            "batch_first": (self.batch_first, False),
            "reverse": (self.reverse, False),
            "bptt": (self.bptt, None),
            "engine": (self.engine, "auto"),
            "state_size": (self.state_size, None),
        }
        return ", ".join(f"{k}={v!r}" for k, (v, default) in shown.items() if v != default)


def _check_dense(tensor: Tensor, name: str) -> None:
    if tensor.layout is not torch.strided:
        instead = (
            f"pad it with torch.nested.to_padded_tensor({name}, 0.0) and pass lengths"
            if tensor.layout is torch.jagged
            else f"convert it with {name}.to_dense()"
        )
        raise InputError(f"{name} must be a dense tensor, got {tensor.layout}; {instead}")
