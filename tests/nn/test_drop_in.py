"""The drop-ins against ``torch.nn``: the full product of their options."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import ostinato
from drop_in_kinds import KINDS, build_pair, compare_run, make_input, make_state
from helpers import assert_close
from ostinato import nn as onn

# torch's own, said once per process when its projected LSTM runs in float32
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

FORMS = ("unbatched", "batched", "packed sorted", "packed unsorted")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_full_product(kind, num_layers, bidirectional, bias, batch_first, dtype):
    """Output, final state and all gradients; inputs, states and dropout in the inner loop."""
    for dropout, training in ((0.0, True), (0.5, False), (0.5, True)):
        if dropout and num_layers == 1:
            continue  # torch warns: there is nothing between the layers
        theirs, ours = build_pair(
            kind,
            num_layers=num_layers,
            bidirectional=bidirectional,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            dtype=dtype,
        )
        theirs.train(training)
        ours.train(training)
        for form, with_state in itertools.product(FORMS, (False, True)):
            x = make_input(form, theirs, dtype)
            hx = make_state(form, theirs, dtype) if with_state else None
            compare_run(theirs, ours, x, hx, note=f"{form}, hx={with_state}, dropout={dropout}")


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_everything(kind):
    """With p = 1 the second layer sees zeros."""
    theirs, ours = build_pair(kind, num_layers=2, dropout=1.0)
    x = make_input("batched", theirs, torch.float32)
    compare_run(theirs, ours, x, None)
    changed, _ = ours(x + 1)
    torch.testing.assert_close(ours(x)[0], changed, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_same_initialisation(kind):
    cls, options = KINDS[kind]
    torch.manual_seed(5)
    theirs = getattr(nn, cls)(3, 4, 2, bidirectional=True, **options)
    torch.manual_seed(5)
    ours = getattr(onn, cls)(3, 4, 2, bidirectional=True, **options)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    bound = 1 / math.sqrt(4)
    ours.reset_parameters()
    assert all(p.abs().max() <= bound for p in ours.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_both_ways(kind):
    cls, options = KINDS[kind]
    theirs = getattr(nn, cls)(3, 4, 2, bidirectional=True, **options)
    ours = getattr(onn, cls)(3, 4, 2, bidirectional=True, **options)
    x = torch.randn(5, 2, 3)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours(x)[0], theirs(x)[0])
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_is_torchs_module(kind):
    cls, _ = KINDS[kind]
    theirs, ours = build_pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    assert isinstance(ours, nn.RNNBase)
    assert not isinstance(ours, getattr(nn, cls))  # at such, torch.compile breaks the graph
    assert repr(ours) == repr(theirs)
    names = set(vars(theirs)) - {"_flat_weight_refs"}
    assert names <= set(vars(ours))
    for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first"):
        assert getattr(ours, name) == getattr(theirs, name)
    ours.flatten_parameters()
    assert [len(w) for w in ours.all_weights] == [len(w) for w in theirs.all_weights]
    assert type(ours.double()) is type(ours)
    assert next(ours.parameters()).dtype is torch.float64
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    theirs.double()
    assert_close(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((3,), {}),
        ((0, 4), {}),
        ((3, 0), {}),
        ((3.0, 4), {}),
        ((3, 4.0), {}),
        ((3, 4, 0), {}),
        ((3, 4), {"bias": 1}),
        ((3, 4), {"batch_first": 1}),
        ((3, 4, 2), {"dropout": 1.5}),
        ((3, 4, 2), {"dropout": True}),
        ((3, 4), {"proj_size": -1}),
        ((3, 4), {"proj_size": 4}),
        ((3, 4), {"nonlinearity": "gelu"}),
        ((3, 4), {"mode": "LSTM"}),
        ((3, 4), {"no_such_argument": 1}),
        ((3, 4), {"dropout": 0.5}),  # one layer: a warning, here an error
    ],
)
@pytest.mark.parametrize("cls", ["RNN", "LSTM", "GRU"])
def test_constructor_refuses_what_torch_refuses(cls, args, kwargs):
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # torch says which
        getattr(nn, cls)(*args, **kwargs)
    with pytest.raises(theirs.type) as ours:
        getattr(onn, cls)(*args, **kwargs)
    assert ours.type is theirs.type


def test_positional_arguments_are_torchs():
    for cls, args in (
        ("RNN", (3, 4, 2, "relu", False, True, 0.1, True)),
        ("LSTM", (3, 4, 2, False, True, 0.1, True, 2)),
        ("GRU", (3, 4, 2, False, True, 0.1, True)),
    ):
        assert repr(getattr(onn, cls)(*args)) == repr(getattr(nn, cls)(*args))


def test_engine_is_checked():
    with pytest.raises(ostinato.InputError, match="'auto', 'native', 'eager'"):
        onn.LSTM(3, 4, engine="cuda")


@pytest.mark.parametrize("engine", ["auto", "native", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_with_torch(kind, engine):
    theirs, ours = build_pair(kind, num_layers=2, bidirectional=True, engine=engine)
    x = make_input("packed unsorted", theirs, torch.float32)
    compare_run(theirs, ours, x, make_state("packed unsorted", theirs, torch.float32))


@pytest.mark.parametrize("cls", ["RNN", "LSTM", "GRU"])
def test_inputs_of_any_strides(cls):
    theirs, ours = build_pair(cls, num_layers=1)
    x = torch.randn(3, 2, 14)[..., ::2].transpose(0, 2)[..., :3]
    assert not x.is_contiguous()
    assert x.shape == (7, 2, 3)
    compare_run(theirs, ours, x, None)
    compare_run(theirs, ours, torch.randn(1, 2, 3).expand(4, 2, 3), None)
    hx = make_state("batched", theirs, torch.float32, batch=2)
    expanded = [s[:, :1].expand_as(s) for s in (hx if isinstance(hx, tuple) else (hx,))]
    compare_run(theirs, ours, x, tuple(expanded) if isinstance(hx, tuple) else expanded[0])


@pytest.mark.parametrize("steps", [1, 2, 37])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("hidden", [1, 15, 16, 17, 35])
@pytest.mark.parametrize("cls", ["RNN", "LSTM", "GRU"])
def test_sizes_around_the_vector_width(cls, hidden, batch, steps):
    torch.manual_seed(0)
    theirs, ours = getattr(nn, cls)(3, hidden), getattr(onn, cls)(3, hidden)
    ours.load_state_dict(theirs.state_dict())
    compare_run(theirs, ours, torch.randn(steps, batch, 3), None)


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_packing(kind, batch_first):
    """``lengths`` gives what packing and unpacking gives."""
    theirs, ours = build_pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    lengths = torch.tensor([3, 6, 1, 6])
    shape = (4, 6, 3) if batch_first else (6, 4, 3)
    x = torch.randn(shape, requires_grad=True)
    packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
    hx = make_state("batched", theirs, torch.float32, batch=4)
    y_packed, final = theirs(packed, hx)
    y, _ = pad_packed_sequence(y_packed, batch_first=batch_first)
    y_ours, final_ours = ours(x, hx, lengths=lengths)
    assert_close(y_ours, y)
    cotangent = torch.randn_like(y)
    pairs = list(zip(_flat(final_ours), _flat(final), strict=True))
    for a, b in pairs:
        assert_close(a, b)
    mixed = [torch.randn_like(a) for a, _ in pairs]
    wanted = torch.autograd.grad(
        [y, *(b for _, b in pairs)], [x, *theirs.parameters()], [cotangent, *mixed]
    )
    got = torch.autograd.grad(
        [y_ours, *(a for a, _ in pairs)], [x, *ours.parameters()], [cotangent, *mixed]
    )
    assert_close(got, wanted, kind="gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_length_zero(kind):
    """Torch can't pack them: the output is zero, the state stays what it was."""
    _, ours = build_pair(kind, num_layers=2, bidirectional=True)
    x = torch.randn(5, 3, 3)
    hx = make_state("batched", ours, torch.float32, batch=3)
    y, final = ours(x, hx, lengths=torch.tensor([0, 5, 2]))
    assert not y[:, 0].any()
    for left, entered in zip(_flat(final), _flat(hx), strict=True):
        assert torch.equal(left[:, 0], entered[:, 0])
    nothing, final = ours(x, hx, lengths=torch.zeros(3, dtype=torch.int64))
    assert not nothing.any()
    for left, entered in zip(_flat(final), _flat(hx), strict=True):
        assert torch.equal(left, entered)


