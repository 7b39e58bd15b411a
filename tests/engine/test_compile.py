"""torch.compile: a pass over time is one opaque operation, whatever the backend."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import ostinato
from helpers import (
    CELL_CASES,
    assert_same_run,
    random_input,
    random_state,
    randomise,
    run_and_differentiate,
)
from helpers import assert_close as close
from ostinato import Bidirectional, Recurrent, Stacked, cells
from ostinato import nn as onn

#: Of PyTorch's own making, on the way through its compilers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]

FORWARD, BACKWARD = "ostinato.recurrence.default", "ostinato.recurrence_backward.default"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that counts: graphs, and operations of ours in each."""

    def __init__(self) -> None:
        self.forward: list[list[str]] = []
        self.backward: list[list[str]] = []

    def __call__(self, module, inputs):
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        def note(into):
            def compiler(graph, example):
                into.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
                return make_boxed_func(graph.forward)

            return compiler

        backend = aot_autograd(fw_compiler=note(self.forward), bw_compiler=note(self.backward))
        return backend(module, inputs)


class Scaled(nn.Module):
    """Statics made from parameters, two states of different widths, a constant in Python."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.input_size, self.state_size = 3, (4, 2)
        self.scale = 0.5
        self.skew = nn.Parameter(torch.empty(4, 4, dtype=dtype))
        self.mix = nn.Parameter(torch.empty(4, 4, dtype=dtype))
        self.log_decay = nn.Parameter(torch.empty(4, dtype=dtype))
        self.into = nn.Linear(3, 4, dtype=dtype)
        self.down = nn.Linear(4, 2, bias=False, dtype=dtype)
        self.register_buffer("offset", torch.full((2,), 0.25, dtype=dtype))
        randomise(self)

    def forward(self, x, state):
        a, b = state
        a = torch.exp(-self.log_decay.exp()) * a + a @ (self.skew - self.skew.T) @ (
            self.mix @ self.mix
        )
        a = torch.tanh(a + self.into(x) * self.scale)
        b = torch.sigmoid(self.down(a) + b + self.offset)
        return torch.cat([a, b], -1), (a, b)


class Branching(nn.Module):
    """Can't be traced: what it does depends on the data."""

    input_size = state_size = 3

    def forward(self, x, h):
        h = torch.tanh(x + h) if bool(h.sum() > 0) else torch.tanh(x - h)
        return h, h


def _compare(layer, compiled, x, state, **options):
    def through(function):
        return lambda x, s: function(x, s, **options)

    parameters = dict(layer.named_parameters())
    want = run_and_differentiate(through(layer), x, state, parameters)
    got = run_and_differentiate(through(compiled), x, state, parameters)
    assert_same_run(got, want)


@pytest.mark.parametrize("case", CELL_CASES, ids=str)
def test_every_cell(case):
    cell = randomise(case.make(3, 4, dtype=torch.float64))
    layer = Recurrent(cell)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    state = random_state(cell, 2, dtype=torch.float64)
    _compare(layer, compiled, random_input(5, 2, 3), state)


@pytest.mark.parametrize("bptt", [None, 2])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_options(backend, reverse, batch_first, bptt):
    layer = Recurrent(Scaled(), reverse=reverse, batch_first=batch_first, bptt=bptt)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    state = random_state(layer.cell, 3, dtype=torch.float64)
    x = random_input(5, 3, 3)
    x = x.transpose(0, 1) if batch_first else x
    lengths = torch.tensor([2, 5, 0])
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[1, 1] = True
    for options in ({}, {"lengths": lengths}, {"reset": reset, "lengths": lengths}):
        _compare(layer, compiled, x, state, **options)


def test_inductor():
    """The default backend; later calls have another T and B."""
    layer = Recurrent(Scaled())
    compiled = torch.compile(lambda *args, **kwargs: layer(*args, **kwargs), fullgraph=True)
    for steps, batch in ((5, 3), (7, 2), (4, 6)):
        state = random_state(layer.cell, batch, dtype=torch.float64)
        lengths = torch.arange(batch) % steps
        _compare(layer, compiled, random_input(steps, batch, 3), state, lengths=lengths)
    with torch.inference_mode():
        x = random_input(6, 4, 3)
        close(compiled(x), layer(x))


