"""TimeDistributed: a module applied to every valid step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import ostinato
from helpers import assert_close
from ostinato.nn import TimeDistributed


class _Spy(nn.Module):
    """Remembers the shapes that it was called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return x + 1


def test_is_a_loop_over_time():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(5, 2, 3)
    y = TimeDistributed(module)(x)
    assert_close(y, torch.stack([module(step) for step in x]))


def test_more_dimensions_and_other_dtypes():
    conv = nn.Conv2d(3, 2, 3)
    frames = torch.randn(4, 2, 3, 8, 8)
    y = TimeDistributed(conv)(frames)
    assert_close(y, torch.stack([conv(step) for step in frames]))
    tokens = torch.randint(0, 9, (4, 2))
    embedding = nn.Embedding(9, 5)
    assert torch.equal(TimeDistributed(embedding)(tokens), embedding(tokens))


def test_non_contiguous_input():
    linear = nn.Linear(3, 2)
    x = torch.randn(2, 5, 3).transpose(0, 1)
    assert_close(TimeDistributed(linear)(x), linear(x))


@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_is_not_shown(batch_first):
    lengths = torch.tensor([4, 0, 2])
    x = torch.randn(4, 3, 2)
    valid = torch.arange(4)[:, None] < lengths
    x[~valid] = float("nan")
    spy = _Spy()
    layer = TimeDistributed(spy, batch_first=batch_first)
    y = layer(x.transpose(0, 1) if batch_first else x, lengths=lengths)
    y = y.transpose(0, 1) if batch_first else y
    assert spy.seen == [(6, 2)]
    assert torch.equal(y[valid], x[valid] + 1)
    assert not y[~valid].any()


def test_batch_norm_counts_valid_steps_only():
    lengths = torch.tensor([3, 1])
    x = torch.randn(3, 2, 4)
    norm, plain = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    TimeDistributed(norm)(x, lengths=lengths)
    plain(torch.cat((x[:, 0], x[:1, 1])))
    assert_close(norm.running_mean, plain.running_mean)
    assert_close(norm.running_var, plain.running_var)


def test_packed():
    rows = [torch.randn(3, 2), torch.randn(5, 2)]
    packed = pack_sequence(rows, enforce_sorted=False)
    y = TimeDistributed(nn.Linear(2, 4))(packed)
    assert isinstance(y, PackedSequence)
    assert y.data.shape == (8, 4)
    assert torch.equal(y.batch_sizes, packed.batch_sizes)
    assert torch.equal(y.unsorted_indices, packed.unsorted_indices)


def test_gradient():
    linear = nn.Linear(2, 3, dtype=torch.float64)
    layer = TimeDistributed(linear)
    lengths = torch.tensor([3, 1])
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, lengths=lengths), (x,))


def test_all_rows_empty_and_empty_batch():
    layer = TimeDistributed(nn.Linear(2, 3))
    y = layer(torch.randn(3, 2, 2), lengths=torch.zeros(2, dtype=torch.int64))
    assert y.shape == (3, 2, 3)
    assert not y.any()
    assert layer(torch.randn(3, 0, 2)).shape == (3, 0, 3)
    assert layer(torch.randn(0, 2, 2)).shape == (0, 2, 3)


def test_refusals():
    layer = TimeDistributed(nn.Linear(2, 3))
    with pytest.raises(ostinato.InputError, match=r"got \(4,\)"):
        layer(torch.zeros(4))
    with pytest.raises(ostinato.InputError, match="lengths"):
        layer(torch.zeros(4, 2, 2), lengths=torch.tensor([5, 1]))
    packed = pack_padded_sequence(torch.zeros(4, 2, 2), torch.tensor([4, 1]))
    with pytest.raises(ostinato.InputError, match="PackedSequence"):
        layer(packed, lengths=torch.tensor([4, 1]))
    with pytest.raises(ostinato.InputError, match="Flatten"):
        TimeDistributed(nn.Flatten(0))(torch.zeros(4, 2, 2))
    with pytest.raises(ostinato.InputError, match="tuple"):
        TimeDistributed(nn.LSTM(2, 2))(torch.zeros(4, 2, 2))
