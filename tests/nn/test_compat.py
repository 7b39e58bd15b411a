"""The drop-ins (and Recurrent) with what else people use around a module."""

from __future__ import annotations

import copy
import io
import os
import pickle
import tempfile
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from drop_in_kinds import KINDS, build_pair, flat_state, make_input, make_state
from helpers import assert_close
from ostinato import Recurrent, cells
from ostinato import nn as onn

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")


def _x(*shape, **options):
    return torch.randn(*(shape or (5, 2, 3)), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_deepcopy_and_pickle(kind):
    _, ours = build_pair(kind, num_layers=2, bidirectional=True)
    x = _x()
    expected = ours(x)[0]
    ours(x)[0].sum().backward()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for replica in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    ):
        assert type(replica) is type(ours)
        assert replica.engine == ours.engine
        assert torch.equal(replica(x)[0], expected)
        with torch.no_grad():
            replica.weight_hh_l0.zero_()
        assert not torch.equal(replica(x)[0], expected)
        assert torch.equal(ours(x)[0], expected)


def test_saved_state_dict():
    _, ours = build_pair("LSTM")
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    fresh = onn.LSTM(3, 5)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = _x()
    assert torch.equal(fresh(x)[0], ours(x)[0])


@pytest.mark.parametrize("change", ["in place", "load", "data", "replaced", "deleted and set"])
def test_sees_each_change_of_a_weight(change):
    """Nothing that a call remembers outlives a change of the parameters."""
    theirs, ours = build_pair("GRU")
    x = _x()
    ours(x)
    for layer in (theirs, ours):
        new = torch.linspace(-1, 1, layer.weight_hh_l0.numel()).view_as(layer.weight_hh_l0)
        with torch.no_grad():
            if change == "in place":
                layer.weight_hh_l0.copy_(new)
            elif change == "load":
                layer.load_state_dict(layer.state_dict() | {"weight_hh_l0": new})
            elif change == "data":
                layer.weight_hh_l0.data = new
            else:
                if change == "deleted and set":
                    del layer.weight_hh_l0
                layer.weight_hh_l0 = nn.Parameter(new)
    assert_close(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
@pytest.mark.parametrize("cls", ["RNN", "LSTM", "GRU"])
def test_parametrizations(cls, kind):
    theirs, ours = build_pair(cls, num_layers=2)
    torch.manual_seed(0)
    for layer in (theirs, ours):
        getattr(parametrizations, kind)(layer, "weight_hh_l1")
    ours.load_state_dict(theirs.state_dict())
    theirs.eval()
    ours.eval()
    x = _x()
    expected, _ = theirs(x)
    actual, _ = ours(x)
    assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, list(theirs.parameters()), cotangent)
    got = torch.autograd.grad(actual, list(ours.parameters()), cotangent)
    assert_close(got, wanted, kind="gradient")
    replica = copy.deepcopy(ours)
    assert torch.equal(replica(x)[0], actual)
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.5)
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(x)[0], theirs(x)[0])
    with parametrize.cached():
        assert torch.equal(ours(x)[0], ours(x)[0])


def test_parametrised_weight_is_computed_once_a_call():
    class Count(nn.Module):
        calls = 0

        def forward(self, weight):
            Count.calls += 1
            return weight

    layer = onn.LSTM(3, 4, num_layers=2, bidirectional=True)
    parametrize.register_parametrization(layer, "weight_hh_l0", Count())
    Count.calls = 0
    layer(_x())
    assert Count.calls == 1


def test_spectral_norm_in_training_iterates_once_a_call():
    layer = onn.GRU(3, 4)
    parametrizations.spectral_norm(layer, "weight_hh_l0")
    norm = layer.parametrizations.weight_hh_l0[0]
    before = norm._u.clone()
    layer(_x())
    after = norm._u.clone()
    assert not torch.equal(before, after)
    again = copy.deepcopy(norm)
    again._u.copy_(before)
    again(layer.parametrizations.weight_hh_l0.original)
    assert not torch.equal(again._u, before)


def test_pruning_and_old_weight_norm():
    theirs, ours = build_pair("LSTM")
    for layer in (theirs, ours):
        mask = torch.arange(layer.weight_hh_l0.numel()).view_as(layer.weight_hh_l0) % 3 > 0
        prune.custom_from_mask(layer, "weight_hh_l0", mask)
    x = _x()
    assert_close(ours(x)[0], theirs(x)[0])
    ours(x)[0].sum().backward()
    assert not ours.weight_hh_l0_orig.grad[~ours.weight_hh_l0_mask.bool()].any()
    with torch.no_grad():
        ours.weight_hh_l0_orig.mul_(2)
        theirs.weight_hh_l0_orig.mul_(2)
    assert_close(ours(x)[0], theirs(x)[0])