def test_padding_is_not_looked_at():
    _, ours = build_pair("LSTM", num_layers=2, bidirectional=True)
    lengths = torch.tensor([2, 4])
    x = torch.randn(4, 2, 3)
    dirty = x.clone()
    dirty[2:, 0] = math.nan
    y, (h, c) = ours(x, lengths=lengths)
    y_dirty, (h_dirty, c_dirty) = ours(dirty, lengths=lengths)
    assert torch.equal(y, y_dirty)
    assert torch.equal(h, h_dirty)
    assert torch.equal(c, c_dirty)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_nan_out(kind):
    """NaN reaches what it reaches in torch, and nothing else."""
    theirs, ours = build_pair(kind, num_layers=1)
    x = torch.randn(4, 3, 3)
    x[1, 2, 0] = math.nan
    y, _ = ours(x)
    assert torch.equal(y.isnan(), theirs(x)[0].isnan())


def test_packed_output_keeps_its_indices():
    _, ours = build_pair("GRU")
    x = make_input("packed unsorted", ours, torch.float32)
    y, _ = ours(x)
    assert isinstance(y, PackedSequence)
    assert torch.equal(y.batch_sizes, x.batch_sizes)
    assert torch.equal(y.sorted_indices, x.sorted_indices)
    assert torch.equal(y.unsorted_indices, x.unsorted_indices)


def test_state_carries_on():
    """A sequence cut in two gives what it gives in one piece."""
    _, ours = build_pair("LSTM", num_layers=2)
    x = torch.randn(9, 2, 3)
    whole, (h, c) = ours(x)
    first, state = ours(x[:4])
    second, (h2, c2) = ours(x[4:], state)
    assert_close(torch.cat((first, second)), whole)
    assert_close(h2, h)
    assert_close(c2, c)


def test_input_is_not_changed():
    _, ours = build_pair("LSTM", num_layers=2, bidirectional=True)
    x, hx = torch.randn(4, 2, 3), make_state("batched", ours, torch.float32, batch=2)
    before = [t.clone() for t in (x, *hx)]
    ours(x, hx)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, *hx), strict=True))


def test_hidden_layers_states_are_distinct_tensors():
    """Writing into one result changes no other one."""
    _, ours = build_pair("GRU")
    with torch.no_grad():
        y, h = ours(torch.randn(4, 2, 3))
        kept = h.clone()
        y.zero_()
    assert torch.equal(h, kept)


def _flat(state):
    return state if isinstance(state, tuple) else (state,)
