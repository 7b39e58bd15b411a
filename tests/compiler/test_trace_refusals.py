"""Cells that can't be traced: each is refused at the user's own line, with a way out."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ostinato.compiler.trace import trace
from ostinato.errors import TraceError


class Base(nn.Module):
    """Parameters that the cells below share."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(4, 6).double()
        self.conv = nn.Conv1d(1, 1, 3, padding=1).double()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(6).double()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.layers: list[Tensor] = []


class StraightThrough(torch.autograd.Function):
    """Rounds, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, a):
        return a.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Branch(Base):
    def forward(self, x, h):
        if h.sum() > 0:  # HERE
            return x @ self.W.weight.T
        return h


class Item(Base):
    def forward(self, x, h):
        return h * h.max().item()  # HERE


class RowItem(Base):
    def forward(self, x, h):
        return h * float(h[0, 0])  # HERE


class ParameterItem(Base):
    def forward(self, x, h):
        return h * self.gain.item()  # HERE


class Convolution(Base):
    def forward(self, x, h):
        return self.conv(h.unsqueeze(1)).squeeze(1)  # HERE


class BatchMean(Base):
    def forward(self, x, h):
        mean = h.mean(0)  # HERE
        scaled = mean * 2
        return h - scaled


class NanCheck(Base):
    def forward(self, x, h):
        if torch.isnan(h).any():  # HERE
            raise ValueError("NaN in the state")
        return h


class BatchSum(Base):
    def forward(self, x, h):
        return h - h.sum()  # HERE


class BatchCumsum(Base):
    def forward(self, x, h):
        return h.cumsum(0)  # HERE


class BatchFlip(Base):
    def forward(self, x, h):
        return h + h.flip(0)  # HERE


class BatchGram(Base):
    def forward(self, x, h):
        return (h @ h.T) @ h  # HERE


class BatchSlice(Base):
    def forward(self, x, h):
        return h + h[:1]  # HERE


class BatchSoftmax(Base):
    def forward(self, x, h):
        return h.softmax(0)  # HERE


class BatchNorm(Base):
    def forward(self, x, h):
        return self.norm(h)  # HERE


class Dropout(Base):
    def forward(self, x, h):
        return self.drop(h)  # HERE


class Noise(Base):
    def forward(self, x, h):
        return h + torch.randn_like(h)  # HERE


class StaticNoise(Base):
    def forward(self, x, h):
        return h + torch.rand(6, dtype=h.dtype)  # HERE


class CustomGradient(Base):
    def forward(self, x, h):
        z = StraightThrough.apply(h)
        return z * 2  # HERE


class WritesState(Base):
    def forward(self, x, h):
        return h.add_(self.W(x))  # HERE


class WritesInput(Base):
    def forward(self, x, h):
        x[:, 0] = 0  # HERE
        return h + self.W(x)


class WritesBuffer(Base):
    def forward(self, x, h):
        self.count += 1  # HERE
        return h * self.count


class WritesParameter(Base):
    def forward(self, x, h):
        with torch.no_grad():
            self.gain.mul_(0.99)  # HERE
        return h * self.gain


class HiddenWrite(Base):
    def forward(self, x, h):
        z = h * 2
        with torch.no_grad():
            z.mul_(3)  # HERE
        return z


class ChangesDtype(Base):
    def forward(self, x, h):
        return h.float().tanh().double()  # HERE


class Bits(Base):
    def forward(self, x, h):
        return h * ((h > 0).sum(1, keepdim=True) & 1)  # HERE


class WrapsAround(Base):
    def forward(self, x, h):
        return h * ((h > 0).to(torch.uint8) * 200 * 2)  # HERE


class WrapsBelow(Base):
    def forward(self, x, h):
        return h * ((h > 0).to(torch.uint8) - 1)  # HERE


class LargeInteger(Base):
    def forward(self, x, h):
        return h * ((h > 0).long() * (2**60 + 1) - 2**60)  # HERE


class OtherFloat(Base):
    def forward(self, x, h):
        return h * ((h > 0).float() * 0.1)  # HERE


class Truncated(Base):
    def forward(self, x, h):
        return h * (h > 0).sum(1, keepdim=True).float().mul(0.5).int()  # HERE


class RoundedQuotient(Base):
    def forward(self, x, h):
        return h * torch.remainder(h, 0.1)  # HERE


class RowDivisor(Base):
    def forward(self, x, h):
        return h * torch.fmod(h, h.detach().abs() + 1)  # HERE


class NoTail(Base):
    def forward(self, x, h):
        return torch.erfc(h)  # HERE


class BatchSize(Base):
    def forward(self, x, h):
        return h + torch.arange(h.shape[0], dtype=h.dtype)[:, None]  # HERE


class Choice(Base):
    def forward(self, x, h):
        return h[h > 0].reshape(-1, 1) * torch.ones(6, dtype=h.dtype)  # HERE


class Argmax(Base):
    def forward(self, x, h):
        return h * h.argmax(-1, keepdim=True)  # HERE


class Indices(Base):
    def forward(self, x, h):
        values, indices = h.max(-1, keepdim=True)  # HERE
        return h.gather(1, indices) * values + h


class NoRule(Base):
    def forward(self, x, h):
        return torch.special.bessel_j0(h.detach())  # HERE


class Sorted(Base):
    def forward(self, x, h):
        return h.sort(-1).values  # HERE


class Complex(Base):
    def forward(self, x, h):
        return torch.fft.fft(h).real  # HERE


class Swallowed(Base):
    def forward(self, x, h):
        try:
            return h * h.sum().item()  # HERE
        except RuntimeError:
            return h


LOCATED = {
    Branch: "torch.where",
    Item: "item() makes a Python value",
    RowItem: "item() makes a Python value",
    ParameterItem: "plain attribute",
    Convolution: "linear map",
    BatchMean: "dim=-1",
    NanCheck: "torch.where",
    BatchSum: "dim=-1",
    BatchCumsum: "dim=-1",
    BatchFlip: "mixes the rows",
    BatchGram: "mixes the rows",
    BatchSlice: "takes some rows",
    BatchSoftmax: "mixes",
    BatchNorm: "layer norm",
    Dropout: "random",
    Noise: "random",
    StaticNoise: "random",
    CustomGradient: "StraightThrough",
    WritesState: "without _",
    WritesInput: "input",
    WritesBuffer: "writes into count in place",
    WritesParameter: "writes into gain in place",
    HiddenWrite: "no_grad",
    ChangesDtype: "float32",
    Bits: "bits",
    WrapsAround: "uint8",
    WrapsBelow: "uint8",
    LargeInteger: "int64",
    OtherFloat: "float32",
    Truncated: "float32",
    RoundedQuotient: "power of two",
    RowDivisor: "power of two",
    NoTail: "no rule",
    BatchSize: "depends on the batch size",
    Choice: "fixed index",
    Argmax: "softmax",
    Indices: "not the indices",
    NoRule: "no rule",
    Sorted: "orders data",
    Complex: "no rule",
    Swallowed: "item()",
}


@pytest.mark.parametrize("cls", LOCATED, ids=lambda c: c.__name__)
def test_refused_at_the_users_line(cls):
    with pytest.raises(TraceError) as caught:
        trace(cls().train(), 4, 6, torch.float64)
    message = str(caught.value)
    assert LOCATED[cls] in message
    assert 'engine="eager"' in message
    source, first = inspect.getsourcelines(cls)
    line = first + next(i for i, text in enumerate(source) if "# HERE" in text)
    assert message.startswith(f"{__file__}:{line}: "), message


class Hook(Base):
    def forward(self, x, h):
        z = h * self.gain
        z.register_hook(lambda g: 2 * g)
        return z.tanh()


class PythonState(Base):
    def forward(self, x, h):
        self.calls = getattr(self, "calls", 0) + 1
        return h * self.calls


class OwnBatch(Base):
    def forward(self, x, h):
        return h if h.shape[0] > 12 else h * 2


class NotDifferentiable(Base):
    def forward(self, x, h):
        z = h + 1
        a = z[:, :3]
        a.tanh_()
        z.exp_()
        return z * a.sum(-1, keepdim=True)


class NumPy(Base):
    def forward(self, x, h):
        return h + torch.from_numpy(np.ones(tuple(h.shape)))


class ToNumPy(Base):
    def forward(self, x, h):
        return h + torch.from_numpy(h.detach().numpy())


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Hook, "hook"),
        (PythonState, "sets its calls in a step"),
        (OwnBatch, "depends on the batch size"),
        (NotDifferentiable, "can't be differentiated"),
        (NumPy, "neither from x nor from the state"),
        (ToNumPy, "numpy() makes a Python value"),
    ],
)
def test_refused(cls, text):
    with pytest.raises(TraceError, match=re.escape(text)):
        trace(cls(), 4, 6, torch.float64)


class Returns(nn.Module):
    """Returns what a function makes of the state."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, state):
        return self.function(x, state)


