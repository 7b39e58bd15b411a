"""Stacked: layers of any kind, one on top of another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import ostinato
from helpers import assert_close
from ostinato import Recurrent, cells
from ostinato.nn import GRU, LSTM, Bidirectional, Stacked, TimeDistributed


def _mixed(**options):
    torch.manual_seed(0)
    return Stacked(
        [
            nn.Linear(3, 4),
            Recurrent(cells.LSTM(4, 4)),
            Bidirectional(Recurrent(cells.GRU(4, 4)), "mean"),
            TimeDistributed(nn.LayerNorm(4)),
            LSTM(4, 4),
            nn.Tanh(),
            Stacked([Recurrent(cells.Elman(4, 4)), GRU(4, 2)]),
        ],
        **options,
    )


def _by_hand(layer, x):
    linear, lstm, both, norm, drop_in, tanh, inner = layer.layers
    y, _ = lstm(linear(x))
    y, _ = both(y)
    y, _ = drop_in(norm(y))
    return inner(tanh(y))[0]


def test_is_its_layers_one_by_one():
    layer = _mixed()
    x = torch.randn(5, 2, 3)
    y, states = layer(x)
    assert_close(y, _by_hand(layer, x))
    assert isinstance(states, list)
    assert [s is None for s in states] == [True, False, False, True, False, True, False]
    assert isinstance(states[6], list)


def test_states_carry_on():
    layer = Stacked([nn.Linear(3, 4), Recurrent(cells.LSTM(4, 4)), GRU(4, 5)])
    x = torch.randn(8, 2, 3)
    whole, finals = layer(x)
    first, states = layer(x[:3])
    second, ends = layer(x[3:], states)
    assert_close(torch.cat((first, second)), whole)
    assert_close(ends[1][1], finals[1][1])
    assert_close(ends[2], finals[2])


@pytest.mark.parametrize("form", ["lengths", "packed"])
def test_ragged(form):
    """Each row gives what it gives alone; a linear layer writes nothing past the end."""
    layer = Stacked([_mixed(), nn.Linear(2, 3)])
    lengths = torch.tensor([4, 2, 5])
    x = torch.randn(5, 3, 3)
    if form == "packed":
        y, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        assert isinstance(y, PackedSequence)
        y, _ = pad_packed_sequence(y)
    else:
        y, _ = layer(x, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = layer(x[:length, row : row + 1])
        assert_close(y[:length, row : row + 1], alone)
        assert not y[length:, row].any()


def test_batch_first_and_reset():
    def build(batch_first):
        torch.manual_seed(0)
        return Stacked(
            [
                nn.Linear(3, 4),
                Recurrent(cells.GRU(4, 4), batch_first=batch_first),
                Bidirectional(Recurrent(cells.GRU(4, 4), batch_first=batch_first)),
            ]
        )

    layer, turned = build(False), build(True)
    x, lengths = torch.randn(5, 2, 3), torch.tensor([5, 3])
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[2] = True
    y, _ = layer(x, lengths=lengths, reset=reset)
    z, _ = turned(x.transpose(0, 1), lengths=lengths, reset=reset.t())
    assert_close(z.transpose(0, 1), y)
    assert_close(y[:2], layer(x[:2])[0])


def test_residual():
    torch.manual_seed(0)
    inner = [nn.Linear(3, 4), Recurrent(cells.GRU(4, 4)), nn.Linear(4, 4)]
    layer = Stacked(inner, residual=True)
    x = torch.randn(5, 2, 3)
    a = inner[0](x)  # another width: nothing to add
    b = inner[1](a)[0] + a
    c = inner[2](b) + b
    assert_close(layer(x)[0], c)
    packed = pack_padded_sequence(x, torch.tensor([5, 3]))
    y, _ = layer(packed)
    lengths = torch.tensor([5, 3])
    assert_close(pad_packed_sequence(y)[0], layer(x, lengths=lengths)[0])


def test_dropout_is_between_layers_and_in_training():
    torch.manual_seed(0)
    ones = nn.Linear(1, 1000)
    nn.init.ones_(ones.weight)
    nn.init.zeros_(ones.bias)
    layer = Stacked([ones, nn.Identity()], dropout=0.3)
    x = torch.ones(2, 3, 1)
    y, _ = layer(x)
    kept = y != 0
    assert 0.65 < kept.float().mean() < 0.75
    assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7))
    layer.eval()
    assert torch.equal(layer(x)[0], torch.ones(2, 3, 1000))
    last = Stacked([nn.Identity(), ones], dropout=1.0)  # not after the last one
    assert not last(x)[0].any()
    assert Stacked([ones], dropout=1.0)(x)[0].all()


def test_dropout_of_packed_data():
    layer = Stacked([nn.Identity(), nn.Identity()], dropout=0.5)
    packed = pack_padded_sequence(torch.ones(50, 2, 9), torch.tensor([50, 30]))
    y, _ = layer(packed)
    assert y.data.unique().tolist() == [0.0, 2.0]


def test_gradients_reach_all():
    layer = _mixed(residual=True)
    x = torch.randn(5, 2, 3, requires_grad=True)
    y, _ = layer(x, lengths=torch.tensor([5, 2]))
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert not x.grad[2:, 1].any()


def test_copies():
    layer = _mixed()
    x = torch.randn(5, 2, 3)
    replica = copy.deepcopy(layer)
    assert torch.equal(replica(x)[0], layer(x)[0])
    fresh = _mixed()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x)[0], layer(x)[0])


def test_refusals():
    x = torch.randn(5, 2, 3)
    with pytest.raises(ostinato.InputError, match="one layer or more"):
        Stacked([])
    with pytest.raises(ostinato.InputError, match="dropout"):
        Stacked([nn.Identity()], dropout=1.5)
    with pytest.raises(ostinato.InputError, match=r"ostinato\.nn\.LSTM"):
        Stacked([nn.LSTM(3, 4)])
    with pytest.raises(ostinato.InputError, match="merge=None"):
        Stacked([Bidirectional(Recurrent(cells.GRU(3, 4)), None)])
    with pytest.raises(ostinato.InputError, match="batch_first"):
        Stacked([Recurrent(cells.GRU(3, 4)), Recurrent(cells.GRU(4, 4), batch_first=True)])
    layer = Stacked([nn.Linear(3, 3), GRU(3, 4)])
    with pytest.raises(ostinato.InputError, match="2 layers"):
        layer(x, [None])
    with pytest.raises(ostinato.InputError, match="has no state"):
        layer(x, [torch.zeros(1), None])
    with pytest.raises(ostinato.InputError, match="takes no reset"):
        layer(x, reset=torch.zeros(5, 2, dtype=torch.bool))
    with pytest.raises(ostinato.InputError, match="lengths"):
        layer(x, lengths=torch.tensor([6, 1]))
