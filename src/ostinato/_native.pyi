"""The types of the extension module; what each function does is in its own docstring."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ostinato.compiler.ir import Program
from ostinato.engine.code import Compiled
from ostinato.engine.native import Course
from ostinato.engine.parts import Part

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
        sources: Sequence[tuple[str, Sequence[int]]],
        cuts: Sequence[tuple[int, Sequence[int], Sequence[int]]],
        gradients: Sequence[Sequence[int]],
    ) -> None: ...
    @property
    def units(self) -> int: ...

class Shortcut:
    def __init__(
        self,
        program: Program,
        course: Course,
        tensors: list[Tensor],
        width: int,
        state_widths: Sequence[int],
        is_double: bool,
        leading: bool,
        bare: bool,
    ) -> None: ...
    def take(
        self,
        layer: object,
        parts: list[Part],
        tensors: list[Tensor],
        sources: list[Tensor] | Callable[[], list[Tensor]],
        x: Any,
        hx: Any,
        batch_first: bool,
        lengths: Any = None,
        reset: Any = None,
    ) -> tuple[Tensor, Any] | None: ...
    @property
    def taken(self) -> int: ...
    @property
    def stale(self) -> bool: ...

def run(
    program: Program,
    course: Course,
    sources: Sequence[Tensor],
    x: Tensor,
    state: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...]]: ...
def forward(
    code: Compiled,
    course: Course,
    x: Tensor,
    state: Sequence[Tensor],
    sources: Sequence[Tensor],
    room: int = -1,
) -> tuple[Any, ...]: ...
def backward(
    code: Compiled,
    course: Course,
    x: Tensor,
    y: Tensor,
    kept: Tensor | None,
    state: Sequence[Tensor],
    sources: Sequence[Tensor],
    dy: Tensor | None,
    dfinal: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]: ...
def forward_of_function(
    ctx: Any, code: Compiled, course: Course, x: Tensor, *tensors: Tensor
) -> tuple[Tensor, ...]: ...
def backward_of_function(
    ctx: Any, dy: Tensor | None, *dfinal: Tensor | None
) -> tuple[Tensor | None, ...]: ...
def apply_of_node(
    self: Any, dy: Tensor | None, *dfinal: Tensor | None
) -> tuple[Tensor | None, ...]: ...
def use(callables: dict[str, Any]) -> None: ...
def use_tensor_table(capsule: object) -> None: ...

# For tests.
def set_testing(
    poison: bool = False, divide: Literal["", "rows", "columns", "units", "relay"] = ""
) -> None: ...
def new_tensor(shape: Sequence[int], strides: Sequence[int], is_double: bool) -> Tensor: ...
def waiting_bytes() -> int: ...
def small_waiting_bytes() -> int: ...
def gemm(
    isa: str,
    a: _Array,
    w: _Array,
    bias: _Array | None,
    out: _Array,
    accumulate: bool,
    n_begin: int,
    n_end: int,
    descending: bool = False,
    asks: bool = False,
    k_cut: int = 0,
    n_cut: int = 0,
    past_cache: bool = False,
) -> None: ...
def hand_over(isa: str, to: _Array, from_: _Array, /) -> None: ...
def receive(isa: str, to: _Array, from_: _Array, /) -> int: ...
def withdraw(isa: str, at: _Array, /) -> None: ...
def outer(isa: str, a: _Array, dz: _Array, g: _Array) -> None: ...
def pool_check(n: int, rounds: int, thrower: int = -1, own: bool = False) -> int: ...
def shares_threads() -> bool: ...
def pointwise(op: str, isa: str, d: _Array, operands: Sequence[_Array]) -> None: ...
def group(op: str, isa: str, d: _Array, a: _Array, groups: int, m: int) -> None: ...
def take(isa: str, d: _Array, a: _Array, index: NDArray[np.int64]) -> None: ...
def put(isa: str, d: _Array, a: _Array, index: NDArray[np.int64]) -> None: ...
def sum_rows(
    isa: str, acc: _Array, a: _Array, b: _Array | None = None, moments: _Array | None = None
) -> None: ...
def normalise(
    op: str, isa: str, d: _Array, operands: Sequence[_Array], groups: int, eps: float = 0.0
) -> None: ...
def op_table() -> list[tuple[str, int, float, float]]: ...
