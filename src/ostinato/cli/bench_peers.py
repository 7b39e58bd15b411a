"""Who takes part in ``ostinato bench``: the same cell, weights and data in each library.

A contestant that can't run the cell, or isn't installed, is left out, with the reason.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.cells import registry
from ostinato.nn import Recurrent

if TYPE_CHECKING:
    from collections.abc import Callable

#: Largest error that passes, as a share of the reference's largest element. float32 loses about
#: 1e-5 over the steps of a call; swapped gates are off by far more.
_TOLERANCE = {"infer": 1e-3, "train": 5e-3}
_TORCH = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
#: ONNX's operator and the places of its gates among ours.
_ONNX = {"elman": ("RNN", (0,)), "gru": ("GRU", (1, 0, 2)), "lstm": ("LSTM", (0, 3, 1, 2))}

#: What a call gives: the output (T, B, O), in training then dx and the parameters' gradients.
Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Contestant:
    """A library's way to run the problem: ``calls`` by mode, ``"infer"`` and ``"train"``."""

    name: str
    calls: dict[str, Callable[[], Arrays]]


class Problem:
    """One cell at one size, with data, and what is right for it in float64."""

    def __init__(self, cell: str, steps: int, batch: int, input_size: int, hidden: int) -> None:
        entry = registry.entry(cell)
        torch.manual_seed(0)
        self.name = entry.name
        self.cell = entry.cls(input_size, hidden)
        self.layer = Recurrent(self.cell)
        self.x = torch.randn(steps, batch, input_size)
        with torch.no_grad():
            self.dy = torch.randn_like(self.layer(self.x)[0])
        exact = copy.deepcopy(self.cell).double()
        calls = torch_calls(
            lambda x: plain_loop(exact, x),
            list(exact.parameters()),
            self.x.double(),
            self.dy.double(),
        )
        self._right = {mode: call() for mode, call in calls.items()}

    def verdict(self, mode: str, results: Arrays) -> str | None:
        """``None`` if the results are right, else what is wrong."""
        right = self._right[mode]
        for number, (want, got) in enumerate(zip(right, results, strict=True)):
            if want.shape != got.shape:
                return f"result {number} has the shape {got.shape}, not {want.shape}"
            error = float(np.abs(want - got).max()) / max(float(np.abs(want).max()), 1e-6)
            if not error <= _TOLERANCE[mode]:
                return f"result {number} is off by {error:.1e} of its largest element"
        return None


def plain_loop(cell: nn.Module, x: Tensor) -> Tensor:
    """The cell in a Python loop over time; the output ``(T, B, O)``."""
    sizes: Any = getattr(cell, "state_size", cell.hidden_size)
    bare = isinstance(sizes, int)
    states = [x.new_zeros(x.shape[1], n) for n in ((sizes,) if bare else sizes)]
    state: Any = states[0] if bare else tuple(states)
    outputs = []
    for row in x:
        result = cell(row, state)
        # torch.nn.RNNCell's convention, torch.nn.LSTMCell's, or the output beside the state.
        if isinstance(result, Tensor):
            output = state = result
        elif len(result) == 2 and isinstance(result[1], Tensor) and not bare:
            output, state = result[0], result
        else:
            output, state = result
        outputs.append(output)
    return torch.stack(outputs)


def torch_calls(
    forward: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor, dy: Tensor
) -> dict[str, Callable[[], Arrays]]:
    """Both modes of something written in PyTorch."""
    leaf = x.clone().requires_grad_()

    def infer() -> Arrays:
        with torch.inference_mode():
            return [forward(x).numpy()]

    def train() -> Arrays:
        y = forward(leaf)
        return [y.detach().numpy()] + [
            g.numpy() for g in torch.autograd.grad(y, [leaf, *parameters], dy)
        ]

    return {"infer": infer, "train": train}


def contestants(problem: Problem) -> tuple[list[Contestant], list[tuple[str, str]]]:
    """Who can run the problem; who can't, with the reason."""
    x, dy, cell = problem.x, problem.dy, problem.cell
    parameters = list(cell.parameters())
    running = [
        Contestant("ostinato", torch_calls(lambda x: problem.layer(x)[0], parameters, x, dy)),
        Contestant("torch loop", torch_calls(lambda x: plain_loop(cell, x), parameters, x, dy)),
    ]
    left_out = []
    for name, why_not, make in (
        ("torch.nn", "", _torch_nn),
        ("JAX", _missing("jax") or _all_processors(), _jax),
        ("ONNX Runtime", _missing("onnxruntime") or _missing("onnx"), _onnx),
    ):
        if problem.name not in _TORCH:
            left_out.append((name, f"has no {problem.name}"))
        elif why_not:
            left_out.append((name, why_not))
        else:
            running.append(Contestant(name, make(problem)))
    return running, left_out


