"""torch.nn.RNN, LSTM and GRU in eager mode."""

from __future__ import annotations

from benchmarks.case import TORCH_LAYERS, Case, torch_layer
from benchmarks.peers import Runner, UnsupportedError
from benchmarks.peers.torch_shared import layer_parameters, torch_runner


def prepare(case: Case) -> Runner:
    if case.problem.cell not in TORCH_LAYERS:
        raise UnsupportedError(f"torch.nn has no {case.problem.cell}")
    if case.lengths is not None:
        raise UnsupportedError("torch.nn takes rows of different lengths packed alone")
    batch_first = case.problem.mode == "step"
    layer = torch_layer(case, TORCH_LAYERS[case.problem.cell], batch_first=batch_first)
    return torch_runner(case, layer, layer_parameters(layer), leading=True)
