"""The steps of Keras's three cells, over Keras's own weights.

A step lends its equations: its parameters only show shapes, the layer's own tensors take their
place in a call. Dropout masks hold for all steps of a call. The one on the input is applied before
the loop; the one on the state enters as one more state, which passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]


class KerasStep(nn.Module):
    """What the steps have in common.

    Args:
        input_size: I.
        units: H.
        use_bias: whether there is a bias.
        activation: of the new state; ``None``: none.
        recurrent_activation: of the gates.
        copies: the input comes once a gate, side by side: each has a dropout mask of its own.
        dropped: there is a further state ``(B, gates * H)``, the mask on the state for each gate.
        dtype: of the weights.
    """

    #: Number of gates, number of states.
    GATES = 1
    STATES = 1

    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        input_size: int,
        units: int,
        *,
        use_bias: bool,
        activation: Activation | None,
        recurrent_activation: Activation | None = None,
        copies: bool = False,
        dropped: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        gates = self.GATES
        self.input_size = input_size * (gates if copies else 1)
        self.units = units
        self.state_size = (units,) * self.STATES + ((gates * units,) if dropped else ())
        self.activation = activation
        self.recurrent_activation = recurrent_activation
        self.copies = copies
        self.dropped = dropped
        self._show("kernel", (input_size, gates * units), dtype)
        self._show("recurrent_kernel", (units, gates * units), dtype)
        if use_bias:
            self._show("bias", self.bias_shape(), dtype)
        else:
            self.register_parameter("bias", None)

    def bias_shape(self) -> tuple[int, ...]:
        """``(gates * H,)`` unless the cell says otherwise."""
        return (self.GATES * self.units,)

    def _show(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """A parameter that has a shape, and one element in memory."""
        value = torch.zeros((), dtype=dtype, device="cpu").expand(shape)
        self.register_parameter(name, nn.Parameter(value))

    def examples(self) -> dict[str, Tensor]:
        """Weights to trace with; all elements differ, so that no two slices are taken for one."""
        return {
            name: torch.linspace(-0.5, 0.5, p.numel(), dtype=p.dtype, device="cpu")
            .reshape(p.shape)
            .requires_grad_()
            for name, p in self.named_parameters()
        }

    def from_input(self, x: Tensor) -> Tensor:
        """``x`` times the kernel, ``(B, gates * H)``."""
        return _by_gate(x, self.kernel, self.GATES) if self.copies else x @ self.kernel

    def from_state(self, h: Tensor, mask: States) -> Tensor:
        """``h``, with its dropout masks if any, times the recurrent kernel, ``(B, gates * H)``."""
        if not mask:
            return h @ self.recurrent_kernel
        return _by_gate(self.masked(h, mask[0]), self.recurrent_kernel, self.GATES)

    def masked(self, h: Tensor, mask: Tensor) -> Tensor:
        """``h`` once a gate, side by side, each with its own dropout mask."""
        return torch.cat([h] * self.GATES, -1) * mask.detach()

    def act(self, z: Tensor) -> Tensor:
        """The activation."""
        return z if self.activation is None else self.activation(z)

    def gate(self, z: Tensor) -> Tensor:
        """The recurrent activation."""
        return z if self.recurrent_activation is None else self.recurrent_activation(z)


def _by_gate(rows: Tensor, matrix: Tensor, gates: int) -> Tensor:
    """Each gate's own rows times its own columns of the matrix."""
    pairs = zip(rows.chunk(gates, -1), matrix.chunk(gates, -1), strict=True)
    return torch.cat([r @ m for r, m in pairs], -1)


class SimpleRNNStep(KerasStep):
    r""":math:`h' = a(x W + h U + b)`, Keras's ``SimpleRNNCell``."""

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        """One step."""
        h, *mask = state
        z = self.from_input(x) + self.from_state(h, tuple(mask))
        if self.bias is not None:
            z = z + self.bias
        h = self.act(z)
        return h, (h, *mask)


class LSTMStep(KerasStep):
    r"""Keras's ``LSTMCell``, gates in the order i, f, c, o.

    .. math::
        i, f, g, o &= x W + h U + b \\
        c' &= r(f) \odot c + r(i) \odot a(g) \\
        h' &= r(o) \odot a(c')
    """

    GATES = 4
    STATES = 2

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        """One step."""
        h, c, *mask = state
        z = self.from_input(x) + self.from_state(h, tuple(mask))
        if self.bias is not None:
            z = z + self.bias
        i, f, g, o = z.chunk(4, -1)
        c = self.gate(f) * c + self.gate(i) * self.act(g)
        h = self.gate(o) * self.act(c)
        return h, (h, c, *mask)


class GRUStep(KerasStep):
    r"""Keras's ``GRUCell`` with ``reset_after=True``, gates in the order z, r, h.

    .. math::
        x_z, x_r, x_n &= x W + b_0 \qquad h_z, h_r, h_n = h U + b_1 \\
        n &= a(x_n + s(x_r + h_r) \odot h_n) \\
        h' &= z \odot h + (1 - z) \odot n, \qquad z = s(x_z + h_z)
    """

    GATES = 3

    def bias_shape(self) -> tuple[int, ...]:
        """One for the input, one for the state."""
        return (2, 3 * self.units)

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        """One step."""
        h, *mask = state
        given, kept = self.from_input(x), self.from_state(h, tuple(mask))
        if self.bias is not None:
            given, kept = given + self.bias[0], kept + self.bias[1]
        xz, xr, xn = given.chunk(3, -1)
        hz, hr, hn = kept.chunk(3, -1)
        z, r = self.gate(xz + hz), self.gate(xr + hr)
        h = z * h + (1 - z) * self.act(xn + r * hn)
        return h, (h, *mask)


class ResetBeforeGRUStep(KerasStep):
    r"""Keras's ``GRUCell`` with ``reset_after=False``: :math:`n = a(x_n + (r \odot h) U_n)`."""

    GATES = 3

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        """One step."""
        h, *mask = state
        H = self.units
        given = self.from_input(x)
        if self.bias is not None:
            given = given + self.bias
        xz, xr, xn = given.chunk(3, -1)
        gates, new = self.recurrent_kernel[:, : 2 * H], self.recurrent_kernel[:, 2 * H :]
        if mask:
            masked = self.masked(h, mask[0])
            kept, reset = _by_gate(masked[:, : 2 * H], gates, 2), masked[:, 2 * H :]
        else:
            kept, reset = h @ gates, h
        hz, hr = kept.chunk(2, -1)
        z, r = self.gate(xz + hz), self.gate(xr + hr)
        h = z * h + (1 - z) * self.act(xn + (r * reset) @ new)
        return h, (h, *mask)
