"""Bidirectional: two layers, one reversed, merged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import ostinato
from helpers import assert_close
from ostinato import Recurrent, cells
from ostinato.nn import LSTM, Bidirectional

STEPS, BATCH, INPUT, HIDDEN = 6, 3, 4, 5


def _layer(merge="concat", **options):
    torch.manual_seed(0)
    return Bidirectional(Recurrent(cells.LSTM(INPUT, HIDDEN), **options), merge)


def _inputs():
    torch.manual_seed(1)
    return torch.randn(STEPS, BATCH, INPUT), torch.tensor([4, 6, 1])


def _load(layer):
    """torch's bidirectional LSTM with the weights of ``layer``."""
    theirs = nn.LSTM(INPUT, HIDDEN, bidirectional=True)
    for suffix, cell in (("", layer.forward_layer.cell), ("_reverse", layer.backward_layer.cell)):
        for name, p in cell.named_parameters():
            getattr(theirs, f"{name}_l0{suffix}").data.copy_(p.data)
    return theirs


def test_is_torchs_bidirectional():
    layer = _layer()
    theirs = _load(layer)
    x, _ = _inputs()
    states = torch.randn(2, BATCH, HIDDEN), torch.randn(2, BATCH, HIDDEN)
    y, ((h, c), (h_back, c_back)) = layer(
        x, ((states[0][0], states[1][0]), (states[0][1], states[1][1]))
    )
    expected, (h_both, c_both) = theirs(x, states)
    assert_close(y, expected)
    assert_close(torch.stack((h, h_back)), h_both)
    assert_close(torch.stack((c, c_back)), c_both)


def test_lengths_and_packed_are_torchs():
    layer = _layer()
    theirs = _load(layer)
    x, lengths = _inputs()
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    expected_packed, (h_both, _) = theirs(packed)
    expected, _ = pad_packed_sequence(expected_packed, total_length=STEPS)
    y, ((h, _), (h_back, _)) = layer(x, lengths=lengths)
    assert_close(y, expected)
    assert_close(torch.stack((h, h_back)), h_both)
    y, ((h, _), (h_back, _)) = layer(packed)
    assert isinstance(y, PackedSequence)
    assert_close(y.data, expected_packed.data)
    assert_close(torch.stack((h, h_back)), h_both)


@pytest.mark.parametrize("form", ["batch", "lengths", "packed"])
def test_merges(form):
    x, lengths = _inputs()
    kwargs = {"lengths": lengths} if form == "lengths" else {}
    if form == "packed":
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
    both = _layer(None)
    (there, back), _ = both(x, **kwargs)
    a, b = (there.data, back.data) if form == "packed" else (there, back)
    merged = {
        "concat": torch.cat((a, b), -1),
        "sum": a + b,
        "mul": a * b,
        "mean": (a + b) / 2,
    }
    for merge, expected in merged.items():
        layer = _layer(merge)
        layer.load_state_dict(both.state_dict())
        y, _ = layer(x, **kwargs)
        assert_close(y.data if form == "packed" else y, expected)


def test_batch_first():
    x, lengths = _inputs()
    layer, turned = _layer(), _layer(batch_first=True)
    turned.load_state_dict(layer.state_dict())
    assert turned.batch_first
    reset = torch.rand(STEPS, BATCH) < 0.3
    y, _ = layer(x, lengths=lengths, reset=reset)
    z, _ = turned(x.transpose(0, 1), lengths=lengths, reset=reset.t())
    assert_close(z.transpose(0, 1), y)


def test_one_direction_only_has_a_state():
    x, _ = _inputs()
    layer = _layer(None)
    state = torch.randn(BATCH, HIDDEN), torch.randn(BATCH, HIDDEN)
    (there, back), _ = layer(x, (state, None))
    assert_close(there, layer.forward_layer(x, state)[0])
    assert_close(back, layer.backward_layer(x)[0])


