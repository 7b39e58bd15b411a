"""The cells that cuDNN has, through PyTorch: what ``"auto"`` takes on a CUDA device.

PyTorch's fused layers run the same equations on any device, which is how this is tested where there
is no GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ostinato.cells.elman import Elman
from ostinato.cells.gru import GRU
from ostinato.cells.lstm import LSTM

if TYPE_CHECKING:
    from ostinato.engine.step import State, Step

_BIASES = ("bias_ih", "bias_hh")


def mode_of(cell: nn.Module) -> str | None:
    """``"lstm"``, ``"gru"``, ``"rnn_tanh"`` or ``"rnn_relu"``; ``None``: not a standard cell."""
    kind = type(cell)
    if kind in (LSTM, nn.LSTMCell):
        return "lstm"
    if kind in (GRU, nn.GRUCell):
        return "gru"
    if kind in (Elman, nn.RNNCell):
        return f"rnn_{cell.nonlinearity}"
    return None


def run_cudnn(
    step: Step,
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run a standard cell by PyTorch's own layer; arguments as in ``ostinato.engine.recurrence``.

    Reverse is the backward half of a bidirectional layer whose forward half sees the same weights;
    padding is packed away first.
    """
    if lengths is not None:
        return _run_padded(step, x, state, lengths, reverse)
    mode = mode_of(step.cell)
    assert mode is not None
    function = getattr(torch._VF, mode)
    names = ["weight_ih", "weight_hh", *(_BIASES if step.cell.bias else ())]
    weights = [step.tensor(name) for name in names] * (2 if reverse else 1)
    initial: Any = tuple(s.unsqueeze(0).repeat(2 if reverse else 1, 1, 1) for s in state)
    hx = initial if mode == "lstm" else initial[0]
    options = (len(names) > 2, 1, 0.0, False, reverse)
    if batch_sizes is not None:
        output, *final = function(x, batch_sizes, hx, weights, *options)
    else:
        output, *final = function(x, hx, weights, *options, False)
    if reverse:
        output = output[..., output.shape[-1] // 2 :]
    return output, tuple(s[-1] for s in final)


def _run_padded(
    step: Step, x: Tensor, state: State, lengths: Tensor, reverse: bool
) -> tuple[Tensor, State]:
    """Pack, run, pad. Rows of length 0, which a PackedSequence can't hold, keep their state."""
    running = lengths.nonzero().squeeze(1)
    output: Tensor
    if len(running) == 0 or len(x) == 0:
        return x.new_zeros(*x.shape[:2], state[0].shape[1]), state
    index = running.to(x.device)
    packed = pack_padded_sequence(x.index_select(1, index), lengths[running], enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None
    assert back is not None
    entering = tuple(s.index_select(0, index).index_select(0, order) for s in state)
    data, final = run_cudnn(
        step, packed.data, entering, batch_sizes=packed.batch_sizes, reverse=reverse
    )
    output, _ = pad_packed_sequence(
        PackedSequence(data, packed.batch_sizes, order, back), total_length=len(x)
    )
    whole = output.new_zeros(*x.shape[:2], output.shape[-1]).index_copy(1, index, output)
    leaving = tuple(
        s.index_copy(0, index, f.index_select(0, back)) for s, f in zip(state, final, strict=True)
    )
    return whole, leaving
