"""ONNX Runtime: inference by the format's own RNN, GRU and LSTM operators.

The graph is written by hand, which is what an exporter gives for torch.nn's layers, and in the same
way for two cells that torch.nn lacks and the operators have: peepholes, and the reset before the
product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.case import Case, Results, named_results
from benchmarks.peers import Runner, UnsupportedError

#: Cell -> (operator, where its gates stand among ours, attributes). ONNX: LSTM i o f c, GRU z r h.
OPERATORS: dict[str, tuple[str, tuple[int, ...], dict[str, int]]] = {
    "elman": ("RNN", (0,), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", (1, 0, 2), {"linear_before_reset": 0}),
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "lstm_peephole": ("LSTM", (0, 3, 1, 2), {}),
}


def prepare(case: Case) -> Runner:
    problem = case.problem
    if problem.mode != "infer" or case.lengths is not None or problem.dtype != "float32":
        raise UnsupportedError("inference of full batches in float32")
    if problem.cell not in OPERATORS:
        raise UnsupportedError(f"ONNX has no operator for {problem.cell}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        _model(case).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"X": case.x, **{f"S{k}": s[None] for k, s in enumerate(case.state)}}
    binding = session.io_binding()
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy().copy())
        for name, tensor in feeds.items()
    }
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def call() -> Any:
        session.run_with_iobinding(binding)
        return binding

    def collect(_: Any) -> Results:
        # y: (T, directions, B, H)
        y, *final = (torch.from_numpy(np.array(a)) for a in binding.copy_outputs_to_cpu())
        return named_results(y[:, 0], tuple(s[0] for s in final))

    return Runner(call, collect)


def _model(case: Case) -> onnx.ModelProto:
    T, B, width, H = case.problem.shape
    operator, gates, attributes = OPERATORS[case.problem.cell]
    own = {name: value.numpy() for name, value in case.parameters().items()}

    def ordered(name: str) -> np.ndarray:
        return np.concatenate([own[name][g * H : (g + 1) * H] for g in gates])

    tensors = {
        "W": ordered("weight_ih")[None],
        "R": ordered("weight_hh")[None],
        "B": np.concatenate([ordered("bias_ih"), ordered("bias_hh")])[None],
    }
    states = [f"S{k}" for k in range(len(case.state))]
    inputs = ["X", "W", "R", "B", "", *states]
    if "peep_i" in own:
        tensors["P"] = np.concatenate([own["peep_i"], own["peep_o"], own["peep_f"]])[None]
        inputs.append("P")
    outputs = ["Y", *(f"F{k}" for k in range(len(states)))]

    def info(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node(operator, inputs, outputs, hidden_size=H, **attributes)],
        case.problem.cell,
        [info("X", T, B, width), *(info(name, 1, B, H) for name in states)],
        [info("Y", T, 1, B, H), *(info(name, 1, B, H) for name in outputs[1:])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="benchmarks"
    )
