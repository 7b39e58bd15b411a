"""Ragged batches: every example once, little padding, the same for every number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ostinato.data import NO_TARGET, Batch, RaggedBatches
from ostinato.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

N = 1000


def tokens(count: int = N) -> list[NDArray[Any]]:
    random = np.random.default_rng(0)
    lengths = (random.lognormal(4, 0.7, count) + 1).astype(int)
    return [random.integers(1, 100, length) for length in lengths]


TOKENS = tokens()
LABELS = np.arange(N)


def whole(batches: RaggedBatches, number: int = 0, start: int = 0) -> list[Batch]:
    return list(batches.epoch(number, start))


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_each_example_comes_once_as_it_is() -> None:
    batches = RaggedBatches(TOKENS, LABELS, 64)
    found: list[int] = []
    for batch in whole(batches):
        assert batch.x.dtype == torch.int64
        assert batch.x.shape == (batch.lengths.max(), len(batch.rows))
        assert batch.target is not None
        assert torch.equal(batch.target, batch.rows)
        for b, row in enumerate(batch.rows.tolist()):
            length = int(batch.lengths[b])
            assert batch.x[:length, b].tolist() == TOKENS[row].tolist()
            assert not batch.x[length:, b].any()
        assert batch.steps == batch.lengths.sum()
        assert batch.terms == batch.all_terms == batch.batch_rows == len(batch.rows)
        assert batch.share.tolist() == list(range(len(batch.rows)))
        assert batch.fresh
        found += batch.rows.tolist()
    assert sorted(found) == list(range(N))


@pytest.mark.parametrize(("count", "size"), [(1, 64), (64, 64), (65, 64), (1000, 3), (70, 30)])
def test_batches_are_of_about_one_size(count: int, size: int) -> None:
    batches = RaggedBatches(TOKENS[:count], None, size)
    sizes = [batch.batch_rows for batch in whole(batches)]
    assert len(sizes) == len(batches) == -(-count // size)
    assert sum(sizes) == count
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_little_is_padded() -> None:
    many = tokens(20_000)
    cells = steps = 0
    for batch in whole(RaggedBatches(many, None, 32)):
        cells += batch.x.numel()
        steps += batch.steps
    assert cells / steps < 1.15
    # What the same rows cost in the order they come in.
    plain = sum(32 * max(map(len, many[i : i + 32])) for i in range(0, len(many), 32))
    assert plain / steps > 2.5


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    batches = RaggedBatches(TOKENS, LABELS, 32, seed=3)
    first = whole(batches, 1)
    assert all(map(same, first, whole(batches, 1)))
    assert all(map(same, first, whole(RaggedBatches(TOKENS, LABELS, 32, seed=3), 1)))
    for number, other in ((2, batches), (1, RaggedBatches(TOKENS, LABELS, 32, seed=4))):
        assert not any(map(same, first, whole(other, number)))
    assert all(map(same, first[7:], whole(batches, 1, 7)))
    assert whole(batches, 1, len(batches)) == []


def test_neighbours_change_from_epoch_to_epoch() -> None:
    """Rows of one length aren't always in one batch together."""
    batches = RaggedBatches([np.ones(5, int)] * N, None, 50)
    pairs = []
    for number in (0, 1):
        sets = [set(batch.rows.tolist()) for batch in whole(batches, number)]
        pairs.append({(a, b) for rows in sets for a in rows for b in rows if a < b})
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