@pytest.mark.parametrize(
    ("sizes", "function", "text"),
    [
        (6, lambda x, h: None, "NoneType"),
        (6, lambda x, h: (h, h, h), "expected (output, state) or state"),
        (6, lambda x, h: (h, (h,)), "expected (output, state) or state"),
        ((6, 6), lambda x, s: s[0], "expected (output, (s1, s2)) or (s1, s2)"),
        ((6, 6), lambda x, s: (s[0], (s[0],)), "expected (output, (s1, s2))"),
        ((6,), lambda x, s: s[0], "expected (output, (s1))"),
        (
            6,
            lambda x, h: h[:, :5] * 1,
            "of shape (B, 6) and returned it as torch.float64 of shape (B, 5)",
        ),
        (6, lambda x, h: (h, h.float()), "torch.float32"),
        (6, lambda x, h: (h.sum(-1), h), "expected (B, O)"),
        (6, lambda x, h: (h > 0, h), "torch.bool"),
        (6, lambda x, h: h.sum(0, keepdim=True), "shape (1, 6)"),
        (6, lambda x, h: h.sum(0).expand(x.size(0), 6), "mixes"),
    ],
)
def test_wrong_structure(sizes, function, text):
    with pytest.raises(TraceError, match=re.escape(text)):
        trace(Returns(function), 4, sizes, torch.float64)


