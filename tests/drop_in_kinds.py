"""Pairs of torch's layer and ours with the same random weights, and inputs for both."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from helpers import assert_same_run, generator, run_and_differentiate
from ostinato import nn as onn

INPUT, HIDDEN = 3, 5

#: name -> class, options of its own
KINDS = {
    "RNN": ("RNN", {}),
    "RNN-relu": ("RNN", {"nonlinearity": "relu"}),
    "LSTM": ("LSTM", {}),
    "LSTM-proj": ("LSTM", {"proj_size": 2}),
    "GRU": ("GRU", {}),
}


def build_pair(kind, *, engine="auto", seed=0, **options):
    """``(torch's, ours)`` with equal weights, large enough that gates are not all alike."""
    cls, own = KINDS[kind]
    theirs = getattr(nn, cls)(INPUT, HIDDEN, **own, **options)
    ours = getattr(onn, cls)(INPUT, HIDDEN, **own, **options, engine=engine)
    draw = generator(seed)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=draw, dtype=torch.float64))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_input(form, layer, dtype):
    source = generator(1)

    def draw(*shape):
        return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype)

    if form == "unbatched":
        return draw(6, INPUT)
    if form == "batched":
        return draw(3, 6, INPUT) if layer.batch_first else draw(6, 3, INPUT)
    lengths = (6, 4, 1) if form == "packed sorted" else (4, 1, 6)
    return pack_sequence([draw(n, INPUT) for n in lengths], enforce_sorted=form == "packed sorted")


def make_state(form, layer, dtype, batch=3):
    """Random initial state as the layer takes it."""
    draw = generator(2)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.proj_size or layer.hidden_size]
    if layer.mode == "LSTM":
        widths.append(layer.hidden_size)
    states = tuple(
        torch.randn(
            (rows, n) if form == "unbatched" else (rows, batch, n),
            generator=draw,
            dtype=torch.float64,
        ).to(dtype)
        for n in widths
    )
    return states if len(states) > 1 else states[0]


def flat_state(state):
    return () if state is None else state if isinstance(state, tuple) else (state,)


def compare_run(theirs, ours, x, hx, *, note=""):
    """Both layers on the same data: outputs, final states, every gradient, same random draws."""
    packed = isinstance(x, PackedSequence)
    runs, draws = [], []
    for layer in (theirs, ours):

        def call(data, state, layer=layer):
            torch.manual_seed(3)
            output, final = layer(
                x._replace(data=data) if packed else data, None if hx is None else state
            )
            draws.append(torch.rand(1))
            return output.data if packed else output, final

        runs.append(
            run_and_differentiate(
                call,
                x.data if packed else x,
                () if hx is None else hx,
                dict(layer.named_parameters()),
            )
        )
    try:
        assert_same_run(runs[1], runs[0])
        assert torch.equal(*draws), "another number of random draws"
    except AssertionError as error:
        raise AssertionError(f"{error} ({note})") from error