def _missing(package: str) -> str:
    return "" if importlib.util.find_spec(package) else f"{package} isn't installed"


def _all_processors() -> str:
    """JAX takes as many threads as there are processors, and can't be told otherwise."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    threads = torch.get_num_threads()
    if threads == (processors or os.cpu_count()):
        return ""
    return f"which takes all processors and can't be held to {threads} threads"


def _torch_nn(problem: Problem) -> dict[str, Callable[[], Arrays]]:
    sizes = (problem.x.shape[-1], problem.dy.shape[-1])
    layer = _TORCH[problem.name](*sizes)
    layer.load_state_dict({f"{k}_l0": v for k, v in problem.cell.state_dict().items()})
    return torch_calls(
        lambda x: layer(x)[0],
        [layer.get_parameter(f"{k}_l0") for k, _ in problem.cell.named_parameters()],
        problem.x,
        problem.dy,
    )


def _jax(problem: Problem) -> dict[str, Callable[[], Arrays]]:
    # By name: they have no types, or aren't installed where types are checked.
    jax: Any = importlib.import_module("jax")
    jnp: Any = importlib.import_module("jax.numpy")

    def step(p: Any, state: Any, xs: Any) -> Any:
        hs = state[0] @ p["weight_hh"].T + p["bias_hh"]
        if problem.name == "elman":
            state = (jnp.tanh(xs + hs),)
        elif problem.name == "gru":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(xs, 3, -1), jnp.split(hs, 3, -1)
            z = jax.nn.sigmoid(x_z + h_z)
            n = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
            state = ((1 - z) * n + z * state[0],)
        else:
            i, f, g, o = jnp.split(xs + hs, 4, -1)
            c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            state = (jax.nn.sigmoid(o) * jnp.tanh(c), c)
        return state, state[0]

    names = [name for name, _ in problem.cell.named_parameters()]
    values = {name: jnp.asarray(p.detach().numpy()) for name, p in problem.cell.named_parameters()}
    x, dy = jnp.asarray(problem.x.numpy()), jnp.asarray(problem.dy.numpy())

    def forward(p: Any, x: Any) -> Any:
        zeros = jnp.zeros((x.shape[1], p["weight_hh"].shape[1]), x.dtype)
        states = (zeros, zeros) if problem.name == "lstm" else (zeros,)
        # What depends on the input alone is one product ahead of the loop, as an expert writes it.
        xs = x @ p["weight_ih"].T + p["bias_ih"]
        return jax.lax.scan(lambda s, row: step(p, s, row), states, xs)[1]

    def both(p: Any, x: Any, dy: Any) -> Any:
        y, pull = jax.vjp(forward, p, x)
        return y, *pull(dy)

    infer = jax.jit(forward).lower(values, x).compile()
    train = jax.jit(both).lower(values, x, dy).compile()

    def run_train() -> Arrays:
        y, dp, dx = jax.block_until_ready(train(values, x, dy))
        return [np.asarray(a) for a in (y, dx, *(dp[name] for name in names))]

    return {
        "infer": lambda: [np.asarray(jax.block_until_ready(infer(values, x)))],
        "train": run_train,
    }


def _onnx(problem: Problem) -> dict[str, Callable[[], Arrays]]:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    onnx: Any = importlib.import_module("onnx")
    helper = onnx.helper

    operator, gates = _ONNX[problem.name]
    hidden = problem.dy.shape[-1]
    own = {name: p.detach().numpy() for name, p in problem.cell.named_parameters()}

    def ordered(name: str) -> Any:
        return np.concatenate([own[name][g * hidden : (g + 1) * hidden] for g in gates])

    tensors = {
        "W": ordered("weight_ih")[None],
        "R": ordered("weight_hh")[None],
        "B": np.concatenate([ordered("bias_ih"), ordered("bias_hh")])[None],
    }
    more = {"linear_before_reset": 1} if operator == "GRU" else {}
    steps, batch, _ = problem.x.shape
    shapes = {"X": problem.x.shape, "Y": (steps, 1, batch, hidden)}
    info = {
        k: helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in shapes.items()
    }
    graph = helper.make_graph(
        [helper.make_node(operator, ["X", "W", "R", "B"], ["Y"], hidden_size=hidden, **more)],
        problem.name,
        [info["X"]],
        [info["Y"]],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"X": problem.x.numpy()}
    return {"infer": lambda: [session.run(None, feed)[0][:, 0]]}