def test_functional_call():
    theirs, ours = build_pair("LSTM")
    x = _x()
    weights = {name: torch.randn_like(p) for name, p in theirs.named_parameters()}
    weights["weight_hh_l0"].requires_grad_()
    results = [torch.func.functional_call(layer, weights, (x,))[0] for layer in (theirs, ours)]
    assert_close(results[1], results[0])
    gradients = [torch.autograd.grad(y.sum(), weights["weight_hh_l0"])[0] for y in results]
    assert_close(gradients[1], gradients[0], kind="gradient")
    fresh, _ = build_pair("LSTM")
    assert_close(ours(x)[0], fresh(x)[0])  # its own weights are back


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_and_no_grad(kind):
    theirs, ours = build_pair(kind, num_layers=2)
    x = _x()
    hx = make_state("batched", ours, torch.float32, batch=2)
    expected = theirs(x, hx)[0]
    with torch.no_grad():
        y, state = ours(x, hx)
    assert not y.requires_grad
    assert not any(s.requires_grad for s in flat_state(state))
    assert_close(y, expected)
    with torch.inference_mode():
        y, state = ours(x, hx)
        assert y.is_inference()
        assert_close(y, expected)
        again, _ = ours(y.new_ones(5, 2, 3), state)
    assert again.is_inference()
    assert_close(ours(x, hx)[0], expected)
    made = torch.inference_mode()(lambda: onn.GRU(3, 4))()
    with torch.inference_mode():
        made(x)


@pytest.mark.parametrize("wanted", ["x", "hx", "weights", "some weights", "nothing"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_requires_grad(kind, wanted):
    theirs, ours = build_pair(kind, num_layers=2)
    gradients = []
    for layer in (theirs, ours):
        torch.manual_seed(0)
        x = _x(requires_grad=wanted == "x")
        hx = make_state("batched", layer, torch.float32, batch=2)
        for s in flat_state(hx):
            s.requires_grad_(wanted == "hx")
        for name, p in layer.named_parameters():
            p.requires_grad_(wanted == "weights" or (wanted == "some weights" and "hh_l0" in name))
        y, final = layer(x, hx)
        if wanted == "nothing":
            assert not y.requires_grad
            continue
        assert all(s.requires_grad for s in flat_state(final))
        loss = (y * torch.randn_like(y)).sum() + sum(s.sum() for s in flat_state(final))
        loss.backward()
        leaves = (x, *flat_state(hx), *layer.parameters())
        assert all((t.grad is not None) == t.requires_grad for t in leaves)
        gradients.append([t.grad for t in leaves if t.requires_grad])
    if gradients:
        assert_close(gradients[1], gradients[0], kind="gradient")


def test_backward_twice():
    _, ours = build_pair("LSTM", num_layers=2)
    y, _ = ours(_x())
    loss = y.square().mean()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in ours.parameters()]
    loss.backward()
    for p, g in zip(ours.parameters(), once, strict=True):
        assert_close(p.grad, 2 * g, kind="gradient")
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_changed_between_forward_and_backward(kind):
    """As in torch: an error, not a gradient of something else."""
    _, ours = build_pair(kind)
    x = _x(requires_grad=True)
    for changed in ("weight_hh_l0", "weight_ih_l0"):
        y, _ = ours(x)
        with torch.no_grad():
            getattr(ours, changed).add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_input_changed_between_forward_and_backward():
    _, ours = build_pair("GRU")
    x = _x()
    y, _ = ours(x)
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_output_changed_between_forward_and_backward(kind):
    """An error of all kinds; torch's own GRU and RNN allow it."""
    _, ours = build_pair(kind)
    y, _ = ours(_x())
    y.relu_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_of_a_subclass_gives_plain_tensors(kind):
    class Named(torch.Tensor):
        pass

    _, ours = build_pair(kind)
    x = _x()
    with torch.no_grad():
        for _ in range(2):  # a layer's second call takes another way
            y, _ = ours(x.as_subclass(Named))
            assert type(y) is torch.Tensor
            torch.testing.assert_close(y, ours(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "LSTM-proj", "GRU"])
def test_gradcheck(kind, bidirectional):
    _, ours = build_pair(kind, bidirectional=bidirectional, dtype=torch.float64)
    x = _x(3, 2, 3, dtype=torch.float64, requires_grad=True)
    hx = flat_state(make_state("batched", ours, torch.float64, batch=2))
    names = [name for name, _ in ours.named_parameters()]
    lengths = torch.tensor([3, 2])

    def call(x, *rest):
        state, weights = rest[: len(hx)], rest[len(hx) :]
        y, final = torch.func.functional_call(
            ours,
            dict(zip(names, weights, strict=True)),
            (x, state if len(state) > 1 else state[0]),
            {"lengths": lengths},
        )
        return y, *flat_state(final)

    inputs = (x, *(s.requires_grad_() for s in hx), *ours.parameters())
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_gradient_penalty():
    """Double backward in use: the gradient of a gradient's norm."""
    results = []
    for layer in build_pair("GRU", num_layers=2, dtype=torch.float64):
        torch.manual_seed(0)
        x = _x(dtype=torch.float64, requires_grad=True)
        (dx,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), list(layer.parameters())))
    assert_close(results[1], results[0], kind="gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_keeps_to_the_parameters_dtype(kind):
    """torch gives bfloat16 for RNN and LSTM here, float32 for GRU; ours is float32 in all."""
    theirs, ours = build_pair(kind, num_layers=2)
    x = _x()
    expected, _ = theirs(x.bfloat16().float())
    hx = make_state("batched", ours, torch.float32, batch=2)
    with torch.autocast("cpu", torch.bfloat16):
        y, final = ours(x.bfloat16())
        assert_close(y, expected)
        assert all(s.dtype is torch.float32 for s in flat_state(final))
        low = tuple(s.bfloat16() for s in flat_state(hx))
        y, _ = ours(x, low if len(low) > 1 else low[0])
        assert y.dtype is torch.float32
        x.requires_grad_()
        loss = ours(x)[0].square().mean()
    loss.backward()
    assert x.grad.dtype is torch.float32
    plain = x.grad.clone()
    x.grad = None
    ours(x)[0].square().mean().backward()
    assert_close(plain, x.grad, kind="gradient")


class _Tagger(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embed = nn.Linear(3, 3)
        self.layer = layer
        self.head = nn.LazyLinear(2)

    def forward(self, x, hx=None):
        y, state = self.layer(torch.relu(self.embed(x)), hx)
        return self.head(y), state


def test_distributed_data_parallel():
    """World size 1 on gloo: the wrapper's hooks see each parameter's gradient."""
    from torch import distributed

    theirs, ours = build_pair("LSTM", num_layers=2, bidirectional=True)
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            "gloo", init_method=f"file://{os.path.join(folder, 'store')}", rank=0, world_size=1
        )
        try:
            wrapped = nn.parallel.DistributedDataParallel(ours)
            x = _x()
            for _ in range(2):
                wrapped(x)[0].square().mean().backward()
                theirs(x)[0].square().mean().backward()
            assert_close(
                [p.grad for p in ours.parameters()],
                [p.grad for p in theirs.parameters()],
                kind="gradient",
            )
        finally:
            distributed.destroy_process_group()


def test_data_parallel_replica():
    """The replica of nn.DataParallel holds plain tensors in place of parameters."""
    _, ours = build_pair("GRU")
    x = _x()
    expected = ours(x)[0]
    replica = ours._replicate_for_data_parallel()
    for name, p in ours.named_parameters():
        setattr(replica, name, p.detach() * 1.0)
    assert_close(replica(x)[0], expected)


def test_jit_trace_takes_torchs_own_layer():
    _, ours = build_pair("GRU")
    x = _x()
    with warnings.catch_warnings():  # tracing is deprecated, and torch's own checks warn
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ours, (x,))
    other = torch.randn_like(x)
    assert_close(traced(other)[0], ours(other)[0])


