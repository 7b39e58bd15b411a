"""Every traced operation, forward and backward, against autograd in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ostinato.compiler.lower import MOVES
from ostinato.compiler.lower_features import FEATURES
from ostinato.compiler.lower_pointwise import POINTWISE
from ostinato.compiler.trace import trace
from tracing import WIDTH, FunctionCell, compare

B3 = (-1, 2, 3)  # (B, heads, features)


def _in_place(f):
    """A function that changes a fresh copy of h."""

    def function(c, x, h):
        fresh = h * 1.5
        f(fresh, x, c)
        return fresh

    return function


def _written(c, x, h):
    out = torch.zeros(x.size(0), WIDTH, dtype=x.dtype)
    out[:, :2] = h[:, 4:]
    out[:, 2:5] = x[:, :3] * c.s
    return out


def _gates(c, x, h):
    z = x @ c.W + h
    gates = dict(zip("abc", z.split([1, 2, 3], dim=-1), strict=True))
    return torch.cat([gates["c"], gates["a"].sigmoid(), gates["b"]], -1)


def _no_grad(c, x, h):
    with torch.no_grad():
        scale = h.abs().amax(-1, keepdim=True)
    return x * scale + h


def _aliases(c, x, h):
    z = h + x
    a, b = z[:, :3], z[:, 3:]
    a.mul_(0.5)
    b.add_(a).add_(1)
    return z * c.v


def _in_weights(c, x, h):
    w = torch.zeros(WIDTH, WIDTH, dtype=x.dtype)
    w[:3, :3] = c.blocks[0]
    w[3:, 3:] = c.blocks[1].exp()
    return h @ w


# name of the operation -> function (cell, x, h) -> (B, n)
OPERATIONS = {
    # arithmetic
    "add": lambda c, x, h: x + h + c.v + c.row + c.s + c.one + 1.5,
    "add-alpha": lambda c, x, h: torch.add(x, h, alpha=2) + torch.add(x, c.v, alpha=3),
    "sub": lambda c, x, h: x - torch.sub(h, c.s, alpha=0.5) - 1,
    "rsub": lambda c, x, h: 1 - x + torch.rsub(h, c.v, alpha=2),
    "mul": lambda c, x, h: x * h * c.v * c.s * 2,
    "div": lambda c, x, h: x / (h * h + 1) / c.v / 2 + 1 / (2 + x * x),
    "div-modes": lambda c, x, h: (
        x * torch.div(h, 0.5, rounding_mode="floor") + torch.div(h, 0.4, rounding_mode="trunc") * x
    ),
    "floor_divide": lambda c, x, h: x * (h.detach() // 0.25),
    "remainder": lambda c, x, h: torch.remainder(x, 0.5) + h % -2,
    "fmod": lambda c, x, h: torch.fmod(x, 0.25) * h,
    "lerp": lambda c, x, h: torch.lerp(x, h, 0.3) + torch.lerp(x, h, torch.sigmoid(c.v)),
    "lerp-statics": lambda c, x, h: torch.lerp(c.v, c.s.expand(WIDTH), x) * h,
    "addcmul": lambda c, x, h: torch.addcmul(x, h, c.v, value=0.3),
    "addcdiv": lambda c, x, h: torch.addcdiv(x, h, c.v, value=0.3),
    "neg": lambda c, x, h: -x + (h.neg()).neg(),
    "positive": lambda c, x, h: +x,
    "abs": lambda c, x, h: x.abs() + h,
    "sign": lambda c, x, h: x.sign() * h,
    "sgn": lambda c, x, h: torch.sgn(x) * h,
    "reciprocal": lambda c, x, h: (x * x + 1).reciprocal(),
    "square": lambda c, x, h: x.square() * h,
    "pow": lambda c, x, h: sum(
        torch.pow(x.abs() + 0.1, p) for p in (0, 1, 2, 3, 4, 0.5, -0.5, -1, -2, 1.7)
    ),
    "pow-base": lambda c, x, h: 2.0**x + torch.pow(0.3, h) + 2.0 ** torch.full_like(x, 3.0),
    "pow-tensors": lambda c, x, h: torch.pow(x.abs(), h) + torch.pow(c.v.abs(), h),
    "sqrt": lambda c, x, h: (x * x + 0.5).sqrt(),
    "rsqrt": lambda c, x, h: (x * x + 0.5).rsqrt(),
    "hypot": lambda c, x, h: torch.hypot(x, h),
    "floor": lambda c, x, h: x.floor() * h,
    "ceil": lambda c, x, h: x.ceil() * h,
    "trunc": lambda c, x, h: x.trunc() * h,
    "frac": lambda c, x, h: x.frac() * h,
    "round": lambda c, x, h: (x * 2).round() * h + torch.round(h, decimals=1),
    "round-ties": lambda c, x, h: (torch.floor(x) + 0.5).round() * h,
    # exponentials
    "exp": lambda c, x, h: x.exp() * c.s.exp(),
    "exp2": lambda c, x, h: x.exp2(),
    "expm1": lambda c, x, h: x.expm1(),
    "log": lambda c, x, h: (x.abs() + 0.1).log(),
    "log2": lambda c, x, h: (x.abs() + 0.1).log2(),
    "log10": lambda c, x, h: (x.abs() + 0.1).log10(),
    "log1p": lambda c, x, h: x.abs().log1p(),
    "logaddexp": lambda c, x, h: torch.logaddexp(x, h) + torch.logaddexp(x, x),
    "logit": lambda c, x, h: torch.logit(x.sigmoid()) + torch.logit(h.sigmoid(), eps=0.3),
    "xlogy": lambda c, x, h: (
        torch.xlogy(x, h.abs() + 1) + torch.xlogy(2, h.abs()) + torch.xlogy(x, 3.0)
    ),
    "sin": lambda c, x, h: x.sin(),
    "cos": lambda c, x, h: x.cos(),
    "tan": lambda c, x, h: (x * 0.3).tan(),
    "sinh": lambda c, x, h: x.sinh(),
    "cosh": lambda c, x, h: x.cosh(),
    "tanh": lambda c, x, h: x.tanh(),
    "sigmoid": lambda c, x, h: x.sigmoid(),
    "erf": lambda c, x, h: x.erf(),
    # activations
    "relu": lambda c, x, h: x.relu(),
    "relu6": lambda c, x, h: F.relu6(x * 4),
    "leaky_relu": lambda c, x, h: F.leaky_relu(x) + F.leaky_relu(h, 0.3),
    "rrelu_with_noise": lambda c, x, h: F.rrelu(x, training=False),
    "_prelu_kernel": lambda c, x, h: F.prelu(x, c.v) + F.prelu(h, c.one),
    "elu": lambda c, x, h: F.elu(x, 0.7) + F.elu(h * 100),
    "celu": lambda c, x, h: F.celu(x, 0.5) + F.celu(h),
    "selu": lambda c, x, h: F.selu(x),
    "gelu": lambda c, x, h: F.gelu(x) + F.gelu(h, approximate="tanh"),
    "silu": lambda c, x, h: F.silu(x),
    "mish": lambda c, x, h: F.mish(x),
    "softplus": lambda c, x, h: F.softplus(x) + F.softplus(h * 30, beta=2, threshold=3),
    "hardtanh": lambda c, x, h: F.hardtanh(x, -0.3, 0.5),
    "hardsigmoid": lambda c, x, h: F.hardsigmoid(x * 3),
    "hardswish": lambda c, x, h: F.hardswish(x * 3),
    "hardshrink": lambda c, x, h: F.hardshrink(x, 0.4),
    "softshrink": lambda c, x, h: F.softshrink(x, 0.4),
    "threshold": lambda c, x, h: F.threshold(x, 0.1, 20.0),
    "log_sigmoid": lambda c, x, h: F.logsigmoid(x * 30),
    "softsign": lambda c, x, h: F.softsign(x),
    "tanhshrink": lambda c, x, h: F.tanhshrink(x),
    "glu": lambda c, x, h: F.glu(x) + F.glu(h.view(B3).transpose(1, 2), 2).squeeze(-1),
    # choices
    "clamp": lambda c, x, h: x.clamp(-0.5, 0.5) + h.clip(min=0) + h.clamp(c.v, c.v + 1),
    "clamp_min": lambda c, x, h: torch.clamp_min(x, 0.1),
    "clamp_max": lambda c, x, h: torch.clamp_max(x, 0.1),
    "maximum": lambda c, x, h: torch.maximum(x, h) + torch.max(x, c.v),
    "minimum": lambda c, x, h: torch.minimum(x, h),
    "maximum-ties": lambda c, x, h: torch.maximum(x, x * 1) * h,
    "fmax": lambda c, x, h: torch.fmax(x, h),
    "fmin": lambda c, x, h: torch.fmin(x, h),
    "where": lambda c, x, h: torch.where(x > 0, h, 0.0) + torch.where(c.mask, x, c.v),
    "masked_fill": lambda c, x, h: x.masked_fill(h > 0, -2.0) + h.masked_fill(c.mask, 0.0),
    "copysign": lambda c, x, h: torch.copysign(x, h),
    "heaviside": lambda c, x, h: torch.heaviside(x.detach(), c.v.detach()) * h,
    "nan_to_num": lambda c, x, h: torch.nan_to_num(x, 0.0, 1.0, -1.0),
    "comparisons": lambda c, x, h: (x < h) * x + (x <= 0) * h + (x > c.v) * h + (x >= h) * 2.0,
    "eq": lambda c, x, h: (x == x) * h + (x != h).double() + (h.floor() == 0).to(x.dtype),
    "isnan": lambda c, x, h: torch.where(x.isnan() | x.isinf(), 0.0, x),
    "signbit": lambda c, x, h: torch.signbit(x) * h,
    "logical": lambda c, x, h: (
        (torch.logical_and(x > 0, h > 0) | torch.logical_or(x, h < 0)).double()
        + torch.logical_not(x > 1) * h
        + torch.logical_xor(x > 0, h > 0) * x
    ),
    "bitwise": lambda c, x, h: ((x > 0) & ~(h > 0)) * x + ((x > 0) ^ (h > 0)) * h,
    "masks": lambda c, x, h: (x > 0).float() * h / ((h > 0).sum(-1, keepdim=True) + 1),
    "counts": lambda c, x, h: (
        h * ((x > 0).sum(-1, keepdim=True) % 3).to(x.dtype)
        + x * torch.fmod((x > 0).int() * 7 - 3, 2).to(x.dtype)
        + ((x > 0).to(torch.uint8) * 200 + 55).to(x.dtype) * ((h > 0).sum(1, True) // 4)
    ),
    "bool-add": lambda c, x, h: ((x > 0) + (h > 0)).double() * x,
    # reductions
    "sum": lambda c, x, h: x.sum(-1, keepdim=True) * h + h.view(B3).sum(1).repeat(1, 2),
    "sum-first": lambda c, x, h: h.view(B3).sum(1),
    "sum-all": lambda c, x, h: x.view(B3).sum((1, 2)).unsqueeze(1) * h,
    "mean": lambda c, x, h: x - x.mean(dim=1, keepdim=True),
    "amax": lambda c, x, h: x.amax(-1, keepdim=True) + h,
    "amin": lambda c, x, h: x.view(B3).amin(1),
    "amax-ties": lambda c, x, h: torch.cat([x, x], 1).amax(-1, keepdim=True) * h,
    "max": lambda c, x, h: x.max(-1, keepdim=True).values + h.view(B3).max(1)[0].repeat(1, 2),
    "min": lambda c, x, h: x.min(-1, keepdim=True)[0] * h,
    "any": lambda c, x, h: (x > 1).any(-1, keepdim=True) * h,
    "all": lambda c, x, h: (x > -1).all(-1, keepdim=True) * h,
    "var": lambda c, x, h: x.var(-1, keepdim=True) + x.var(-1, correction=0, keepdim=True) * h,
    "std": lambda c, x, h: x.std(-1, keepdim=True) * h,
    "var_mean": lambda c, x, h: torch.cat(torch.var_mean(x, -1, keepdim=True), 1),
    "std_mean": lambda c, x, h: torch.cat(torch.std_mean(x, -1, keepdim=True), 1),
    "linalg_vector_norm": lambda c, x, h: torch.cat(
        [torch.linalg.vector_norm(x, p, -1, keepdim=True) for p in (2, 1, 3, 0)]
        + [torch.linalg.vector_norm(x, float(p), -1, keepdim=True) for p in ("inf", "-inf")],
        1,
    ),
    "norm": lambda c, x, h: F.normalize(x, dim=-1) + h.norm(dim=-1, keepdim=True),
    "norm-zero": lambda c, x, h: (x * 0).norm(dim=-1, keepdim=True) + h,
    "prod": lambda c, x, h: x.prod(-1, keepdim=True) * h + x.view(B3).prod(1).repeat(1, 2),
    "cumsum": lambda c, x, h: x.cumsum(-1) + h.view(B3).cumsum(1).flatten(1),
    "_softmax": lambda c, x, h: x.softmax(-1) + h.view(B3).softmax(1).reshape(-1, WIDTH),
    "_log_softmax": lambda c, x, h: x.log_softmax(-1) * h,
    "logsumexp": lambda c, x, h: torch.logsumexp(x, -1, keepdim=True) + h,
    "native_layer_norm": lambda c, x, h: (
        F.layer_norm(x, (WIDTH,), c.v, c.row[0])
        + F.layer_norm(h.view(B3), (3,), c.v[:3]).flatten(1)
        + F.layer_norm(h.view(B3), (2, 3)).flatten(1)
    ),
    "native_group_norm": lambda c, x, h: (
        F.group_norm(x, 2, c.v, c.v) + F.group_norm(h.view(B3), 2, c.v[:2]).flatten(1)
    ),
    "native_batch_norm": lambda c, x, h: F.batch_norm(x, c.v.detach(), c.v.abs().detach(), c.v),
    "rms_norm": lambda c, x, h: F.rms_norm(x, (WIDTH,), c.v),
    # products
    "mm": lambda c, x, h: x @ c.W + h @ c.W.T,
    "mm-left": lambda c, x, h: (c.W @ x.T).T + (c.W.T @ h.T).T,
    "mm-slice": lambda c, x, h: x[:, :3] @ c.W[1:4] + h @ c.W[:, 2:3],
    "mm-merged": lambda c, x, h: (x.view(-1, 3) @ c.blocks[0]).view(-1, WIDTH),
    "mv": lambda c, x, h: (x @ c.v).unsqueeze(1) * h,
    "addmm": lambda c, x, h: (
        torch.addmm(c.v, x, c.W, beta=0.5, alpha=2) + torch.addmm(h, x, c.W) + F.linear(x, c.W, c.v)
    ),
    "addmv": lambda c, x, h: torch.addmv(c.s, x, c.v, beta=0.5, alpha=2).unsqueeze(1) + h,
    "bmm": lambda c, x, h: (
        torch.bmm(x.view(B3).transpose(0, 1), c.blocks).transpose(0, 1).flatten(1)
    ),
    "baddbmm": lambda c, x, h: (
        torch.baddbmm(c.blocks[:, :1], x.view(B3).transpose(0, 1), c.blocks, beta=0.5)
        .transpose(0, 1)
        .flatten(1)
    ),
    "linear-3d": lambda c, x, h: F.linear(x.view(B3), c.blocks[0], c.v[:3]).flatten(1),
    "matmul-heads": lambda c, x, h: torch.matmul(x.view(-1, 2, 1, 3), c.blocks).flatten(1),
    "matmul-left": lambda c, x, h: torch.matmul(c.blocks, x.view(-1, 2, 3, 1)).flatten(1),
    "einsum": lambda c, x, h: torch.einsum("bi,ij->bj", x, c.W) + torch.einsum("bi,ji->bj", h, c.W),
    "einsum-heads": lambda c, x, h: torch.einsum("bhd,hde->bhe", x.view(B3), c.blocks).flatten(1),
    "einsum-rows": lambda c, x, h: torch.einsum("bi,bi->b", x, h).unsqueeze(1) * h,
    "outer": lambda c, x, h: torch.einsum("bi,bj->bij", x[:, :2], h[:, :3]).flatten(1),
    "attention": lambda c, x, h: (
        torch.softmax(x.view(-1, 2, 3) @ h.view(-1, 2, 3).mT, -1) @ h.view(-1, 2, 3)
    ).flatten(1),
    "bilinear-by-hand": lambda c, x, h: ((x @ c.W).view(B3) * h.view(B3)).sum(-1),
    # moves
    "cat": lambda c, x, h: torch.cat([x, h, c.row.expand(x.size(0), -1)], -1),
    "stack": lambda c, x, h: torch.stack([x, h], -1).flatten(1) + torch.stack([h, x], 1).flatten(1),
    "stack-front": lambda c, x, h: torch.stack([x, h]).sum(0),
    "flip": lambda c, x, h: x.flip(-1) * h,
    "roll": lambda c, x, h: x.roll(2, -1) * h,
    "rot90": lambda c, x, h: torch.rot90(h.view(B3), 1, (1, 2)).flatten(1) * x,
    "index": lambda c, x, h: x[:, [2, 0, 2]] + h[:, c.order][:, :3],
    "index-none": lambda c, x, h: (x[:, None] * h[:, :, None]).sum(-1),
    "index_select": lambda c, x, h: x.index_select(1, c.order) * h,
    "gather": lambda c, x, h: x.gather(1, c.order.expand(x.size(0), -1)) * h,
    "take_along_dim": lambda c, x, h: x.take_along_dim(c.order[None], 1) * h,
    "repeat": lambda c, x, h: x.repeat(1, 2) + h.repeat_interleave(2, -1),
    "constant_pad_nd": lambda c, x, h: F.pad(x, (1, 2)) + F.pad(h, (2, 1), value=3.0),
    "tril": lambda c, x, h: (h.view(B3).tril() + x.view(B3).triu(1)).flatten(1),
    "diagonal": lambda c, x, h: h.view(B3).diagonal(dim1=1, dim2=2) * x[:, :2],
    "diag_embed": lambda c, x, h: torch.diag_embed(x[:, :3]).flatten(1),
    "unfold": lambda c, x, h: x.unfold(1, 3, 1).sum(-1),
    "views": lambda c, x, h: (
        x.unsqueeze(1).expand(-1, 2, -1).permute(0, 2, 1).flatten(1)[:, ::2]
        + h.t().unbind(0)[1].unsqueeze(-1)
        + h.narrow(1, 2, 1)
        + h.select(1, 3)[:, None]
    ),
    "as_strided": lambda c, x, h: (x + 1).as_strided((x.size(0), 3), (WIDTH, 2), 1),
    "index_copy": lambda c, x, h: x.index_copy(1, c.order[:2], h[:, :2]),
    "scatter": lambda c, x, h: x.scatter(1, c.order[None, :2].expand(x.size(0), -1), h[:, :2]),
    "slice_scatter": lambda c, x, h: x.slice_scatter(h[:, :2], 1, 1, 3),
    "select_scatter": lambda c, x, h: x.select_scatter(h[:, 0], 1, 4),
    "diagonal_scatter": lambda c, x, h: (
        x.view(B3).diagonal_scatter(h[:, :2], dim1=1, dim2=2).flatten(1)
    ),
    "block_diag-free": lambda c, x, h: h @ torch.block_diag(*c.blocks),
    "pixel_shuffle": lambda c, x, h: F.pixel_shuffle(
        torch.cat([x, h], 1).view(-1, 4, 1, 3), 2
    ).flatten(1),
    "pixel_unshuffle": lambda c, x, h: F.pixel_unshuffle(
        torch.cat([x, h], 1).view(-1, 1, 2, 6), 2
    ).flatten(1),
    "channel_shuffle": lambda c, x, h: F.channel_shuffle(x.view(-1, 6, 1, 1), 2).flatten(1) * h,
    "clone": lambda c, x, h: x.clone() * h.contiguous(),
    # in place, on fresh tensors
    "add_": _in_place(lambda z, x, c: z.add_(x).mul_(c.v).tanh_()),
    "sub_": _in_place(lambda z, x, c: z.sub_(x, alpha=2).div_(2)),
    "fill_": _in_place(lambda z, x, c: z[:, :2].fill_(0.5)),
    "zero_": _in_place(lambda z, x, c: z[:, 3].zero_()),
    "copy_": _in_place(lambda z, x, c: z.copy_(x)),
    "clamp_": _in_place(lambda z, x, c: z.clamp_(-1, 1)),
    "iadd-slice": _in_place(lambda z, x, c: z[:, 1::2].add_(x[:, :3])),
    "set-list": _in_place(lambda z, x, c: z.__setitem__((slice(None), [0, 2]), x[:, :2])),
    "set-number": _in_place(lambda z, x, c: z.__setitem__((slice(None), [0, 2]), 0.25)),
    "set-transposed": _in_place(lambda z, x, c: z.t()[2].copy_(x[:, 0])),
    "masked_fill_": _in_place(lambda z, x, c: z.masked_fill_(c.mask, 0.5)),
    "out": _in_place(lambda z, x, c: torch.add(x.detach(), 1, out=z.detach().clone())),
    "aliases": _aliases,
    "written": _written,
    "gates": _gates,
    # constants and gradients
    "zeros_like": lambda c, x, h: torch.zeros_like(x) + torch.ones_like(h) * x,
    "new_zeros": lambda c, x, h: h.new_zeros(h.shape[0], 2).repeat(1, 3) + h.new_ones(1) * x,
    "full_like": lambda c, x, h: torch.full_like(x, 0.5) * h + x.new_full((WIDTH,), 2.0),
    "constants": lambda c, x, h: (
        x * torch.tensor(0.5, dtype=x.dtype)
        + torch.arange(WIDTH, dtype=x.dtype)
        + h @ torch.eye(WIDTH, dtype=x.dtype)
    ),
    "full-batch": lambda c, x, h: torch.full((x.size(0), WIDTH), 0.3, dtype=x.dtype) + x,
    "detach": lambda c, x, h: x.detach() * h + h.detach() * c.v.detach(),
    "detach_": lambda c, x, h: (x * 2).detach_() * h,
    "data": lambda c, x, h: h.data * x + c.v.data * h,
    "no_grad": _no_grad,
    # statics
    "weights": lambda c, x, h: x @ (c.W - c.W.T) + h @ torch.softmax(c.W, -1) * c.s.exp(),
    "matrix_exp": lambda c, x, h: h @ torch.matrix_exp(c.W - c.W.T),
    "weights-cat": lambda c, x, h: torch.cat([x, h], -1) @ torch.cat([c.W, c.W.T], 0),
    "weights-written": _in_weights,
    "expanded": lambda c, x, h: c.row.expand(x.size(0), -1) * x + c.v.repeat(h.size(0), 1),
    "expanded-map": lambda c, x, h: (c.row.expand(x.size(0), -1) @ c.W) * h,
    "heads": lambda c, x, h: (x.view(B3) * c.heads + c.blocks[:, 0]).flatten(1),
    "static-output": lambda c, x, h: c.row.expand(x.size(0), -1),
    "constant-output": lambda c, x, h: torch.zeros_like(x),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name):
    # PyTorch computes the gradient of hardsigmoid with 1/6 in float32.
    tolerance = 1e-7 if name == "hardsigmoid" else 1e-10
    compare(FunctionCell(OPERATIONS[name]), WIDTH, WIDTH, tolerance=tolerance)


def test_every_rule_is_tested():
    """Each line of the tables is reached by some operation above."""
    seen: set[str] = set()
    tables = (POINTWISE, FEATURES)
    originals = [dict(t) for t in tables]
    try:
        for table in tables:
            for key, rule in list(table.items()):
                table[key] = _noting(key, rule, seen)
        for function in OPERATIONS.values():
            trace(FunctionCell(function), WIDTH, WIDTH, torch.float64)
    finally:
        for table, original in zip(tables, originals, strict=True):
            table.update(original)
    assert sorted(set().union(*originals) - seen) == []


def _noting(key, rule, seen):
    def noted(*args):
        seen.add(key)
        return rule(*args)

    return noted


def test_moves_exist():
    for name in MOVES:
        assert hasattr(torch.ops.aten, name), name
