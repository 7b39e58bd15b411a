"""The types of the extension module; what each function does is in its own docstring."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_Array = NDArray[np.float32] | NDArray[np.float64]

def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...

class Plan:
    def __init__(
        self,
        code: Sequence[int],
        consts: Sequence[float],
        streams: Sequence[tuple[int, int, int]],
        vectors: Sequence[int],
        maps: Sequence[tuple[int, bool]],
        outers: Sequence[bool],
        statics: Sequence[Sequence[int]],
        gradients: Sequence[Sequence[int]],
    ) -> None: ...
    def forward(
        self,
        x: Tensor,
        state: Sequence[Tensor],
        statics: Sequence[Tensor],
        reset: Tensor | None,
        lengths: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
        batch_first: bool | None,
        threads: int,
        testing: int,
        room: int,
    ) -> tuple[Any, ...]: ...
    def backward(
        self,
        x: Tensor,
        y: Tensor,
        kept: Tensor | None,
        state: Sequence[Tensor],
        statics: Sequence[Tensor],
        dy: Tensor,
        dfinal: Sequence[Tensor],
        reset: Tensor | None,
        lengths: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
        bptt: int,
        batch_first: bool | None,
        threads: int,
        testing: int,
    ) -> tuple[Tensor | None, ...]: ...

def use_tensor_table(capsule: object) -> None: ...

# For tests.
def new_tensor(shape: Sequence[int], strides: Sequence[int], is_double: bool) -> Tensor: ...
def waiting_bytes() -> int: ...
def gemm(
    isa: str,
    a: _Array,
    w: _Array,
    bias: _Array | None,
    out: _Array,
    accumulate: bool,
    n_begin: int,
    n_end: int,
) -> None: ...
def outer(isa: str, a: _Array, dz: _Array, g: _Array) -> None: ...
def pool_check(n: int, rounds: int, thrower: int = -1, own: bool = False) -> int: ...
def shares_threads() -> bool: ...
def pointwise(op: str, isa: str, d: _Array, operands: Sequence[_Array]) -> None: ...
def group(op: str, isa: str, d: _Array, a: _Array, groups: int, m: int) -> None: ...
def take(isa: str, d: _Array, a: _Array, index: NDArray[np.int64]) -> None: ...
def put(isa: str, d: _Array, a: _Array, index: NDArray[np.int64]) -> None: ...
def sum_rows(isa: str, acc: _Array, a: _Array, b: _Array | None = None) -> None: ...
def normalise(
    op: str, isa: str, d: _Array, operands: Sequence[_Array], groups: int, eps: float = 0.0
) -> None: ...
def op_table() -> list[tuple[str, int, float, float]]: ...