class Tagger(nn.Module):
    """A drop-in in company."""

    def __init__(self, layer):
        super().__init__()
        self.embed = nn.Linear(3, 3, dtype=torch.float64)
        self.layer = layer
        self.head = nn.Linear(10, 2, dtype=torch.float64)

    def forward(self, x, state=None, **options):
        y, state = self.layer(torch.relu(self.embed(x)), state, **options)
        return self.head(y), state


OPTIONS = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}


def _states(batch, kind):
    state = tuple(0.5 * random_input(4, batch, 5, seed=k) for k in range(2))
    return state if kind == "LSTM" else state[0]


# Inductor takes long to compile, and sees the same of all three: one operation.
@pytest.mark.parametrize(
    ("kind", "backend"),
    [*itertools.product(["RNN", "LSTM", "GRU"], ["eager", "aot_eager"]), ("LSTM", "inductor")],
)
def test_drop_ins(kind, backend):
    model = Tagger(getattr(onn, kind)(3, 5, **OPTIONS))
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for steps, batch in ((5, 3), (6, 2)):
        lengths = torch.arange(batch) + 1
        x, state = random_input(steps, batch, 3), _states(batch, kind)
        _compare(model, compiled, x, state)
        _compare(model, compiled, x, state, lengths=lengths)
    with torch.no_grad():
        close(compiled(random_input(5, 3, 3)), model(random_input(5, 3, 3)))


def test_one_operation_a_direction():
    graphs = Graphs()
    layer = Recurrent(cells.LSTM(3, 5))
    compiled = torch.compile(layer, backend=graphs, fullgraph=True)
    compiled(torch.randn(4, 2, 3))[0].sum().backward()
    assert [graph.count(FORWARD) for graph in graphs.forward] == [1]
    assert [graph.count(BACKWARD) for graph in graphs.backward] == [1]
    assert FORWARD not in graphs.backward[0]
    with torch.inference_mode():
        compiled(torch.randn(4, 2, 3))
    assert [graph.count(FORWARD) for graph in graphs.forward] == [1, 1]


def test_dynamic_from_the_first_call():
    """One graph for all sizes that are marked."""
    graphs = Graphs()
    layer = Recurrent(cells.GRU(3, 5))
    compiled = torch.compile(layer, backend=graphs, fullgraph=True)
    for steps, batch in ((4, 2), (9, 3), (6, 8)):
        x = torch.randn(steps, batch, 3)
        torch._dynamo.mark_dynamic(x, (0, 1))
        close(compiled(x), layer(x))
    assert len(graphs.forward) == 1


@pytest.mark.parametrize("wanted", ["x", "state", "parameters", "one parameter", "nothing"])
def test_what_requires_grad(wanted):
    layer = Recurrent(Scaled())
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for name, p in layer.named_parameters():
        p.requires_grad_(wanted == "parameters" or (wanted == "one parameter" and "skew" in name))
    x = random_input(4, 2, 3).requires_grad_(wanted == "x")
    state = tuple(
        s.requires_grad_(wanted == "state") for s in random_state(layer.cell, 2, dtype=x.dtype)
    )
    leaves = [t for t in (x, *state, *layer.parameters()) if t.requires_grad]
    gradients = []
    for function in (layer, compiled):
        y, final = function(x, state)
        if leaves:
            loss = y.square().sum() + final[1].sum()
            gradients.append(torch.autograd.grad(loss, leaves))
        else:
            assert not y.requires_grad
    if leaves:
        close(gradients[1], gradients[0], kind="gradient")


def test_only_a_final_state_is_used():
    layer = Recurrent(Scaled())
    x = random_input(4, 2, 3)
    gradients = [
        torch.autograd.grad(f(x)[1][0].sum(), list(layer.parameters()), allow_unused=True)
        for f in (layer, torch.compile(layer, backend="eager", fullgraph=True))
    ]
    for name, got, want in zip(dict(layer.named_parameters()), *reversed(gradients), strict=True):
        close(got, torch.zeros_like(got) if want is None else want, kind="gradient", what=name)