def test_short_and_long_batches_are_mixed() -> None:
    lengths = [
        float(batch.lengths.float().mean()) for batch in whole(RaggedBatches(TOKENS, None, 10))
    ]
    assert abs(np.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.3


def test_without_shuffling() -> None:
    batches = RaggedBatches(TOKENS, LABELS, 64, shuffle=False)
    assert all(map(same, whole(batches, 0), whole(batches, 1)))
    rows = torch.cat([batch.rows for batch in whole(batches)])
    assert sorted(rows.tolist()) == list(range(N))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(world: int) -> None:
    targets = [np.where(one % 3 == 0, NO_TARGET, one) for one in TOKENS]
    one = whole(RaggedBatches(TOKENS, targets, 64, seed=5), 2)
    shares = [
        whole(RaggedBatches(TOKENS, targets, 64, seed=5, rank=rank, world=world), 2)
        for rank in range(world)
    ]
    for alone, parts in zip(one, zip(*shares, strict=True), strict=True):
        rows = torch.full((alone.batch_rows,), -1)
        for part in parts:
            rows[part.share] = part.rows
            assert part.batch_rows == alone.batch_rows
            assert part.all_terms == alone.terms
            for b, row in enumerate(part.rows.tolist()):
                assert part.x[: part.lengths[b], b].tolist() == TOKENS[row].tolist()
        assert torch.equal(rows, alone.rows)
        assert sum(part.terms for part in parts) == alone.terms
        assert sum(part.steps for part in parts) == alone.steps


def test_targets_per_step() -> None:
    inputs = [np.array([5, 6, 7]), np.array([8])]
    targets = [np.array([1, NO_TARGET, 2]), np.array([3])]
    [batch] = whole(RaggedBatches(inputs, targets, 2, shuffle=False))
    assert batch.target is not None
    assert batch.rows.tolist() == [1, 0]
    assert batch.x.T.tolist() == [[8, 0, 0], [5, 6, 7]]
    assert batch.target.T.tolist() == [[3, -100, -100], [1, -100, 2]]
    assert batch.target.dtype == torch.int64
    assert (batch.terms, batch.steps) == (3, 4)


def test_series_with_targets_of_any_shape() -> None:
    random = np.random.default_rng(1)
    inputs = [random.standard_normal((length, 3)) for length in (4, 2)]
    targets = random.standard_normal((2, 5, 3))
    [batch] = whole(RaggedBatches(inputs, targets, 2, shuffle=False))
    assert batch.x.shape == (4, 2, 3)
    assert batch.x.dtype == torch.float32
    assert batch.x.is_contiguous()
    assert torch.equal(batch.x[:, 1], torch.tensor(inputs[0], dtype=torch.float32))
    assert not batch.x[2:, 0].any()
    assert batch.target is not None
    assert batch.target.dtype == torch.float32
    assert torch.equal(batch.target[0], torch.tensor(targets[1], dtype=torch.float32))
    assert batch.terms == 2 * 5 * 3


def test_no_targets_and_to() -> None:
    [batch] = whole(RaggedBatches(TOKENS[:3], None, 4))
    assert (batch.target, batch.terms) == (None, 0)
    moved = batch.to("meta")
    assert moved.x.device.type == moved.lengths.device.type == "meta"
    assert moved.steps == batch.steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, 4), "no examples"),
        ((TOKENS, None, 0), "batch_size: expected 1 or more, got 0"),
        (([np.ones(2, int), np.ones(0, int)], None, 4), "input 1 has no steps"),
        (([np.ones(2, int), np.ones(2)], None, 4), r"input 1: .* got float64 \(2,\)"),
        (([np.ones((2, 3)), np.ones((2, 4))], None, 4), r"input 1: .*\(2, 4\) \(input 0 is"),
        (([np.ones((2, 3), int)], None, 4), r"input 0: expected integers \(T,\) or floats"),
        ((TOKENS, LABELS[1:], 4), "1000 inputs, but 999 targets"),
        (([np.ones(2, int)], [np.ones(3, int)], 4), r"target 0: expected integers \(2,\)"),
        (([np.ones(2, int)], [np.ones(2)], 4), r"target 0: .* got float64"),
    ],
)
def test_refusals(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RaggedBatches(*arguments)


def test_more_processes_than_rows() -> None:
    with pytest.raises(InputError, match="3 processes, but the smallest batch has 2 rows"):
        RaggedBatches(TOKENS[:5], None, 3, rank=0, world=3)
    with pytest.raises(InputError, match="got rank 2, world 2"):
        RaggedBatches(TOKENS, None, 3, rank=2, world=2)
