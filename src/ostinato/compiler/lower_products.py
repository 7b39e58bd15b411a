"""Matrix products: rows times static matrices, and, where small, rows times rows.

All products are seen as a batched one, ``(g, m, k) x (g, k, n) -> (g, m, n)``. A static matrix on
the right becomes ``linear``; on the left, the product is transposed first. Two tensors of rows
(a matrix in each row's state, an attention within a row) become products of elements and a sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ostinato.compiler.builder import Value
from ostinato.compiler.layout import Axis, IntArray
from ostinato.compiler.lower_pointwise import scaled
from ostinato.compiler.recorder import Call, Lowered, Result, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: Elements that a product of two tensors of rows may have before it is summed.
_MAX_ELEMENTS = 1 << 16


def _batched(rows: Rows) -> Rows:
    """A matrix of rows as a batch of one matrix."""
    if len(rows.shape) == 3:
        return rows
    axis = Axis(rows.axis.dim + 1, rows.axis.inner)
    return Rows(rows.value, rows.index[None], axis, (1, *rows.shape))


def _transposed(rows: Rows) -> Rows:
    dim = {0: 0, 1: 2, 2: 1}[rows.axis.dim]
    g, m, k = rows.shape
    return Rows(rows.value, rows.index.swapaxes(1, 2), Axis(dim, rows.axis.inner), (g, k, m))


def _product(call: Call, left: Tensor, right: Tensor) -> Lowered:
    """``left @ right``, always as ``(g, m, n)``."""
    if call.is_rows(left) and call.is_rows(right):
        return _rows_by_rows(call, _batched(call.rows(left)), _batched(call.rows(right)))
    if call.is_rows(left):
        return _rows_by_static(call, _batched(call.rows(left)), right, False)
    turned = _transposed(_batched(call.rows(right)))
    product = _rows_by_static(call, turned, left, True)
    # The product came out transposed, (g, n, m): put the features back in order.
    g, n = turned.index.shape[:2]
    order = np.arange(product.value.width, dtype=np.int64).reshape(g, n, -1).swapaxes(1, 2)
    axis = Axis({0: 0, 1: 2, 2: 1}[product.axis.dim], product.axis.inner)
    return Lowered(product.value.builder.gather(product.value, order.reshape(-1)), axis)


def _rows_by_static(call: Call, rows: Rows, matrix: Tensor, turned: bool) -> Lowered:
    """``rows @ matrix``, or ``rows @ matrix.mT`` if ``turned``."""
    statics = call.recorder.statics
    g, m, _ = rows.index.shape
    shape = statics.shape(statics.slot(matrix, call.name))
    if rows.axis.dim == 2 or g != (shape[0] if len(shape) == 3 else 1):
        call.refuse_mixing()
    weights, transposed = statics.maps(matrix, m, call.name)
    value = rows.value.builder.linear(rows.gather(), weights, transposed ^ turned, g * m)
    return Lowered(value, rows.axis)


def _rows_by_rows(call: Call, left: Rows, right: Rows) -> Lowered:
    if left.axis != right.axis or left.axis.dim != 0:
        call.refuse_mixing()
    g, m, k = left.index.shape
    n = right.index.shape[2]
    if g * m * n * k > _MAX_ELEMENTS:
        call.refuse(
            f"multiplies a {m} x {k} by a {k} x {n} matrix in each row, which is too large",
            f"keep it below {_MAX_ELEMENTS} multiplications",
        )

    def elements(rows: Rows, index: IntArray) -> Value:
        return rows.gather(np.broadcast_to(index, (g, m, n, k)))

    a = elements(left, left.index[:, :, None, :])
    b = elements(right, right.index.swapaxes(1, 2)[:, None, :, :])
    return Lowered(a.builder.reduce("sum", a * b, g * m * n), left.axis)


def _without(lowered: Lowered, *dims: int) -> Lowered:
    """The result without dimensions of size 1."""
    axis = lowered.axis
    return Lowered(lowered.value, Axis(axis.dim - sum(d < axis.dim for d in dims), axis.inner))


def _mm(call: Call, left: Tensor, right: Tensor) -> Lowered:
    return _without(_product(call, left, right), 0)


def _mv(call: Call, left: Tensor, right: Tensor) -> Lowered:
    if call.is_rows(right):
        call.refuse_mixing()
    return _without(_product(call, left, right), 0, 2)


def _plus(
    call: Call, added: Tensor, product: Lowered, beta: float = 1.0, alpha: float = 1.0
) -> Lowered:
    """``beta * added + alpha * product``."""
    shape = tuple(call.out.shape)
    axis = product.axis
    features = tuple(n // call.batch if d == axis.dim else n for d, n in enumerate(shape))
    value = scaled(product.value, alpha)
    assert isinstance(value, Value)
    if beta == 0:
        return Lowered(value, axis)
    if call.is_rows(added):
        rows = call.rows(added)
        if Axis(rows.axis.dim + len(shape) - len(rows.shape), rows.axis.inner) != axis:
            call.refuse_mixing()
        other = rows.gather(np.broadcast_to(rows.index, features), broadcast=True)
    else:
        other = call.recorder.statics.operand(added, features, call.name)
    extra = scaled(other, beta)
    return Lowered(value + extra, axis)


def _addmm(call: Call) -> list[Result]:
    product = _mm(call, call["mat1"], call["mat2"])
    return [_plus(call, call["self"], product, call["beta"], call["alpha"])]


def _addmv(call: Call) -> list[Result]:
    product = _mv(call, call["mat"], call["vec"])
    return [_plus(call, call["self"], product, call["beta"], call["alpha"])]


def _baddbmm(call: Call) -> list[Result]:
    product = _product(call, call["batch1"], call["batch2"])
    return [_plus(call, call["self"], product, call["beta"], call["alpha"])]


PRODUCTS: dict[str, Callable[[Call], list[Result]]] = {
    "mm": lambda call: [_mm(call, call["self"], call["mat2"])],
    "mv": lambda call: [_mv(call, call["self"], call["vec"])],
    "bmm": lambda call: [_product(call, call["self"], call["mat2"])],
    "addmm": _addmm,
    "addmv": _addmv,
    "baddbmm": _baddbmm,
}