def test_changes_are_seen():
    """Parameters, their replacement, and an attribute of the cell that Python reads."""
    layer = Recurrent(Scaled())
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = random_input(4, 2, 3)
    close(compiled(x), layer(x))
    before = layer(x)[0]
    with torch.no_grad():
        layer.cell.skew.mul_(0.5)
    close(compiled(x), layer(x))
    layer.cell.log_decay = nn.Parameter(torch.ones(4, dtype=torch.float64))
    close(compiled(x), layer(x))
    layer.cell.scale = 2.0
    close(compiled(x), layer(x))
    assert not torch.allclose(before, layer(x)[0])
    layer.cell = randomise(cells.LSTM(3, 5, dtype=torch.float64))
    close(compiled(x), layer(x))


def test_cell_changed_between_forward_and_backward():
    """The gradient is that of the trace that ran."""
    layer = Recurrent(Scaled())
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = random_input(4, 2, 3)
    gradients = []
    for function in (layer, compiled):
        layer.cell.scale = 0.5
        y = function(x)[0]
        layer.cell.scale = 3.0
        gradients.append(torch.autograd.grad(y.sum(), layer.cell.into.weight)[0])
    close(gradients[1], gradients[0], kind="gradient")


def test_other_width_after_a_change():
    class Wide(nn.Module):
        state_size = 3
        copies = 1

        def forward(self, x, h):
            h = torch.tanh(x + h)
            return torch.cat([h] * self.copies, -1), h

    layer = Recurrent(Wide())
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(4, 2, 3)
    close(compiled(x), layer(x))
    layer.cell.copies = 2
    with pytest.raises(ostinato.InputError, match=r"torch\.compiler\.reset"):
        compiled(x)
    torch.compiler.reset()
    close(compiled(x), layer(x))


@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle"])
def test_copies_are_layers_of_their_own(how):
    copier = {
        "deepcopy": copy.deepcopy,
        "copy": copy.copy,
        "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    }[how]
    layer = Recurrent(cells.GRU(3, 5))
    x = torch.randn(4, 2, 3)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    close(compiled(x), layer(x))
    replica = copier(layer)
    replica.cell = cells.PeepholeLSTM(3, 5)
    close(torch.compile(replica, backend="eager", fullgraph=True)(x), replica(x))
    close(compiled(x), layer(x))
    del layer, compiled
    close(torch.compile(replica, backend="eager", fullgraph=True)(x), replica(x))


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised(kind):
    for layer, module, name in (
        (
            recurrent := Recurrent(randomise(cells.GRU(3, 5, dtype=torch.float64))),
            recurrent.cell,
            "weight_hh",
        ),
        (drop_in := randomise(onn.GRU(3, 5, dtype=torch.float64)), drop_in, "weight_hh_l0"),
    ):
        getattr(parametrizations, kind)(module, name)
        layer.eval()
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        state = random_input(2, 5, 5)[0] if layer is recurrent else random_input(1, 5, 5)
        _compare(layer, compiled, random_input(4, 5, 3), state)


def test_bare_input_and_cells_of_torch():
    layer = Recurrent(nn.LSTMCell(3, 5))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 3)
    close(compiled(x), layer(x))
    drop_in = onn.RNN(3, 5)
    close(torch.compile(drop_in, backend="aot_eager", fullgraph=True)(x), drop_in(x))


def test_layers_of_layers():
    model = Stacked(
        [nn.Linear(3, 4), Bidirectional(Recurrent(cells.GRU(4, 4)), merge="sum"), onn.LSTM(4, 4)],
        residual=True,
    )
    x, lengths = torch.randn(5, 3, 3), torch.tensor([5, 0, 2])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close(compiled(x), model(x))
    close(compiled(x, lengths=lengths), model(x, lengths=lengths))


def test_autocast():
    layer = Recurrent(Scaled(torch.float32))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 2, 3).bfloat16()
    plain = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        close(layer(x), plain)
        close(compiled(x), plain)


def test_dropout_between_layers():
    layer = onn.GRU(3, 5, 2, dropout=0.5)
    x = torch.randn(4, 2, 3)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    want = layer(x)
    torch.manual_seed(0)
    close(compiled(x), want)


def test_bad_lengths():
    layer = Recurrent(cells.GRU(3, 5))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with pytest.raises(ostinato.InputError, match=r"between 0 and T = 4.*9"):
        compiled(torch.randn(4, 2, 3), lengths=torch.tensor([4, 9]))


