"""accelerate and restore: the same objects, another class, and a report."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import ostinato
from helpers import assert_close
from ostinato import nn as onn
from ostinato.acceleration import AcceleratedGRU, AcceleratedLSTM, AcceleratedRNN


class _Model(nn.Module):
    """Recurrent layers in all sorts of places."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.towers = nn.ModuleList([nn.LSTM(4, 4, batch_first=True), nn.GRU(4, 4)])
        self.again = self.towers[0]
        self.rest = nn.ModuleDict({"rnn": nn.RNN(4, 4, nonlinearity="relu", num_layers=2)})

    def forward(self, x):
        y = self.embed(x)
        y, _ = self.towers[0](y)
        y, _ = self.again(y)
        y, _ = self.towers[1](y)
        return self.rest["rnn"](y)[0]


class _Residual(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return input + output, state


def test_replaces_everywhere_and_keeps_the_objects():
    model = _Model().eval()
    x = torch.randn(5, 2, 3)
    expected = model(x)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    report = ostinato.accelerate(model)
    assert all(model.get_submodule(name) is module for name, module in modules.items())
    assert all(model.get_parameter(name) is p for name, p in parameters.items())
    assert type(model.towers[0]) is AcceleratedLSTM
    assert type(model.towers[1]) is AcceleratedGRU
    assert type(model.rest["rnn"]) is AcceleratedRNN
    assert model.again is model.towers[0]
    assert not model.towers[0].training
    assert_close(model(x), expected)
    assert [entry.paths for entry in report] == [
        ("towers.0", "again"),
        ("towers.1",),
        ("rest.rnn",),
    ]
    assert len(report) == len(report.replaced) == 3
    assert not report.left_alone


def test_restore_undoes_it():
    model = _Model()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    classes = {name: type(module) for name, module in model.named_modules()}
    ostinato.accelerate(model)
    model(torch.randn(5, 2, 3)).sum().backward()
    report = ostinato.restore(model)
    assert len(report.replaced) == 3
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not ostinato.restore(model).replaced


def test_the_model_itself():
    model = nn.GRU(3, 4)
    identity = id(model)
    report = ostinato.accelerate(model)
    assert id(model) == identity
    assert type(model) is AcceleratedGRU
    assert isinstance(model, onn.GRU)
    assert isinstance(model, nn.GRU)
    assert "(the model itself)" in str(report)
    ostinato.restore(model)
    assert type(model) is nn.GRU


def test_what_is_left_alone_and_why():
    patched = nn.GRU(3, 4)
    patched.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "sub": _Residual(3, 3),
            "cell": nn.LSTMCell(3, 4),
            "ours": onn.GRU(3, 4),
            "patched": patched,
            "linear": nn.Linear(3, 3),
        }
    )
    classes = [type(m) for m in model.modules()]
    report = ostinato.accelerate(model)
    assert [type(m) for m in model.modules()] == classes
    reasons = {entry.paths[0]: entry.reason for entry in report.left_alone}
    assert set(reasons) == {"sub", "cell", "ours", "patched"}
    assert "subclass of torch.nn.LSTM" in reasons["sub"]
    assert "Recurrent" in reasons["cell"]
    assert "already" in reasons["ours"]
    assert "instance" in reasons["patched"]
    text = str(report)
    assert text.startswith("0 of 4 recurrent modules replaced")
    assert all(reason in text for reason in reasons.values())
    ostinato.restore(model)
    assert type(model["ours"]) is onn.GRU


def test_nothing_there():
    report = ostinato.accelerate(nn.Linear(2, 2))
    assert not len(report)
    assert str(report) == "no recurrent module found"


def test_twice_is_once():
    model = nn.Sequential(nn.LSTM(3, 4))
    ostinato.accelerate(model)
    second = ostinato.accelerate(model)
    assert not second.replaced
    ostinato.restore(model)
    assert type(model[0]) is nn.LSTM


def test_refusals():
    with pytest.raises(ostinato.InputError, match="list"):
        ostinato.accelerate([nn.LSTM(2, 2)])
    with pytest.raises(ostinato.InputError, match="engine"):
        ostinato.accelerate(nn.LSTM(2, 2), engine="gpu")


def test_engine_is_passed_on():
    model = nn.LSTM(3, 4)
    ostinato.accelerate(model, engine="eager")
    assert model.engine == "eager"
    ostinato.restore(model)
    assert not hasattr(model, "engine")