def test_threads():
    """Two callers at once: same results as one after the other."""
    from concurrent.futures import ThreadPoolExecutor

    _, ours = build_pair("LSTM", num_layers=2)
    inputs = [_x(20, 4, 3) for _ in range(8)]
    with torch.no_grad():
        expected = [ours(x)[0] for x in inputs]

    def call(x):
        with torch.no_grad():
            return ours(x)[0]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(call, inputs))
    for a, b in zip(results, expected, strict=True):
        assert torch.equal(a, b)


def test_same_bits():
    _, ours = build_pair("LSTM", num_layers=2, bidirectional=True)
    x = make_input("packed unsorted", ours, torch.float32)
    assert torch.equal(ours(x)[0].data, ours(x)[0].data)


def test_share_memory_and_module_methods():
    _, ours = build_pair("GRU")
    x = _x()
    expected = ours(x)[0]
    ours.share_memory()
    assert torch.equal(ours(x)[0], expected)
    assert torch.equal(ours.double().float()(x)[0], expected)
    ours.to_empty(device="cpu")
    ours.reset_parameters()
    assert ours(x)[0].isfinite().all()
    meta = onn.GRU(3, 5, device="meta")
    assert meta(torch.empty(4, 2, 3, device="meta"))[0].shape == (4, 2, 5)


def test_trains():
    """A recurrent task end to end: remember the sign of the first input."""
    torch.manual_seed(0)
    model = _Tagger(onn.LSTM(3, 16))
    optimiser = None
    for _ in range(150):
        x = _x(3, 32, 3)
        logits = model(x)[0][-1]
        optimiser = optimiser or torch.optim.Adam(model.parameters(), 0.02)
        loss = nn.functional.cross_entropy(logits, (x[0, :, 0] > 0).long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3


def test_recurrent_gets_along_too():
    """What the drop-ins are tested for above, once for a layer around a cell."""
    layer = Recurrent(cells.LSTM(3, 4))
    parametrizations.weight_norm(layer.cell, "weight_hh")
    x = _x()
    y, _ = layer(x)
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert torch.equal(copy.deepcopy(layer)(x)[0], y)
    with torch.inference_mode():
        assert_close(layer(x)[0], y)


def test_explain():
    ours = onn.LSTM(3, 5, num_layers=2, bidirectional=True)
    report = ours.explain()
    text = str(report)
    assert len(report.parts) == 4
    assert "layer 1, backward" in text
    assert "native" in text
    assert "bfloat16" in str(ours.bfloat16().explain())