def test_the_cells_own_error_passes_with_a_note():
    cell = Returns(lambda x, h: x @ h)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        trace(cell, 4, 6, torch.float64)
    assert not isinstance(caught.value, TraceError)
    assert "x of shape (11, 4)" in caught.value.__notes__[0]


def test_dropout_in_eval_is_fine():
    trace(Dropout().eval(), 4, 6, torch.float64)


def test_batch_norm_in_eval_is_fine():
    trace(BatchNorm().eval(), 4, 6, torch.float64)


def test_the_cell_is_left_as_it_was():
    cell = Base()
    cell.__class__ = PythonState
    parametrizations.weight_norm(cell.W)
    cell.W.bias.requires_grad_(False)
    before = {k: v.clone() for k, v in cell.state_dict().items()}
    attributes = set(vars(cell))
    random = torch.get_rng_state()
    with pytest.raises(TraceError):
        trace(cell, 4, 6, torch.float64)
    assert set(vars(cell)) == attributes
    assert not cell.W.bias.requires_grad
    assert all(p.grad is None for p in cell.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in cell.state_dict().items():
        assert torch.equal(value, before[name])


def test_inference_mode_and_no_grad_around():
    class Plain(Base):
        def forward(self, x, h):
            return F.relu(self.W(x) + h)

    cell = Plain()
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            trace(cell, 4, 6, torch.float64)
    with torch.inference_mode(), pytest.raises(TraceError, match="made in inference mode"):
        trace(Plain(), 4, 6, torch.float64)


def test_tracing_draws_no_numbers_that_are_seen():
    """A parametrisation may draw: it is computed for the trace as well."""

    class Cell(Base):
        def forward(self, x, h):
            return torch.tanh(self.W(x) + h)

    class Noisy(nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight) * 0

    cell = Cell()
    torch.nn.utils.parametrize.register_parametrization(cell.W, "weight", Noisy())
    before = torch.get_rng_state()
    trace(cell, 4, 6, torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