def test_shared_frozen_and_tied_parameters():
    a, b = nn.LSTM(4, 4), nn.LSTM(4, 4)
    b.weight_hh_l0 = a.weight_hh_l0
    a.bias_ih_l0.requires_grad_(False)
    model = nn.ModuleList([a, b])
    count = len(list(model.parameters()))
    ostinato.accelerate(model)
    assert b.weight_hh_l0 is a.weight_hh_l0
    assert len(list(model.parameters())) == count
    x = torch.randn(5, 2, 4)
    b(a(x)[0])[0].sum().backward()
    assert a.bias_ih_l0.grad is None
    wanted = a.weight_hh_l0.grad.clone()
    model.zero_grad()
    ostinato.restore(model)
    b(a(x)[0])[0].sum().backward()
    assert_close(wanted, a.weight_hh_l0.grad)


def test_hooks_stay():
    layer = nn.LSTM(3, 4)
    calls = []
    layer.register_forward_pre_hook(lambda module, args: calls.append("pre"))
    layer.register_forward_hook(lambda module, args, result: calls.append("post"))
    layer.register_full_backward_hook(lambda module, gi, go: calls.append("backward"))
    layer.weight_ih_l0.register_hook(lambda grad: calls.append("parameter"))
    ostinato.accelerate(layer)
    layer(torch.randn(5, 2, 3, requires_grad=True))[0].sum().backward()
    assert sorted(calls) == ["backward", "parameter", "post", "pre"]


def test_optimiser_goes_on():
    """A model accelerated in mid-training takes the steps that it would have taken."""

    def train(accelerated):
        torch.manual_seed(0)
        model = nn.LSTM(3, 4)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
        for k in range(6):
            if k == 3 and accelerated:
                ostinato.accelerate(model)
            loss = model(torch.randn(5, 2, 3))[0].square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return model

    for a, b in zip(train(True).parameters(), train(False).parameters(), strict=True):
        # Adam divides by the gradient's own size: rounding differences grow
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "two"])
def test_parametrised(kind):
    layer = nn.GRU(3, 4, bidirectional=True)
    if kind == "two":
        parametrizations.weight_norm(layer, "weight_hh_l0")
        parametrizations.weight_norm(layer, "weight_ih_l0_reverse")
    else:
        getattr(parametrizations, kind)(layer, "weight_hh_l0")
    layer.eval()  # in training a spectral norm iterates at each call
    x = torch.randn(5, 2, 3)
    with torch.no_grad():  # torch's forward leaves the computed weights, with graph, in the module
        expected = layer(x)[0]
    state_dict = layer.state_dict()
    parameters = list(layer.parameters())
    report = ostinato.accelerate(layer)
    assert len(report.replaced) == 1
    assert isinstance(layer, onn.GRU)
    assert parametrize.is_parametrized(layer, "weight_hh_l0")
    assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))
    assert list(layer.state_dict()) == list(state_dict)
    assert_close(layer(x)[0], expected)
    replica = copy.deepcopy(layer)
    assert isinstance(replica, onn.GRU)
    assert_close(replica(x)[0], expected)
    ostinato.restore(layer)
    assert not isinstance(layer, onn.GRU)
    assert isinstance(replica, onn.GRU)  # the copy's class is its own business
    assert_close(layer(x)[0], expected)


def test_parametrisations_come_and_go_while_accelerated():
    layer = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    expected = layer(x)[0]
    ostinato.accelerate(layer)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    parametrizations.weight_norm(layer, "weight_ih_l0")
    assert_close(layer(x)[0], expected)
    parametrize.remove_parametrizations(layer, "weight_ih_l0")
    assert_close(layer(x)[0], expected)
    ostinato.restore(layer)
    assert parametrize.is_parametrized(layer, "weight_hh_l0")
    assert_close(layer(x)[0], expected)
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is nn.LSTM
    assert_close(layer(x)[0], expected)


def test_copies_and_pickles():
    model = _Model()
    ostinato.accelerate(model)
    x = torch.randn(5, 2, 3)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [
        copy.deepcopy(model),
        copy.copy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ]
    for replica in copies:
        assert type(replica.towers[0]) is AcceleratedLSTM
        assert replica.again is replica.towers[0]
        assert torch.equal(replica(x), expected)
    deep = copies[0]
    ostinato.restore(deep)
    assert type(deep.towers[0]) is nn.LSTM
    assert type(model.towers[0]) is AcceleratedLSTM
    assert_close(deep(x), expected)


def test_script_says_what_to_do():
    model = nn.Sequential(nn.LSTM(3, 4))
    ostinato.accelerate(model)
    with (
        pytest.warns(match="torch.jit.script"),
        pytest.raises(RuntimeError, match=r"ostinato\.restore"),
    ):
        torch.jit.script(model)
    ostinato.restore(model)
    assert type(model[0]) is nn.LSTM
