"""Packed sequences, as a data loader's collate function makes them: packing is not timed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmarks.case import Case, Results, named_results
from benchmarks.peers import Runner, UnsupportedError
from benchmarks.peers.torch_shared import layer_parameters


def packed_runner(case: Case, layer: Any) -> Runner:
    """A drop-in or torch.nn layer on packed input; its output stays packed, as its gradient."""
    lengths = case.lengths
    if lengths is None:
        raise UnsupportedError("all rows have the same length")
    train = case.problem.mode == "train"
    x = pack_padded_sequence(case.x, lengths, enforce_sorted=False)
    data = x.data.detach().requires_grad_(train)
    packed = x._replace(data=data)
    dy = pack_padded_sequence(case.dy, lengths, enforce_sorted=False).data
    parts = tuple(s.clone()[None].requires_grad_(train) for s in case.state)
    state = parts[0] if case.bare else parts
    parameters = layer_parameters(layer)
    wanted = [data, *parts, *parameters.values()]
    cotangents = [dy, *(s[None] for s in case.dfinal)]

    def forward() -> Any:
        y, final = layer(packed, state)
        return y, ((final,) if case.bare else tuple(final))

    def infer() -> Any:
        with torch.inference_mode():
            return (*forward(), None)

    def differentiate() -> Any:
        y, final = forward()
        return y, final, torch.autograd.grad([y.data, *final], wanted, cotangents)

    def padded(sequence: PackedSequence) -> Tensor:
        return pad_packed_sequence(sequence, total_length=case.problem.T)[0]

    def collect(done: Any) -> Results:
        y, final, grads = done
        final = tuple(s[0] for s in final)
        if grads is not None:
            count = 1 + len(parts)
            dx = padded(x._replace(data=grads[0]))
            grads = (dx, *(g[0] for g in grads[1:count]), *grads[count:])
        return named_results(padded(y), final, grads, parameters)

    return Runner(differentiate if train else infer, collect)
