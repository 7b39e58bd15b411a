"""The engine's tensors: their memory is used again, comes back, shows no old values."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading

import pytest
import torch

import ostinato.nn  # which hands over how tensors are made
from helpers import random_input
from ostinato import _native

BLOCK = 3 << 20  # bytes; more than a small tensor, less than two huge pages
LARGE = 128 << 10  # bytes from which a tensor lies on a block


def block(size: int = BLOCK) -> torch.Tensor:
    return _native.new_tensor((size // 4,), (), False)


@pytest.fixture(autouse=True)
def _collected() -> None:
    gc.collect()


def test_memory_is_used_again() -> None:
    first = block()
    at = first.data_ptr()
    assert at % 64 == 0
    before = _native.waiting_bytes()
    view = first[10:20]
    del first
    assert _native.waiting_bytes() == before  # a view needs it
    del view
    assert _native.waiting_bytes() == before + BLOCK
    again = block(BLOCK - 8)
    assert again.data_ptr() == at
    assert _native.waiting_bytes() == before
    smaller = block(BLOCK // 3)
    assert smaller.data_ptr() != at


def test_what_does_not_fit_is_freed_for_what_is_new() -> None:
    tensors = [block(BLOCK) for _ in range(20)]
    del tensors
    assert _native.waiting_bytes() >= 20 * BLOCK
    large = block(_native.waiting_bytes() + BLOCK)
    assert _native.waiting_bytes() == 0
    del large


def test_what_waits_has_a_limit() -> None:
    tensors = [block(100 << 20) for _ in range(4)]
    del tensors
    assert _native.waiting_bytes() <= 256 << 20


def test_blocks_are_given_back_by_any_thread() -> None:
    at = {block().data_ptr()}
    made = []
    thread = threading.Thread(target=lambda: made.append(block()))
    thread.start()
    thread.join()
    before = _native.waiting_bytes()
    freeing = threading.Thread(target=made.clear)
    freeing.start()
    freeing.join()
    assert _native.waiting_bytes() == before + BLOCK
    assert block().data_ptr() in at


@pytest.mark.parametrize("size", [4, 1000, 16 << 10, 20 << 10, LARGE - 4])
def test_small_memory_waits_for_its_size(size: int) -> None:
    small = block(size)
    at = small.data_ptr()
    assert at % 64 == 0
    before, large = _native.small_waiting_bytes(), _native.waiting_bytes()
    del small
    assert size <= _native.small_waiting_bytes() - before <= size + 512
    assert _native.waiting_bytes() == large
    other = block(size + 64)
    again = block(size)
    assert again.data_ptr() == at != other.data_ptr()


def test_from_a_size_on_it_is_a_block() -> None:
    large = block(LARGE)
    before = _native.waiting_bytes()
    del large
    assert before + LARGE <= _native.waiting_bytes() <= before + 2 * LARGE


def test_small_memory_that_waits_has_a_limit() -> None:
    tensors = [block(4 * k) for k in range(1, 4000)]
    del tensors
    assert 0 < _native.small_waiting_bytes() <= 4 << 20
    kept = [block(4000).fill_(k) for k in range(2000)]
    assert all((tensor == k).all() for k, tensor in enumerate(kept))


def test_no_memory_is_a_clear_error() -> None:
    with pytest.raises(
        MemoryError, match=r"no memory for 4000000000000000000 bytes, a tensor \(10, 100000"
    ):
        _native.new_tensor((10, 10**17), (), False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(70, 300, 900), (3, 2, 5), (0, 4, 5), (1, 1, 1)])
def test_shapes_and_strides(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    steps, _, width = shape
    is_double = dtype is torch.float64
    made = _native.new_tensor(shape, (width, steps * width, 1), is_double)
    assert made.shape == shape
    assert made.dtype is dtype
    assert made.transpose(0, 1).is_contiguous()
    assert _native.new_tensor(shape, (), is_double).stride() == torch.empty(shape).stride()
    made.fill_(3.0)
    assert made.sum() == 3.0 * made.numel()


def test_results_are_tensors_like_any_other() -> None:
    """Saved, copied, shared with another process, seen by NumPy; only room can't be added."""
    y, h = ostinato.nn.RNN(3, 4)(random_input(5, 2, 3).float())
    assert y.is_leaf is False
    y = y.detach()
    before = y.clone()
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    assert torch.equal(torch.load(file), before)
    assert torch.equal(copy.deepcopy(y), before)
    assert torch.equal(pickle.loads(pickle.dumps(y)), before)
    y.numpy()[0] += 1
    assert torch.equal(y[0], before[0] + 1)
    assert y.share_memory_().is_shared()
    assert torch.equal(y[1:], before[1:])
    with pytest.raises(RuntimeError, match="not resizable"):
        h.detach().resize_(9, 9)


def test_a_layer_on_used_memory() -> None:
    """Outputs and gradients on blocks are those of a small batch, whatever lay in the memory."""
    _native.set_testing(poison=False)  # the memory itself is dirty here
    layer = ostinato.nn.LSTM(2, 512)
    x = random_input(700, 24, 2).float()
    lengths = torch.arange(24) * 30
    few = random_input(700, 1, 2).float()
    few[:, 0] = x[:, 5]
    few.requires_grad_()
    x.requires_grad_()
    dirty = _native.new_tensor((700, 24, 512), (), False)
    at = dirty.fill_(float("nan")).data_ptr()
    del dirty
    y, _ = layer(x, lengths=lengths)
    assert y.data_ptr() == at
    alone, _ = layer(few, lengths=lengths[5:6])
    torch.testing.assert_close(y[:, 5], alone[:, 0])
    assert (y[150:, 5] == 0).all()
    (dx,) = torch.autograd.grad(y[:, 5].sum(), x)
    (expected,) = torch.autograd.grad(alone.sum(), few)
    torch.testing.assert_close(dx[:, 5], expected[:, 0])
    assert dx.isfinite().all()


@pytest.mark.parametrize("batch_first", [False, True])
def test_long_padding_is_zero(batch_first: bool) -> None:
    """More of it than a cache holds: the engine writes it past the cache."""
    layer = ostinato.nn.RNN(3, 129, batch_first=batch_first)
    lengths = torch.arange(40)[torch.randperm(40, generator=torch.Generator().manual_seed(1))] * 12
    x = random_input(*((40, 500, 3) if batch_first else (500, 40, 3))).float().requires_grad_()
    y, _ = layer(x, lengths=lengths)
    assert (500 * 40 - int(lengths.sum())) * 129 * 4 > 4 << 20
    (dx,) = torch.autograd.grad(y.sum(), x)
    beyond = torch.arange(500)[:, None] >= lengths
    for result in (y, dx):
        rows = result.transpose(0, 1) if batch_first else result
        assert (rows[beyond] == 0).all()
        assert (rows[~beyond] != 0).all()
