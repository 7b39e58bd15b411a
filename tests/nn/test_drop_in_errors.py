"""Bad input: the drop-ins raise what torch raises, or do what torch does; ``lengths`` is ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import ostinato
from drop_in_kinds import KINDS, build_pair, flat_state
from helpers import assert_close
from ostinato import nn as onn

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")


def _packed(width=3, dtype=torch.float32, enforce_sorted=True):
    return pack_sequence(
        [torch.zeros(n, width, dtype=dtype) for n in ((3, 2) if enforce_sorted else (2, 3))],
        enforce_sorted=enforce_sorted,
    )


def _state(layer, *shape, dtype=torch.float32, device="cpu"):
    """Zeros of ``shape``; an LSTM's pair of them. None in the shape is the state's own width."""
    widths = [layer.proj_size or layer.hidden_size]
    widths += [layer.hidden_size] if layer.mode == "LSTM" else []
    pair = tuple(
        torch.zeros(*(w if n is None else n for n in shape), dtype=dtype, device=device)
        for w in widths
    )
    return pair if len(pair) > 1 else pair[0]


#: name -> (layer) -> arguments of the call
CALLS = {
    "1-D": lambda m: (torch.zeros(3),),
    "4-D": lambda m: (torch.zeros(2, 2, 2, 3),),
    "0-D": lambda m: (torch.tensor(0.0),),
    "a list": lambda m: ([[1.0, 2.0, 3.0]],),
    "None": lambda m: (None,),
    "wrong width": lambda m: (torch.zeros(4, 2, 7),),
    "wrong width, unbatched": lambda m: (torch.zeros(4, 7),),
    "wrong width, packed": lambda m: (_packed(7),),
    "no width": lambda m: (torch.zeros(4, 2, 0),),
    "float64 in": lambda m: (torch.zeros(4, 2, 3, dtype=torch.float64),),
    "int64 in": lambda m: (torch.zeros(4, 2, 3, dtype=torch.int64),),
    "float16 in": lambda m: (torch.zeros(4, 2, 3, dtype=torch.float16),),
    "float64 in, packed": lambda m: (_packed(dtype=torch.float64),),
    "other device": lambda m: (torch.zeros(4, 2, 3, device="meta"),),
    "sparse": lambda m: (torch.zeros(4, 2, 3).to_sparse(),),
    "sparse, unbatched": lambda m: (torch.zeros(4, 3).to_sparse(),),
    "T = 0": lambda m: (torch.zeros(0, 2, 3),),
    "T = 0, unbatched": lambda m: (torch.zeros(0, 3),),
    "B = 0": lambda m: (torch.zeros(4, 0, 3),),
    "T = B = 0": lambda m: (torch.zeros(0, 0, 3),),
    "B = 0 with a state": lambda m: (torch.zeros(4, 0, 3), _state(m, 1, 0, None)),
    "state: wrong batch": lambda m: (torch.zeros(4, 2, 3), _state(m, 1, 5, None)),
    "state: batch of 1": lambda m: (torch.zeros(4, 2, 3), _state(m, 1, 1, None)),
    "state: wrong width": lambda m: (torch.zeros(4, 2, 3), _state(m, 1, 2, 9)),
    "state: wrong layers": lambda m: (torch.zeros(4, 2, 3), _state(m, 2, 2, None)),
    "state: 2-D for a batch": lambda m: (torch.zeros(4, 2, 3), _state(m, 2, None)),
    "state: 3-D for no batch": lambda m: (torch.zeros(4, 3), _state(m, 1, 1, None)),
    "state: wrong width, no batch": lambda m: (torch.zeros(4, 3), _state(m, 1, 9)),
    "state: float64": lambda m: (torch.zeros(4, 2, 3), _state(m, 1, 2, None, dtype=torch.float64)),
    "state: other device": lambda m: (torch.zeros(4, 2, 3), _state(m, 1, 2, None, device="meta")),
    "state: wrong batch, packed": lambda m: (_packed(), _state(m, 1, 3, None)),
    "state: wrong batch, unsorted": lambda m: (
        _packed(enforce_sorted=False),
        _state(m, 1, 3, None),
    ),
    "state: too small, unsorted": lambda m: (
        _packed(enforce_sorted=False),
        _state(m, 1, 1, None),
    ),
    "state: 2-D, packed": lambda m: (_packed(), _state(m, 2, None)),
    "state: float64, packed": lambda m: (_packed(), _state(m, 1, 2, None, dtype=torch.float64)),
    "state: a list": lambda m: (torch.zeros(4, 2, 3), [_state(m, 1, 2, None)]),
    "state: a triple": lambda m: (torch.zeros(4, 2, 3), (torch.zeros(1, 2, 5),) * 3),
    "state: a bare tensor or a pair": lambda m: (
        torch.zeros(4, 2, 3),
        torch.zeros(1, 2, 5) if m.mode == "LSTM" else (torch.zeros(1, 2, 5),) * 2,
    ),
    "state: a number": lambda m: (torch.zeros(4, 2, 3), 0.0),
    "two states too many": lambda m: (torch.zeros(4, 2, 3), None, None),
    "nothing": lambda m: (),
}


@pytest.mark.parametrize("engine", ["auto", "native"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_torch(kind, call, engine):
    """At the first call, and after one in which nothing was out of the ordinary."""
    theirs, ours = build_pair(kind, engine=engine)
    _same_outcome(theirs, ours, CALLS[call])
    ours(torch.zeros(4, 2, 3))
    assert ours._bound.shortcut is not None
    _same_outcome(theirs, ours, CALLS[call])


def _same_outcome(theirs, ours, arguments):
    try:
        expected = theirs(*arguments(theirs))
    except Exception as error:  # whatever torch raises
        with pytest.raises(type(error)) as raised:
            ours(*arguments(ours))
        assert type(raised.value) is type(error)  # noqa: PT017  # same type, not a subclass
        return
    actual = ours(*arguments(ours))
    for a, b in zip(_tensors(actual), _tensors(expected), strict=True):
        assert_close(a, b)


def _tensors(result):
    output, final = result
    return (getattr(output, "data", output), *flat_state(final))


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_torchs(kind):
    theirs, ours = build_pair(kind)
    for name in ("1-D", "wrong width", "float64 in", "T = 0", "state: wrong batch"):
        said = []
        for layer in (theirs, ours):
            with pytest.raises((ValueError, RuntimeError)) as raised:
                layer(*CALLS[name](layer))
            said.append(str(raised.value))
        assert said[0] == said[1]


@pytest.mark.parametrize("spoil", ["shape", "dtype", "device", "missing", "None"])
@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_weight(kind, spoil):
    """Torch itself overlooks some of these and computes with what it finds."""
    _, ours = build_pair(kind)
    ours(torch.zeros(4, 2, 3))
    weight = ours.weight_hh_l0.detach()
    if spoil == "missing":
        del ours.weight_hh_l0
    elif spoil == "None":
        ours.weight_hh_l0 = None
    elif spoil == "shape":
        ours.weight_hh_l0 = nn.Parameter(weight[:-1])
    elif spoil == "dtype":
        ours.weight_hh_l0 = nn.Parameter(weight.double())
    else:
        ours.weight_hh_l0 = nn.Parameter(weight.to("meta"))
    with pytest.raises((RuntimeError, AttributeError, TypeError)):
        ours(torch.zeros(4, 2, 3))


def test_weight_resized_behind_our_back():
    """The very same parameter object with other data: never read out of bounds."""
    _, ours = build_pair("GRU")
    ours(torch.zeros(4, 2, 3))
    ours.weight_hh_l0.data = torch.zeros(2, 2)
    with pytest.raises((RuntimeError, ValueError)):
        ours(torch.zeros(4, 2, 3))


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        (torch.tensor([2, 5]), "4"),
        (torch.tensor([-1, 2]), "-1"),
        (torch.tensor([2]), r"\(2,\)"),
        (torch.tensor([2, 1, 1]), r"\(2,\)"),
        (torch.tensor([[2, 1]]), r"\(2,\)"),
        (torch.tensor([2.0, 1.0]), "float32"),
        (torch.tensor([True, False]), "bool"),
        ("21", "str"),
        (3, "int"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_lengths(kind, lengths, says):
    _, ours = build_pair(kind)
    with pytest.raises(ostinato.InputError, match=says):
        ours(torch.zeros(4, 2, 3), lengths=lengths)


def test_lengths_where_they_make_no_sense():
    _, ours = build_pair("LSTM")
    with pytest.raises(ostinato.InputError, match="PackedSequence"):
        ours(_packed(), lengths=torch.tensor([3, 2]))
    with pytest.raises(ostinato.InputError, match="2-D"):
        ours(torch.zeros(4, 3), lengths=torch.tensor([3]))
    with pytest.raises(TypeError):
        ours(torch.zeros(4, 1, 3), None, torch.tensor([3]))


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_do_not_hide_torchs_checks(kind):
    _, ours = build_pair(kind)
    lengths = torch.tensor([1, 1])
    with pytest.raises(RuntimeError, match=r"input.size\(-1\)"):
        ours(torch.zeros(4, 2, 7), lengths=lengths)
    with pytest.raises(RuntimeError, match="Expected hidden"):
        ours(torch.zeros(4, 2, 3), _state(ours, 1, 5, None), lengths=lengths)
    with pytest.raises(ValueError, match="does not match weight dtype"):
        ours(torch.zeros(4, 2, 3, dtype=torch.float64), lengths=lengths)


def test_native_engine_refuses_what_it_has_no_kernels_for():
    layer = onn.LSTM(3, 5, engine="native", dtype=torch.bfloat16)
    with pytest.raises(ostinato.OstinatoError, match="bfloat16"):
        layer(torch.zeros(4, 2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes_keep_torchs_kernels(kind):
    theirs, ours = build_pair(kind, dtype=torch.bfloat16)
    x = torch.randn(4, 2, 3).bfloat16()
    for a, b in zip(_tensors(ours(x)), _tensors(theirs(x)), strict=True):
        assert torch.equal(a, b)
    with ostinato.strict(), pytest.raises(ostinato.SlowPathError, match="bfloat16"):
        ours(x)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_in_other_dtypes(kind):
    """torch's layer knows no lengths, so the eager engine runs."""
    _, ours = build_pair(kind, num_layers=2, bidirectional=True)
    lengths = torch.tensor([3, 0, 4])
    x = torch.randn(4, 3, 3)
    hx = _state(ours, 4, 3, None)
    expected = ours(x, hx, lengths=lengths)
    ours.bfloat16()
    hx = tuple(s.bfloat16() for s in hx) if isinstance(hx, tuple) else hx.bfloat16()
    actual = ours(x.bfloat16(), hx, lengths=lengths)
    for a, b in zip(_tensors(actual), _tensors(expected), strict=True):
        assert a.dtype is torch.bfloat16
        # bfloat16 has 8 bits; the point is which rows and steps are where
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)
    assert not actual[0][3:, 0].any()
    assert not actual[0][:, 1].any()
    with ostinato.strict(), pytest.raises(ostinato.SlowPathError, match="bfloat16"):
        ours(x.bfloat16(), hx, lengths=lengths)