@pytest.mark.parametrize("what", ["cell", "engine", "dtype"])
def test_what_has_no_operation_runs_outside(what):
    """A graph break; with fullgraph=True an error that says why."""
    layer = {
        "cell": lambda: Recurrent(Branching()),
        "engine": lambda: Recurrent(cells.GRU(3, 3), engine="eager"),
        "dtype": lambda: Recurrent(cells.GRU(3, 3, dtype=torch.bfloat16)),
    }[what]()
    x = torch.randn(4, 2, 3).to(next((p.dtype for p in layer.parameters()), torch.float32))
    model = nn.Sequential(nn.Identity(), layer)
    close(torch.compile(model, backend="eager")(x), model(x))
    with ostinato.strict(), pytest.raises(ostinato.SlowPathError):
        torch.compile(model, backend="eager")(x)
    torch._dynamo.reset()
    says = {"cell": "depends on the data", "engine": 'engine="eager"', "dtype": "bfloat16"}[what]
    with pytest.raises(torch._dynamo.exc.Unsupported, match=says):
        torch.compile(model, backend="eager", fullgraph=True)(x)


def test_packed_sequences_break_the_graph_at_most():
    layer = Recurrent(cells.GRU(3, 5))
    compiled = torch.compile(layer, backend="eager")
    x = pack_sequence([torch.randn(n, 3) for n in (2, 4)], enforce_sorted=False)
    got, want = compiled(x), layer(x)
    close((got[0].data, got[1]), (want[0].data, want[1]))


def test_accelerated_model():
    """It stays torch.nn.LSTM, at which Dynamo breaks the graph unless told otherwise."""
    model = Tagger(nn.LSTM(3, 5, **OPTIONS))
    ostinato.accelerate(model)
    x = random_input(4, 2, 3)
    close(torch.compile(model, backend="eager")(x), model(x))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def test_operations_are_what_pytorch_expects():
    """Schema, aliasing, shapes and autograd registration, by PyTorch's own checker."""
    from ostinato.engine.opaque import register
    from ostinato.engine.record import describe, sizes

    layer = Recurrent(cells.GRU(3, 5, dtype=torch.float64))
    handle = register(layer)
    size, names, _ = describe(handle, None, 3, torch.float64, torch.device("cpu"), "auto")
    leaves = [layer.cell.get_parameter(name) for name in names]
    x, h = random_input(4, 2, 3).requires_grad_(), random_input(1, 2, 5)[0].requires_grad_()
    for batch_first, lengths in ((False, None), (True, torch.tensor([3, 1]))):
        data = x.transpose(0, 1).contiguous().transpose(0, 1) if batch_first else x
        wanted = tuple(range(2 + len(leaves)))
        output_size, kept_width = sizes(handle, size, 3, torch.float64, names, wanted)
        torch.library.opcheck(
            torch.ops.ostinato.recurrence.default,
            (data, [h], leaves, lengths, None, None, handle, ",".join(names), True, False, 0,
             batch_first, wanted, output_size, kept_width),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )  # fmt: skip


def test_importing_the_package_does_not_import_dynamo():
    import subprocess
    import sys

    code = "import sys, ostinato; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cell_is_gone():
    from ostinato.engine.opaque import cell_of

    with pytest.raises(ostinato.InputError, match="outlived"):
        cell_of(-1)


@pytest.mark.parametrize(
    "layer",
    [
        onn.LSTM(3, 5),
        Recurrent(cells.GRU(3, 5)),
        Bidirectional(Recurrent(cells.GRU(3, 5)), merge="sum"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_packed_sequence_in_and_out(layer):
    x = random_input(6, 4, 3, dtype=torch.float32)
    packed = pack_padded_sequence(x, torch.tensor([6, 2, 5, 1]), enforce_sorted=False)
    want, _ = layer(packed)
    got, _ = torch.compile(layer, backend="aot_eager", fullgraph=True)(packed)
    assert torch.equal(got.data, want.data)
    assert torch.equal(got.batch_sizes, want.batch_sizes)
    assert torch.equal(got.unsorted_indices, want.unsorted_indices)