@pytest.mark.parametrize("form", ["batch", "packed"])
def test_reset_is_a_border_in_both_directions(form):
    """Two sequences one after the other in a row give what they give on their own."""
    layer = _layer()
    lengths = torch.tensor([6, 4])
    borders = (4, 1)  # where the second sequence starts
    x = torch.randn(STEPS, 2, INPUT)
    reset = torch.zeros(STEPS, 2, dtype=torch.bool)
    for row, border in enumerate(borders):
        reset[border, row] = True
    reset[4, 1] = True  # past the row's length: means nothing
    state = tuple(tuple(torch.randn(2, HIDDEN) for _ in range(2)) for _ in ("forward", "backward"))
    if form == "packed":
        lengths = lengths.flip(0)
        packed = pack_padded_sequence(x.flip(1), lengths, enforce_sorted=False)
        flipped = tuple(tuple(s.flip(0) for s in pair) for pair in state)
        y, final = layer(packed, flipped, reset=reset.flip(1))
        y = pad_packed_sequence(y)[0].flip(1)
        final = tuple(tuple(s.flip(0) for s in pair) for pair in final)
        lengths = lengths.flip(0)
    else:
        y, final = layer(x, state, lengths=lengths, reset=reset)
    for row, border in enumerate(borders):
        end = int(lengths[row])

        def alone(start, stop, row=row, first=False, last=False):
            own = [tuple(s[row : row + 1] for s in pair) for pair in state]
            return layer(
                x[start:stop, row : row + 1],
                (own[0] if first else None, own[1] if last else None),
            )

        before, (_, (h_back, _)) = alone(0, border, first=True)
        after, ((h, _), _) = alone(border, end, last=True)
        assert_close(y[:border, row : row + 1], before)
        assert_close(y[border:end, row : row + 1], after)
        assert_close(final[0][0][row : row + 1], h)
        assert_close(final[1][0][row : row + 1], h_back)


def test_twin_is_drawn_anew():
    layer = _layer()
    assert layer.backward_layer.reverse
    assert not layer.forward_layer.reverse
    there = dict(layer.forward_layer.named_parameters())
    back = dict(layer.backward_layer.named_parameters())
    assert list(there) == list(back)
    for name, p in there.items():
        assert back[name] is not p
        assert not torch.equal(back[name], p), name


class _Plain(nn.Module):
    """A cell of submodules and a parameter that nothing resets."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size = input_size
        self.state_size = hidden_size
        self.W = nn.Linear(input_size + hidden_size, hidden_size)
        self.scale = nn.Parameter(torch.full((hidden_size,), 0.7))

    def forward(self, x, h):
        h = torch.tanh(self.scale * self.W(torch.cat((x, h), -1)))
        return h, h


def test_twin_of_a_cell_without_reset_parameters():
    layer = Bidirectional(Recurrent(_Plain(INPUT, HIDDEN)))
    there, back = layer.forward_layer.cell, layer.backward_layer.cell
    assert not torch.equal(there.W.weight, back.W.weight)
    assert torch.equal(there.scale, back.scale)
    assert there.scale is not back.scale


def test_given_twin_and_weights_in_common():
    cell = cells.GRU(INPUT, HIDDEN)
    layer = Bidirectional(Recurrent(cell), "sum", backward=Recurrent(cell, reverse=True))
    assert len(list(layer.parameters())) == len(list(cell.parameters()))
    x, _ = _inputs()
    y, _ = layer(x)
    turned, _ = layer(x.flip(0))
    assert_close(turned.flip(0), y)


def test_gradients_reach_both():
    layer = _layer("mul")
    x, lengths = _inputs()
    x.requires_grad_()
    y, _ = layer(x, lengths=lengths)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert x.grad[:4, 0].any()
    assert not x.grad[4:, 0].any()


def test_deepcopy_and_state_dict():
    layer = _layer()
    x, _ = _inputs()
    replica = copy.deepcopy(layer)
    assert torch.equal(replica(x)[0], layer(x)[0])
    assert {name.split(".")[0] for name in layer.state_dict()} == {
        "forward_layer",
        "backward_layer",
    }


def test_refusals():
    cell = cells.GRU(INPUT, HIDDEN)
    with pytest.raises(ostinato.InputError, match="bidirectional=True"):
        Bidirectional(LSTM(INPUT, HIDDEN))
    with pytest.raises(ostinato.InputError, match="reverse=True"):
        Bidirectional(Recurrent(cell, reverse=True))
    with pytest.raises(ostinato.InputError, match="backward must have reverse=True"):
        Bidirectional(Recurrent(cell), backward=Recurrent(cell))
    with pytest.raises(ostinato.InputError, match="batch_first"):
        Bidirectional(Recurrent(cell), backward=Recurrent(cell, reverse=True, batch_first=True))
    with pytest.raises(ostinato.InputError, match="'concat', 'sum', 'mul', 'mean'"):
        Bidirectional(Recurrent(cell), merge="max")
    layer = _layer()
    x, _ = _inputs()
    with pytest.raises(ostinato.InputError, match="pair"):
        layer(x, torch.zeros(BATCH, HIDDEN))
    with pytest.raises(ostinato.InputError, match="tuple of 3"):
        layer(x, (None, None, None))
    with pytest.raises(ostinato.InputError, match="lengths"):
        layer(x, lengths=torch.tensor([7, 1, 1]))
    with pytest.raises(ostinato.InputError, match="reset"):
        layer(x, reset=torch.zeros(2, 2, dtype=torch.bool))
